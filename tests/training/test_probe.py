"""Trials before a training: what they foretell comes true."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import settings

from inceptionv4.cli import plans
from inceptionv4.training import probe
from inceptionv4.training.probe import RateTest, find_learning_rate, make_plan


def small(textures: Path, output: Path) -> list[object]:
    return [
        *("--data", textures, "--output", output, "--image.size", 75, "--model.width", 0.1),
        *("--training.batch_size", 16, "--schedule.epochs", 2, "--training.precision", "fp32"),
    ]


def test_a_plan_comes_true(textures: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    planned = command("plan", *small(textures, tmp_path), "--seconds", 4, "--json")
    assert planned.code == 0, planned.err
    plan = json.loads(planned.out)
    assert list(tmp_path.iterdir()) == []
    ended = command("train", *small(textures, tmp_path), "--checkpoint.keep", 3)
    assert ended.code == 0
    run = Path(ended.out.strip())
    # Two epochs leave two states of the three that are planned for.
    files = sum(path.stat().st_size for path in run.glob("checkpoints/[bs]*.safetensors"))
    model = (run / "checkpoints/best.safetensors").stat().st_size
    assert plan["disk_bytes"] == pytest.approx((files - model) * 3 / 2 + model, rel=0.1)
    assert plan["batch_size"] == plan["part_size"] == 16
    assert plan["memory_bytes"] < plan["memory_total_bytes"]
    assert plan["largest_part"] > 16
    expected = 2 * 180 / plan["images_per_second"] / 3600
    assert plan["training_hours"] == pytest.approx(expected)
    # Both are images a second; on a machine that is shared, one of them may have been measured at a bad moment.
    assert plan["images_per_second"] <= 4 * plan["compute_images_per_second"]


def test_a_plan_in_words_says_what_to_do(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "total_memory", lambda device: 10_000_000_000)
    config = settings(textures, tmp_path)
    plan = make_plan(config, seconds=2.0)
    assert plan.memory_total_bytes == 10_000_000_000
    # Memory is linear in the images: what is left is filled to nine tenths.
    slope = (0.9 * plan.memory_total_bytes - plan.memory_bytes) / (plan.largest_part - plan.part_size)
    assert slope * plan.largest_part < 0.9 * plan.memory_total_bytes
    plans.show_plan(config, seconds=1.0, json=False)
    words = capsys.readouterr().out
    assert "of 10.0 GB" in words
    assert "accumulate" not in words
    monkeypatch.setattr(probe, "total_memory", lambda device: 0)
    plans.show_plan(config, seconds=1.0, json=False)
    words = capsys.readouterr().out
    assert "0 images would fit at once; take smaller images (--image.size)" in words
    assert "grow" not in words
    schedule = replace(config.schedule, first_size=75)
    plans.show_plan(replace(config, image=replace(config.image, size=107), schedule=schedule), seconds=1.0, json=False)
    assert "\nsize        images grow from 75 to 107 px\n" in capsys.readouterr().out


def test_the_rate_test_rises_and_suggests_a_tenth_of_the_best(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test = find_learning_rate(settings(textures, tmp_path), steps=30)
    ratios = [second / first for first, second in zip(test.rates, test.rates[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert test.rates[0] == 1e-6
    assert len(test.rates) > 15
    assert 1e-6 < test.suggestion < 0.1
    monkeypatch.setattr(plans, "find_learning_rate", lambda config: test)
    plans.show_rates(settings(textures, tmp_path))
    words = capsys.readouterr().out
    assert f"try a tenth: --optimizer.lr {test.suggestion:.2g} (now 0.001)" in words
    assert words.count("#") > 40
    assert RateTest([1.0, 2.0, 3.0], [3.0, 1.0, 2.0]).suggestion == 0.2


@pytest.mark.slow
def test_the_command_line_tries_sizes_and_rates(textures: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    sizes = command("train", *small(textures, tmp_path), "--find-batch-size")
    assert sizes.code == 0, sizes.err
    largest = int(sizes.out.split()[0])
    assert largest > 100
    assert "images of 75 px fit into the memory at once" in sizes.out
    assert list(tmp_path.iterdir()) == []
