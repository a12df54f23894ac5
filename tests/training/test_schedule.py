"""The learning rate, tabulated."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from inceptionv4.config import Config, OptimizerConfig, ScheduleConfig, TrainingConfig
from inceptionv4.errors import ConfigError
from inceptionv4.spec import Preprocessing
from inceptionv4.training.schedule import describe_growth, image_size, learning_rate, peak_rate


def config(**schedule: Any) -> Config:
    return Config(optimizer=OptimizerConfig(lr=0.4), schedule=ScheduleConfig(**schedule))


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


def torchs(scheduler: type, steps: int, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule = scheduler(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("settings", "scheduler", "options"),
    [
        ({"name": "cosine"}, lr_scheduler.CosineAnnealingLR, {"T_max": 40}),
        ({"name": "linear"}, lr_scheduler.LinearLR, {"start_factor": 1, "end_factor": 0, "total_iters": 40}),
        ({"name": "step"}, lr_scheduler.StepLR, {"step_size": 20, "gamma": 0.94}),
        (
            {"name": "step", "decay_epochs": 0.5, "decay_factor": 0.5},
            lr_scheduler.StepLR,
            {"step_size": 5, "gamma": 0.5},
        ),
        ({"name": "exponential"}, lr_scheduler.ExponentialLR, {"gamma": 0.94 ** (1 / 20)}),
        ({"name": "constant"}, lr_scheduler.ConstantLR, {"factor": 1}),
        (
            {"name": "one_cycle", "warmup_epochs": 1.2},
            lr_scheduler.OneCycleLR,
            # torch counts a warm-up of n steps as pct_start * total - 1, and ends on its last step.
            {"max_lr": 0.4, "total_steps": 41, "pct_start": 13 / 41},
        ),
    ],
    ids=lambda value: value.get("name", "") if isinstance(value, dict) else "",
)
def test_each_schedule_is_torchs(settings: dict[str, Any], scheduler: type, options: dict[str, Any]) -> None:
    ours = config(**{"epochs": 4, "warmup_epochs": 0, **settings})
    rates = [learning_rate(step, ours, 10) for step in range(40)]
    assert rates == pytest.approx(torchs(scheduler, 40, **options), rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "step", "exponential", "constant"])
def test_a_warm_up_rises_to_the_peak_before_any_schedule(name: str) -> None:
    ours = config(name=name, epochs=4, warmup_epochs=1)
    assert [learning_rate(step, ours, 10) for step in range(10)] == pytest.approx(
        [0.4 * step / 10 for step in range(1, 11)]
    )


def test_the_image_grows_in_strides_over_three_quarters() -> None:
    config = Config(image=Preprocessing(size=299), schedule=ScheduleConfig(epochs=8, first_size=160))
    assert [image_size(epoch, config) for epoch in range(8)] == [171, 203, 235, 235, 267, 299, 299, 299]
    for first, last in ((75, 100), (75, 75), (128, 448), (200, 331)):
        config = Config(image=Preprocessing(size=last), schedule=ScheduleConfig(epochs=30, first_size=first))
        sizes = [image_size(epoch, config) for epoch in range(30)]
        assert sizes == sorted(sizes)
        assert first <= sizes[0] < first + 32
        assert sizes[-7:] == [last] * 7
        assert all((last - size) % 32 == 0 for size in sizes)
    assert image_size(0, Config()) == 299
    with pytest.raises(ConfigError, match=r"schedule\.first_size must be at most image\.size, got 300 and 299"):
        Config(schedule=ScheduleConfig(first_size=300))


@pytest.mark.parametrize(
    ("last", "first", "epochs", "words"),
    [
        (299, 160, 300, "images grow from 171 to 299 px"),
        (299, 160, 8, "images grow from 171 to 299 px"),
        (299, 171, 8, "images grow from 171 to 299 px"),
        (299, 172, 8, "images grow from 203 to 299 px"),
        (299, 75, 2, "images grow from 75 to 235 px"),  # which has no last quarter
        (299, 160, 1, "images of 171 px, too few epochs to grow to 299"),
        (299, 280, 8, ""),  # less than a step
        (299, None, 8, ""),
    ],
)
def test_growth_is_said_as_it_is(last: int, first: int | None, epochs: int, words: str) -> None:
    schedule = ScheduleConfig(epochs=epochs, first_size=first, warmup_epochs=0)
    config = Config(image=Preprocessing(size=last), schedule=schedule)
    assert describe_growth(config) == words
    sizes = [image_size(epoch, config) for epoch in range(epochs)]
    assert words == "" or all(str(size) in words for size in {sizes[0], sizes[-1]})


def test_a_decay_too_fast_for_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decay_epochs must be >= 0\.001, got 4\.94066e-324"):
        ScheduleConfig(decay_epochs=5e-324)
    assert learning_rate(10**9, config(name="step", decay_epochs=1e-3, epochs=10**6), 1001) == 0


@pytest.mark.parametrize(("name", "expected"), [("sgd", 0.8), ("rmsprop", 0.8), ("adamw", 0.4)])
def test_the_rate_follows_the_batch(name: Any, expected: float) -> None:
    """Four times the batch: four times the rate, or twice."""
    optimizer = OptimizerConfig(name=name, lr=0.2, reference_batch=64)
    config = Config(
        optimizer=optimizer,
        training=TrainingConfig(batch_size=256),
        schedule=ScheduleConfig(name="constant", warmup_epochs=0),
    )
    assert peak_rate(config) == pytest.approx(expected)
    assert learning_rate(3, config, 10) == pytest.approx(expected)
    assert peak_rate(Config(optimizer=optimizer, training=TrainingConfig(batch_size=64))) == 0.2
    assert peak_rate(Config(optimizer=OptimizerConfig(lr=0.2), training=TrainingConfig(batch_size=640))) == 0.2
