"""Frozen stages do not move, the others do; a training without progress ends."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_resume import settings

from inceptionv4.config import AugmentConfig, ScheduleConfig
from inceptionv4.errors import ConfigError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.training import loop
from inceptionv4.training.loop import train
from inceptionv4.training.optimizer import STAGE_NAMES, frozen_stages
from inceptionv4.weights.checkpoint import load_checkpoint


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        (None, ()),
        ("stem", ("stem",)),
        ("stem..inception_a1", STAGE_NAMES[:2]),
        (f"{STAGE_NAMES[0]}..{STAGE_NAMES[-1]}", STAGE_NAMES),
    ],
)
def test_ranges_of_stages(text: str | None, stages: tuple[str, ...]) -> None:
    assert frozen_stages(text) == stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stam", "no stage with 'stam'; did you mean stem?"),
        ("stem..9", "no stage with '9'; there are stem, "),
        ("reduction_a..stem", "runs from the image to the classifier"),
    ],
)
def test_other_ranges_are_refused_before_anything_is_written(
    text: str, message: str, textures: Path, tmp_path: Path
) -> None:
    config = settings(textures, tmp_path)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        train(dataclasses.replace(config, training=dataclasses.replace(config.training, freeze=text)))
    assert not list(tmp_path.iterdir())


def test_frozen_stages_stay_bit_for_bit_and_the_others_learn(textures: Path, tmp_path: Path) -> None:
    config = settings(textures, tmp_path, schedule=ScheduleConfig(epochs=1, warmup_epochs=0))
    training = dataclasses.replace(config.training, freeze="stem..reduction_a")
    run = train(dataclasses.replace(config, training=training))
    torch.manual_seed(config.seed)
    start = InceptionV4(3, width=0.1).state_dict()
    end = load_checkpoint(run / "checkpoints/last.safetensors").model_weights()
    frozen = tuple(f"features.{stage}." for stage in frozen_stages("stem..reduction_a"))
    for name, value in end.items():
        if not value.is_floating_point():
            continue
        assert torch.equal(value, start[name]) == name.startswith(frozen), name
    slots = [name for name in load_checkpoint(run / "checkpoints/last.safetensors").weights if "/optimizer/" in name]
    assert slots
    assert not [name for name in slots if any(part in name for part in frozen)]


def test_a_training_that_gets_no_better_ends(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Measured top-1 of six epochs: the best is the second, and patience is two."""
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9, 0.9])
    original = loop.evaluate_backend
    monkeypatch.setattr(
        loop,
        "evaluate_backend",
        lambda *given, **options: dataclasses.replace(original(*given, **options), top1=next(scores), loss=1.0),
    )
    config = settings(textures, tmp_path, schedule=ScheduleConfig(epochs=6, warmup_epochs=0), augment=AugmentConfig())
    run = train(dataclasses.replace(config, training=dataclasses.replace(config.training, patience=2)))
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["epoch"] == 4
    assert load_checkpoint(run / "checkpoints/best.safetensors").training["epoch"] == 2
    assert "stopped after epoch 4: none was better since epoch 2" in capfd.readouterr().err
