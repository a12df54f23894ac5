"""A training with everything that is random, and whether two of them are the same."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from inceptionv4.config import AugmentConfig, Config, DataConfig, ModelConfig, ScheduleConfig, TrainingConfig
from inceptionv4.spec import Preprocessing
from inceptionv4.training.recorder import Recorder
from inceptionv4.weights.checkpoint import load_checkpoint


def settings(folder: Path, output: Path, **changes: Any) -> Config:
    """Everything that is random is on: views, light, mixing, dropout, order, balance."""
    return dataclasses.replace(
        Config(
            recipe="test",
            output=str(output),
            data=DataConfig(path=str(folder), workers=0, sampling="balanced"),
            image=Preprocessing(size=75, crop=1.0),
            augment=AugmentConfig(area=(0.3, 1.0), color=0.3, rotate=5, mixup=0.2, cutmix=1.0),
            model=ModelConfig(width=0.1, dropout=0.5),
            schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5),
            training=TrainingConfig(batch_size=16, ema_decay=0.9, precision="fp32"),
        ),
        **changes,
    )


def stop_after(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process send itself a signal when it has recorded a step."""
    original = Recorder.step

    def record(self: Recorder, line: Any) -> None:
        original(self, line)
        if line.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Recorder, "step", record)


def assert_same_run(one: Path, other: Path) -> int:
    """Two runs ended with the same bits, their log and results included; returns how many tensors were compared."""
    tensors = 0
    assert (one / "log.jsonl").read_bytes() == (other / "log.jsonl").read_bytes()
    for name in ("last", "best"):
        ours, theirs = (load_checkpoint(run / f"checkpoints/{name}.safetensors") for run in (one, other))
        assert ours.weights.keys() == theirs.weights.keys()
        for key, value in ours.weights.items():
            assert torch.equal(value, theirs.weights[key]), key
            tensors += 1
        for fact in ("position", "metrics", "epoch", "step", "average_steps"):
            assert ours.training.get(fact) == theirs.training.get(fact)
    timed = ("seconds", "images_per_second")
    tables = [list(csv.DictReader((run / "results.csv").read_text().splitlines())) for run in (one, other)]
    for row, same in zip(*tables, strict=True):
        assert {key: row[key] for key in row if key not in timed} == {key: same[key] for key in row if key not in timed}
    return tensors
