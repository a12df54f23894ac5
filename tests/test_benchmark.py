"""`inceptionv4 benchmark`: its figures are those of the work that it says it times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inceptionv4 import benchmark
from inceptionv4.benchmark import measure_loading, measure_prediction, measure_training
from inceptionv4.config import Config, load_config
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.settings import read_options
from inceptionv4.training.train_step import TrainStep

Command = Callable[..., Any]
SMALL = (
    *("--image.size", "75", "--model.width", "0.1"),
    *("--training.batch_size", "16", "--training.precision", "fp32", "--training.device", "cpu"),
)


def config(textures: Path, *rest: str) -> Config:
    return load_config(None, None, read_options(("--data.path", str(textures), *SMALL, *rest)))


def slowed(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, seconds: float) -> list[int]:
    """Let a method take at least `seconds`, and note each call."""
    calls: list[int] = []
    real = getattr(owner, name)

    def slow(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        end = time.perf_counter() + seconds
        result = real(*arguments, **options)
        time.sleep(max(end - time.perf_counter(), 0))
        return result

    monkeypatch.setattr(owner, name, slow)
    return calls


def test_a_training_is_timed_by_whole_steps(textures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = slowed(monkeypatch, TrainStep, "step", 1.0)
    speed = measure_training(config(textures), rounds=2)
    assert speed.batch_size == 16
    assert len(steps) == 1 + 1 + 2  # the first, one that is not counted, two that are
    assert speed.images_per_second.slowest <= speed.images_per_second.median <= speed.images_per_second.fastest
    assert speed.images_per_second.fastest <= 16 / 1.0
    assert speed.first_step_seconds >= 1.0
    assert speed.peak_memory_bytes > 100e6


def test_a_part_of_a_batch_is_timed_where_it_is_taken_in_parts(textures: Path) -> None:
    assert measure_training(config(textures, "--training.accumulate", "4"), rounds=1).batch_size == 4


def test_answers_are_timed_beside_the_model_alone(
    narrow_model: Path, textures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = slowed(monkeypatch, TorchBackend, "infer", 0.1)
    speed = measure_prediction(str(narrow_model), [str(textures / "val")], device="cpu", rounds=2)
    assert speed.batch_size == 16
    # One answer warms it up; then 45 images are repeated to four full batches.
    assert len(answers) >= 1 + (1 + 2) * 2 * benchmark.BATCHES
    assert speed.model_images_per_second.fastest <= 16 / 0.1
    assert speed.images_per_second.fastest <= 16 / 0.1
    assert 0.2 < speed.share_of_model < 1.5
    assert speed.runtime.startswith("PyTorch")


def test_a_loader_is_timed_without_a_network(textures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a loader needs no network")

    monkeypatch.setattr(TrainStep, "__init__", refuse)
    monkeypatch.setattr(benchmark, "LOADING_SECONDS", 0.2)
    start = time.perf_counter()
    speed = measure_loading(config(textures, "--data.workers", "2"), rounds=3)
    assert time.perf_counter() - start >= 4 * 0.2
    assert (speed.workers, speed.images, speed.batch_size) == (2, 180, 16)
    assert speed.images_per_second.slowest > 0


def test_commands_print_one_object_or_lines(
    textures: Path, narrow_model: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(benchmark, "LOADING_SECONDS", 0.1)
    for name, rest in (
        ("train", ["--data", textures, *SMALL]),
        ("loader", ["--data", textures, *SMALL]),
        ("predict", [narrow_model, textures / "val", "--device", "cpu"]),
    ):
        result = command("benchmark", name, *rest, "--rounds", 1, "--json")
        assert result.code == 0, result.err
        figures = json.loads(result.out)
        speed = figures["images_per_second"]
        assert speed["slowest"] == speed["median"] == speed["fastest"] > 0
        assert figures["rounds"] == 1
        assert figures["image_size"] == 75
    words = command("benchmark", "loader", "--data", textures, *SMALL, "--rounds", 1).out
    assert [line.split()[0] for line in words.splitlines()] == ["speed", "images", "workers", "batch"]
    assert "16 images of 75 px" in words


def test_what_cannot_be_timed_is_refused(command: Command, narrow_model: Path) -> None:
    assert command("benchmark", "predict", narrow_model).code == 2
    nowhere = command("benchmark", "predict", narrow_model, "nowhere.jpg")
    assert nowhere.code == 2
    assert "nowhere.jpg" in nowhere.err
    without_rounds = command("benchmark", "train", "--recipe", "digits", "--rounds", 0)
    assert without_rounds.code == 2
    assert "--rounds must be at least 1, got 0" in without_rounds.err
    without_data = command("benchmark", "loader", "--recipe", "finetune")
    assert without_data.code == 2
    assert "--data" in without_data.err
