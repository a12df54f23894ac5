"""Weights on a processor are answered by the fastest runtime that agrees with torch, once that pays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inceptionv4.artefact import Artefact
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.inference import fastest
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.inference.classifier import Classifier
from inceptionv4.inference.fastest import RIVALS, FastestBackend, Rival
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.weights.load import load_model

OPENVINO, ONNX = RIVALS


@pytest.fixture
def backend(narrow_model: Path) -> FastestBackend:
    backend = open_backend(narrow_model, device="cpu")
    assert isinstance(backend, FastestBackend)
    return backend


@pytest.fixture
def winner(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Decide which runtime is timed as the fastest, whatever this machine thinks."""

    def decide(name: str) -> None:
        def speed(infer: Any, images: Tensor) -> float:
            return 100.0 if name in str(infer) else 10.0

        monkeypatch.setattr(fastest, "_speed", speed)

    return decide


def pixels(count: int) -> Tensor:
    return torch.randint(256, (count, 3, 75, 75), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


def plain_logits(model: Path, images: Tensor) -> Tensor:
    with torch.no_grad():
        return load_model(model)[0].double()((images.double() / 255 - 0.5) / 0.5).float()


@pytest.mark.parametrize(
    ("name", "words"), [("OpenVino", "OpenVINO"), ("Onnx", "ONNX Runtime"), ("Fastest", "PyTorch")]
)
def test_the_fastest_goes_on_and_answers_alike(
    backend: FastestBackend, narrow_model: Path, winner: Any, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    winner(name)
    backend._untried = 40
    for count, by in ((16, "PyTorch"), (8, "PyTorch"), (16, words), (9, words)):
        answers = backend.infer(pixels(count))
        assert backend.describe().startswith(by)
        torch.testing.assert_close(answers, plain_logits(narrow_model, pixels(count)), rtol=0, atol=1e-4)
    assert [trial.runtime.split(",")[0] for trial in backend.trials] == ["PyTorch", "OpenVINO", "ONNX Runtime"]
    assert all(trial.images_per_second for trial in backend.trials)
    assert "fp32" in backend.describe()
    assert ("fewer than 8 at once by PyTorch" in backend.describe()) is (name != "Fastest")
    answered: list[int] = []
    if backend._chosen is not None:
        monkeypatch.setattr(backend._chosen, "run", lambda images: answered.append(len(images)) or np.zeros((9, 3)))
    backend.infer(pixels(9))
    assert backend.infer(pixels(5)).allclose(plain_logits(narrow_model, pixels(5)), atol=1e-4)
    assert answered == ([] if name == "Fastest" else [9]), "few at once stay torch's"
    # Features are torch's as before.
    assert backend.classify(backend.embed(pixels(3))).allclose(plain_logits(narrow_model, pixels(3)), atol=1e-4)


def test_a_graph_that_answers_differently_is_not_taken(
    backend: FastestBackend, narrow_model: Path, winner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One logit of one image is off by a hundredth of their spread."""
    winner("Wrong")

    class Wrong(GraphBackend):
        def __init__(self, graph: bytes, artefact: Artefact) -> None:
            super().__init__(artefact)
            self._right = ONNX.open(graph, artefact)

        def run(self, images: np.ndarray) -> np.ndarray:
            logits = self._right.infer(torch.from_numpy(images)).numpy()
            logits[0, 0] += 0.01 * (logits.max() - logits.min())
            return logits

        def describe(self) -> str:
            return "wrong"

    monkeypatch.setattr(fastest, "RIVALS", (replace(ONNX, open=Wrong),))
    backend.warm_up()
    assert backend.describe().startswith("PyTorch")
    wrong = backend.trials[1]
    assert (wrong.runtime, wrong.images_per_second) == ("wrong", None)
    assert "a logit differs by" in wrong.reason
    torch.testing.assert_close(backend.infer(pixels(4)), plain_logits(narrow_model, pixels(4)), rtol=0, atol=1e-4)


def test_a_runtime_that_fails_or_is_not_here_leaves_torch_alone(
    backend: FastestBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(graph: bytes, artefact: Artefact) -> GraphBackend:
        raise RuntimeError("no such instruction")

    absent = replace(ONNX, module="no_such_runtime")
    other_precision = replace(ONNX, precisions=("bf16",), open=fail)
    monkeypatch.setattr(fastest, "RIVALS", (replace(OPENVINO, open=fail), absent, other_precision))
    backend.warm_up()
    assert backend.describe().startswith("PyTorch")
    assert [(trial.runtime.split(",")[0], trial.reason) for trial in backend.trials] == [
        ("PyTorch", ""),
        ("openvino", "it failed: no such instruction"),
    ]


def test_a_graph_that_cannot_be_made_leaves_torch_alone(
    backend: FastestBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages that are here need not work."""

    def fail(self: FastestBackend) -> bytes:
        raise ImportError("cannot import name builder")

    monkeypatch.setattr(FastestBackend, "_write_graph", fail)
    backend._untried = 1
    assert backend.infer(pixels(16)).shape == (16, 3)
    assert {trial.reason for trial in backend.trials[1:]} == {"it failed: cannot import name builder"}
    assert len(backend.trials) == 3


def test_few_images_are_answered_by_torch_alone(backend: FastestBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> GraphBackend:
        raise AssertionError("tried")

    monkeypatch.setattr(fastest, "RIVALS", (Rival("onnx", "onnx", ("fp32",), refuse),))
    backend._untried = 33
    for _ in range(2):
        backend.infer(pixels(16))
    assert backend.trials == ()
    backend.infer(pixels(16))
    assert backend.trials[1].reason == "it failed: tried"


def test_evaluations_and_predictions_go_through_it_and_say_so(
    narrow_model: Path, textures: Path, command: Any, winner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evaluate(narrow_model, textures)
    few = command("predict", narrow_model, textures / "val", "--json")
    assert before.runtime.startswith("PyTorch")
    winner("OpenVino")
    monkeypatch.setattr(fastest, "TRIAL_AFTER", 16)
    result = command("evaluate", narrow_model, "--data", textures, "--json")
    measured = json.loads(result.out)
    assert measured["runtime"].startswith("OpenVINO, CPU, fp32")
    assert measured["loss"] == pytest.approx(before.metrics.loss, abs=1e-5)
    many = command("predict", narrow_model, textures / "val", "--json")
    assert "answered in the end by OpenVINO, CPU, fp32, 1 streams" in many.err
    for one, other in zip(few.out.splitlines(), many.out.splitlines(), strict=True):
        ours, theirs = json.loads(one), json.loads(other)
        assert ours["file"] == theirs["file"]
        for mine, its in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert its["probability"] == pytest.approx(mine["probability"], abs=1e-4)


def test_crops_of_images_are_tried_too(narrow_model: Path, textures: Path, winner: Any, monkeypatch: Any) -> None:
    """Twelve views of an image are less than a full batch."""
    winner("OpenVino")
    monkeypatch.setattr(fastest, "TRIAL_AFTER", 24)
    classifier = Classifier.load(narrow_model, device="cpu")
    folder = textures / "val/brick"
    views = classifier([folder], tta="crops12")
    assert classifier.backend.describe().startswith("OpenVINO")
    monkeypatch.setattr(fastest, "RIVALS", ())
    for one, other in zip(views, Classifier.load(narrow_model, device="cpu")([folder], tta="crops12"), strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_tried_in_a_benchmark(narrow_model: Path, textures: Path, command: Any, winner: Any) -> None:
    winner("Onnx")
    image = textures / "val/brick/000.jpg"
    speed = json.loads(command("benchmark", "predict", narrow_model, image, "--rounds", 1, "--json").out)
    assert speed["runtime"].startswith("ONNX Runtime")
    assert sorted(speed["tried"].values()) == [10.0, 10.0, 100.0]
    words = command("benchmark", "predict", narrow_model, image, "--rounds", 1).out
    assert "tried 3     ONNX Runtime, CPU, fp32: 100.0 img/s" in words


def test_features_come_while_another_runtime_answers(narrow_model: Path, textures: Path, winner: Any) -> None:
    winner("OpenVino")
    classifier = Classifier.load(narrow_model, device="cpu")
    image = textures / "val/brick/000.jpg"
    (before,) = classifier.predict([image], embed=True)
    classifier.backend.warm_up()
    (after,) = classifier.predict([image], embed=True)
    np.testing.assert_array_equal(before.embedding, after.embedding)
