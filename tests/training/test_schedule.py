"""The learning rate, tabulated."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from inceptionv4.config import Config, OptimizerConfig, ScheduleConfig
from inceptionv4.training.schedule import learning_rate


def config(**schedule: float) -> Config:
    return Config(optimizer=OptimizerConfig(lr=0.4), schedule=ScheduleConfig(**schedule))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.4 / 10),  # the first step moves
        (4, 0.2),
        (9, 0.4),  # the peak is reached with the last step of the warm-up
        (10, 0.4),
        (25, 0.04 + 0.36 * 0.5),  # half way down
        (40, 0.04 + 0.36 * 0.0),  # one past the end
    ],
)
def test_warm_up_and_cosine(step: int, expected: float) -> None:
    settings = config(epochs=4, warmup_epochs=1, final_factor=0.1)
    assert learning_rate(step, settings, steps_per_epoch=10) == pytest.approx(expected, rel=1e-12)


def test_without_warm_up_it_starts_at_the_peak_and_only_falls() -> None:
    rates = [learning_rate(step, config(epochs=3, warmup_epochs=0), 5) for step in range(15)]
    assert rates[0] == 0.4
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[-1] == pytest.approx(0.2 * (1 + math.cos(math.pi * 14 / 15)))


def test_a_fraction_of_an_epoch_warms_up() -> None:
    assert learning_rate(4, config(epochs=2, warmup_epochs=0.5), 10) == 0.4
