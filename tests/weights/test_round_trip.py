"""A model goes through every format that is written and comes back with equal answers, classes and preprocessing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inceptionv4.errors import CheckpointError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import read_model
from inceptionv4.weights.notes import read_notes, read_spec, read_training, write_notes
from inceptionv4.weights.write import FORMATS

PIXELS = Preprocessing(
    size=75, crop=0.8, interpolation="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), exif_orientation=False
)
DATA = {"location": "/data/photos", "fingerprint": "abc", "val_fraction": 0.2}
NAMES = {"inceptionv4": "m.safetensors", "timm": "m.safetensors", "mindspore": "m.ckpt", "huggingface": "m"}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A network of full width, with 1001 outputs."""
    torch.manual_seed(0)
    return InceptionV4(1001).state_dict()


def _checkpoint(weights: dict[str, torch.Tensor], classes: int) -> Checkpoint:
    head = {name: tensor[:classes] for name, tensor in weights.items() if name.startswith("classifier.")}
    names = tuple(f"Klasse ü{number}" for number in range(classes))
    return Checkpoint({**weights, **head}, ModelSpec(classes=names, preprocessing=PIXELS), {"data": DATA})


@pytest.mark.parametrize("classes", [3, 1001])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_comes_back_whole(
    weights: dict[str, torch.Tensor], tmp_path: Path, form: str, classes: int
) -> None:
    """The same tensors, bit by bit, give the same answers."""
    given = _checkpoint(weights, classes)
    path = tmp_path / NAMES[form]
    FORMATS[form](given, path)
    back, _ = read_model(path)
    assert replace(back.spec, origin="") == given.spec
    assert back.trained_on == DATA
    assert back.weights.keys() == given.weights.keys()
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in given.weights.items())


def test_predictions_are_the_same_before_and_after(
    weights: dict[str, torch.Tensor], tmp_path: Path, command: Callable[..., Any]
) -> None:
    save_checkpoint(_checkpoint(weights, 3), tmp_path / "model.safetensors")
    answers = []
    for output in ("model.safetensors", "m.ckpt", "m"):
        if output != "model.safetensors":
            result = command("convert", tmp_path / "model.safetensors", tmp_path / output)
            assert result.code == 0, result.err
            assert "3 classes (Klasse ü0, Klasse ü1, Klasse ü2), 75 px, crop 0.8" in result.out
        result = command("predict", tmp_path / output, "examples/seven.png", "--json")
        assert result.code == 0, result.err
        answers.append(json.loads(result.out))
    assert answers[0] == answers[1] == answers[2]


def test_a_ckpt_without_its_notes_is_read_as_anybodys_and_says_so(
    weights: dict[str, torch.Tensor], tmp_path: Path, command: Callable[..., Any]
) -> None:
    path = tmp_path / "m.ckpt"
    FORMATS["mindspore"](_checkpoint(weights, 1001), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.ckpt", "m.ckpt.json"]
    path.with_name("m.ckpt.json").unlink()
    back, report = read_model(path)
    assert len(back.spec.classes) == 1000  # as TF-slim's and Cadene's: the first of 1001 is the background's
    assert report is not None
    assert "the background's class is dropped" in str(report)
    result = command("predict", path, "examples/seven.png", "--json")
    assert result.code == 0, result.err
    for words in (
        f"{path}: assumed is the preprocessing of MindCV's published weights, as the file does not say",
        back.spec.preprocessing.describe(),
        "The background's class is dropped",
        "`inceptionv4 convert` writes a model that says its own",
    ):
        assert words in result.err


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A file, its content of no account, and notes beside it."""
    path = tmp_path / "m.ckpt"
    path.write_bytes(b"arrays")
    write_notes(path, Checkpoint({}, ModelSpec(classes=("a", "b"), preprocessing=PIXELS), {"data": DATA}))
    return path


def test_notes_belong_to_one_file_under_any_name(pair: Path, tmp_path: Path) -> None:
    notes = read_notes(pair)
    spec = read_spec(pair, notes)
    assert spec is not None
    assert spec.preprocessing == PIXELS
    assert read_training(pair, notes) == {"data": DATA}
    shutil.copy(pair, tmp_path / "other.ckpt")
    shutil.copy(pair.with_name("m.ckpt.json"), tmp_path / "other.ckpt.json")
    assert read_notes(tmp_path / "other.ckpt") == notes
    pair.write_bytes(b"others")
    with pytest.raises(CheckpointError, match=r"m\.ckpt\.json describes another m\.ckpt"):
        read_notes(pair)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{"])
def test_damaged_notes_are_refused(pair: Path, content: bytes) -> None:
    pair.with_name("m.ckpt.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.ckpt\.json cannot be read"):
        read_notes(pair)


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"epoch": 3}'])
def test_a_json_of_another_program_says_nothing(pair: Path, content: bytes) -> None:
    pair.with_name("m.ckpt.json").write_bytes(content)
    assert read_notes(pair) == {}
