"""Twenty steps, written down: a change of order, views, light, mixing, weights, loss or rate shows."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from inceptionv4.config import Config, load_config
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.settings import Given
from inceptionv4.training.schedule import learning_rate
from inceptionv4.training.train_step import TrainStep

FILE = Path(__file__).with_name("golden.txt")
STEPS = 20


def config() -> Config:
    changes = {
        "model.width": 0.1,
        "training.precision": "fp32",
        "training.batch_size": 16,
        "training.accumulate": 2,
        "augment.color": 0.3,
        "augment.mixup": 0.2,
        "augment.cutmix": 1.0,
        # Of an optimizer that divides by the gradient's size, a difference in rounding grows tenfold every few steps.
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.0,
        "optimizer.lr": 3e-4,
    }
    return load_config("digits", overrides={key: Given(value, "a test") for key, value in changes.items()})


def run() -> list[tuple[float, float, float]]:
    """Loss, norm of the gradient and learning rate of each step."""
    settings = config()
    samples = read_dataset("digits").train
    torch.manual_seed(settings.seed)
    network = InceptionV4(len(samples.classes), width=settings.model.width, dropout=settings.model.dropout)
    train_step = TrainStep(network, settings, samples, select_device("cpu", "fp32"))
    loader = TrainingLoader(samples, settings, workers=0)
    figures = []
    for number, batch in zip(range(STEPS), loader.epoch(0), strict=False):
        lr = learning_rate(number, settings, len(loader))
        step = train_step.step(batch, number, lr)
        assert step is not None
        figures.append((step.loss, step.gradient_norm, lr))
    return figures


@pytest.mark.isa
def test_twenty_steps_are_those_that_were_written_down() -> None:
    """Not to the last bit, which is the processor's; the same processor's are equal (test_loop.py, test_resume.py).

    On a CPU: accelerators draw other neurons to drop.
    """
    golden = [tuple(map(float, line.split())) for line in FILE.read_text().splitlines()]
    assert len(golden) == STEPS
    figures = run()
    for (loss, _, lr), (golden_loss, _, golden_lr) in zip(figures, golden, strict=True):
        assert loss == pytest.approx(golden_loss, rel=1e-3)
        assert lr == pytest.approx(golden_lr, rel=1e-5)
    assert figures[0][1] == pytest.approx(golden[0][1], rel=1e-2)


def test_another_seed_is_not_what_was_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail."""
    other = dataclasses.replace(config(), seed=1)
    monkeypatch.setattr(sys.modules[__name__], "config", lambda: other)
    golden = [float(line.split()[0]) for line in FILE.read_text().splitlines()]
    differences = [abs(loss / wanted - 1) for (loss, _, _), wanted in zip(run(), golden, strict=True)]
    assert sum(difference > 1e-3 for difference in differences) > STEPS / 2


if __name__ == "__main__":  # writes them down: only where they are meant to change
    torch.set_num_threads(1)
    FILE.write_text("".join(f"{loss:.6f} {norm:.5f} {lr:.6e}\n" for loss, norm, lr in run()))
