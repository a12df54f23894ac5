"""The README's own commands, on photographs that are not digits, smaller only in what it costs."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from inceptionv4.config import Config, recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = "--image.size 75 --image.crop 1 --model.width 0.25 --schedule.epochs 5"
SMALLER += " --training.batch-size 12 --training.precision fp32"


def block(language: str, containing: str) -> str:
    found = [body for body in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in body]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def run(command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Run a line in the folder, as far as its #; what it prints."""

    def run_line(line: str) -> str:
        arguments = shlex.split(line, comments=True)
        assert arguments[0] == "inceptionv4"
        result = command(*arguments[1:])
        assert result.code == 0, result.err
        return str(result.out)

    monkeypatch.chdir(folder)
    return run_line


@pytest.fixture(scope="module")
def folder(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a folder `photos` that has no val folder."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(textures / "train", folder / "photos")
    return folder


def test_train_evaluate_and_predict_on_a_folder_of_photographs(run: Callable[[str], str]) -> None:
    inspect, doctor, pack = block("sh", "data inspect").strip().splitlines()
    assert "180: 144 to train on, 36 held out" in run(inspect)
    assert "144 images to train on, 36 held out" in run(doctor)
    assert "180 images in 2 shards" in run(pack)
    train, evaluate, predict = block("sh", "photos/grass").strip().splitlines()
    assert run(f"{train} {SMALLER}") == "runs/finetune/1\n"
    metrics = json.loads(run(f"{evaluate} --json"))
    assert metrics["images"] == 36
    assert metrics["top1"] >= 0.9
    rows = [line.split() for line in run(predict).splitlines()[1:]]
    assert len(rows) == 60
    assert sum(row[1] == "grass" for row in rows) >= 50


def test_the_other_commands_are_commands(run: Callable[[str], str]) -> None:
    lines = [line for line in block("sh", "--schedule.epochs 50").strip().splitlines() if "runs/" not in line]
    printed = [yaml.safe_load(run(f"{line} --print-config")) for line in lines]
    assert any(settings["schedule"]["epochs"] == 50 for settings in printed)
    again = run("inceptionv4 train --config runs/finetune/1/config.yaml --print-config")
    assert yaml.safe_load(again)["recipe"] == "finetune"


def test_a_plan_and_the_lines_beside_it(run: Callable[[str], str]) -> None:
    plan, rate, torchrun = block("sh", "inceptionv4 plan").strip().splitlines()
    planned = run(f"{plan.partition('#')[0]} {SMALLER} --seconds 1")
    assert [line.split()[0] for line in planned.splitlines()] == [
        *("device", "batch", "memory", "loader", "network", "together", "training", "evaluation", "disk")
    ]
    run(f"{rate.partition('#')[0]} {SMALLER} --print-config")
    launcher = "torchrun --nproc-per-node 8 -m "
    assert torchrun.startswith(launcher)
    run(f"{torchrun.removeprefix(launcher)} --print-config")


def test_the_python_lines(folder: Path, run: Callable[[str], str]) -> None:
    code = block("python", "Classifier.load").replace("runs/digits", "runs/finetune")
    code = code.replace("examples/seven.png", "photos/brick/000.jpg")
    output = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    file, label, probability = output.split()
    said = json.loads(run("inceptionv4 predict runs/finetune photos/brick/000.jpg --json"))
    assert file == said["file"] == "photos/brick/000.jpg"
    assert {"class": label, "probability": pytest.approx(float(probability), abs=1e-5)} == said["predictions"][0]


def test_a_model_for_other_code(folder: Path) -> None:
    code = block("python", "create_model").replace("runs/digits", "runs/finetune").replace("=3", "=7")
    code += "print(model.classifier.out_features)\n"
    output = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[0].startswith("75 px, crop 1, bicubic")
    assert output.splitlines()[1] == "7"


def test_an_export_is_evaluated_as_any_model(run: Callable[[str], str]) -> None:
    lines = block("sh", "inceptionv4 doctor").strip().splitlines()
    export, _, evaluate, doctor = lines
    assert "inceptionv4.onnx: onnx, fp32" in run(export)
    assert "(36 images)" in run(evaluate)
    assert "onnxruntime" in run(doctor)


def test_every_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"\]\(([^)#]+)\)", README):
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path


def test_every_test_that_the_reliability_page_names_is_there() -> None:
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 80
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
    assert page.count("`tests/") - page.count("`tests/data/test_sources.py` ") == len(named)
    headings = re.findall(r"^## (\d+)\. (.*)$", page, re.MULTILINE)
    links = [
        f"| [{number}](#{number}-{title.lower().replace(',', '').replace(' ', '-')}) |" for number, title in headings
    ]
    assert [link for link in links if link not in page] == []


def test_every_command_of_the_data_page_is_one(command: Callable[..., Any]) -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    lines = [line for body in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in body.strip().splitlines()]
    assert len(lines) == 11
    for line in lines:
        arguments = shlex.split(line, comments=True)
        result = command(*arguments[1:], "--print-config")
        assert result.code == 0, line
        assert f"path: {arguments[3]}" in result.out.replace("'", ""), line


def test_every_training_of_the_storage_page_is_one(command: Callable[..., Any]) -> None:
    page = (ROOT / "docs/storage.md").read_text(encoding="utf-8")
    lines = [line for body in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in body.strip().splitlines()]
    trainings = [line for line in lines if "train --data" in line]
    assert len(trainings) == 2
    for line in trainings:
        result = command(*shlex.split(line)[1:], "--print-config")
        assert result.code == 0, result.err
        assert "path: s3://bucket/shards" in result.out.replace("'", "")


def test_the_training_page_explains_each_knob() -> None:
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    for section in dataclasses.fields(Config):
        if section.name in ("model", "optimizer", "schedule", "loss", "training", "checkpoint", "augment"):
            for field in dataclasses.fields(section.default):
                assert f"`{section.name}.{field.name}`" in page or f"`{field.name}`" in page, (section.name, field.name)
    for recipe in recipes():
        assert f"| `{recipe}` |" in page
