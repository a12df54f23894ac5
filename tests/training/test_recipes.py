"""Every recipe trains: its own parts, on a narrow network, few small images and one or two epochs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from inceptionv4.config import load_config, recipes
from inceptionv4.training.loop import train
from inceptionv4.training.schedule import peak_rate
from inceptionv4.weights.checkpoint import load_checkpoint


@pytest.mark.parametrize("recipe", recipes())
def test_a_small_variant_of_each_recipe_trains(recipe: str, textures: Path, tmp_path: Path) -> None:
    whole = load_config(recipe)
    grows = whole.schedule.first_size is not None
    size = 107 if grows else 75
    small = dataclasses.replace(
        whole,
        output=str(tmp_path),
        data=dataclasses.replace(whole.data, path=str(textures)),
        image=dataclasses.replace(whole.image, size=size, crop=1.0),
        model=dataclasses.replace(whole.model, width=0.1),
        schedule=dataclasses.replace(
            whole.schedule,
            epochs=2,
            warmup_epochs=min(whole.schedule.warmup_epochs, 1),
            first_size=75 if grows else None,
        ),
        training=dataclasses.replace(
            whole.training,
            batch_size=min(whole.training.batch_size, 30),
            accumulate=min(whole.training.accumulate, 2),
            device="cpu",
        ),
    )
    run = train(small)
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(steps) == 2 * (180 // small.training.batch_size)
    assert all(math.isfinite(step["loss"]) and step["gradient_norm"] > 0 for step in steps)
    assert max(step["learning_rate"] for step in steps) == pytest.approx(peak_rate(small))
    last = load_checkpoint(run / "checkpoints/last.safetensors")
    assert last.training["config"]["recipe"] == recipe
    assert last.training["metrics"]["images"] == 45
