"""An answer that is NaN or infinite is an error, wherever a model answers; it names the image and the model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inceptionv4.errors import AnswerError
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.export.verify import Exporter, compute_reference_outputs
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.classifier import Classifier
from inceptionv4.weights.checkpoint import load_checkpoint, save_checkpoint
from inceptionv4.weights.load import load_model

Command = Callable[..., Any]
BAD = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf}


@pytest.fixture(params=BAD)
def spoiled(request: pytest.FixtureRequest, narrow_model: Path, tmp_path: Path) -> Path:
    """A sound file in which one number of the classifier is none: one logit of every image is not finite."""
    checkpoint = load_checkpoint(narrow_model)
    bias = checkpoint.weights["classifier.bias"].clone()
    bias[1] = BAD[request.param]
    path = tmp_path / "spoiled.safetensors"
    save_checkpoint(replace(checkpoint, weights={**checkpoint.weights, "classifier.bias": bias}), path)
    return path


@pytest.fixture
def one_black(textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photographs a class, of which one is black; a network that answers NaN to black, in logits and features."""
    for name in ("brick", "grass", "gravel"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            shutil.copy(textures / f"val/{name}/{number:03}.jpg", tmp_path / "images" / name)
    Image.new("RGB", (100, 100)).save(tmp_path / "images/grass/000.jpg")
    original = TorchBackend._prepared

    def prepared(self: TorchBackend, images: Tensor, answer: Any) -> Tensor:
        answers = original(self, images, answer)
        answers[images.flatten(1).amax(1) == 0, 0] = math.nan
        return answers

    monkeypatch.setattr(TorchBackend, "_prepared", prepared)
    return tmp_path / "images"


@pytest.mark.parametrize("options", [(), ("--json",), ("--csv",), ("--tta", "flip")], ids=" ".join)
def test_predict_prints_what_came_before_and_fails(
    command: Command, narrow_model: Path, one_black: Path, options: tuple[str, ...]
) -> None:
    result = command("predict", narrow_model, one_black, "--top", "1", *options)
    bad = one_black / "grass/000.jpg"
    assert result.code == 1
    assert f"error: {bad}: the answer of {narrow_model}, by PyTorch, " in result.err
    assert "is not finite (NaN or infinity); its weights are damaged" in result.err
    assert "Traceback" not in result.err
    assert "nan" not in result.out.lower()
    shown = [line for line in result.out.splitlines() if ".jpg" in line]
    assert len(shown) == 2, "the two of brick, which come before"
    assert all(str(one_black / "brick") in line for line in shown)


def test_embeddings_of_no_numbers_are_not_written(
    command: Command, narrow_model: Path, one_black: Path, tmp_path: Path
) -> None:
    result = command("predict", narrow_model, one_black, "--embeddings", tmp_path / "a.npy")
    assert (result.code, f"error: {one_black}/grass/000.jpg: the answer of" in result.err) == (1, True)
    assert not (tmp_path / "a.npy").exists()


@pytest.mark.parametrize("tta", [None, "flip"])
def test_evaluate_names_the_image(command: Command, narrow_model: Path, one_black: Path, tta: str | None) -> None:
    options = [] if tta is None else ["--tta", tta]
    result = command("evaluate", narrow_model, "--data", one_black, "--json", *options)
    assert (result.code, result.out) == (1, "")
    assert f"error: {one_black}/grass/000.jpg: the answer of {narrow_model}, by PyTorch, " in result.err


def test_every_kind_of_bad_number_is_refused_in_python_too(spoiled: Path, textures: Path) -> None:
    classifier, image = Classifier.load(spoiled), textures / "val/brick/000.jpg"
    with pytest.raises(AnswerError, match=rf"{image}: the answer of {spoiled}, by PyTorch, .* is not finite"):
        classifier(image)
    with pytest.raises(AnswerError, match="image 1: the answer"):
        classifier.probabilities(torch.zeros(2, 3, 75, 75, dtype=torch.uint8))
    with pytest.raises(AnswerError, match=rf"val/brick/000\.jpg: the answer of {spoiled}"):
        evaluate(spoiled, textures)
    network, checkpoint = load_model(spoiled)
    with pytest.raises(AnswerError, match=r"val/brick/000\.jpg: the answer of a test"):
        compute_reference_outputs(network, replace(checkpoint, training={"data": {"location": str(textures)}}))


def test_a_benchmark_refuses_it(command: Command, spoiled: Path, textures: Path) -> None:
    result = command("benchmark", "predict", spoiled, textures / "val/brick/000.jpg", "--rounds", 1, "--json")
    assert (result.code, result.out) == (1, "")
    assert f"000.jpg: the answer of {spoiled}" in result.err


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_an_exported_file_is_refused_alike(
    command: Command, narrow_model: Path, textures: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose graph answers NaN, which the gate would not keep."""
    path = tmp_path / f"a.{'xml' if form == 'openvino' else form}"
    network, checkpoint = load_model(narrow_model)
    with torch.no_grad():
        network.classifier.bias[0] = math.nan
    save_checkpoint(replace(checkpoint, weights=network.state_dict()), tmp_path / "spoiled.safetensors")

    def save(self: Exporter, metadata: ExportMetadata, made: Path, _: object) -> ExportMetadata:
        self.save(metadata, made)
        return metadata

    with monkeypatch.context() as patched:
        patched.setattr(Exporter, "write_and_verify", save)
        patched.setattr(TorchBackend, "require_finite", lambda *_: None)
        assert command("export", tmp_path / "spoiled.safetensors", "--format", form, "--output", path).code == 0
    image = textures / "val/brick/000.jpg"
    result = command("predict", path, image, "--json")
    assert (result.code, result.out) == (1, "")
    assert f"error: {image}: the answer of {path}, by " in result.err


def test_huge_but_finite_logits_have_a_finite_loss(narrow_model: Path, textures: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(narrow_model)
    bias = torch.tensor([3e38, 0.0, -3e38])
    path = tmp_path / "huge.safetensors"
    save_checkpoint(replace(checkpoint, weights={**checkpoint.weights, "classifier.bias": bias}), path)
    loss = evaluate(path, textures).metrics.loss
    assert loss == pytest.approx(np.mean([0.0, 3e38, 6e38]), rel=1e-6)  # 15 images of each class
    json.dumps(loss, allow_nan=False)
