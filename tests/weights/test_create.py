"""Networks made by one call: with weights of anywhere, with another classifier, by torch.hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import inceptionv4
from inceptionv4 import create_model
from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import load_model

ROOT = Path(__file__).parents[2]
IMAGES = torch.rand(2, 3, 75, 75, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_without_weights_it_is_drawn_by_chance() -> None:
    torch.manual_seed(1)
    model = create_model(num_classes=7, width=0.1)
    torch.manual_seed(1)
    again = create_model(num_classes=7, width=0.1)
    assert isinstance(model, inceptionv4.InceptionV4)
    assert not model.training
    assert model.spec.classes == tuple("0123456")
    with torch.no_grad():
        assert model(IMAGES).shape == (2, 7)
        assert torch.equal(model(IMAGES), again(IMAGES))


def test_the_defaults_are_the_papers_network() -> None:
    with torch.device("meta"):
        model = create_model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 42_679_816
    assert len(model.spec.classes) == 1000


def test_with_weights_it_answers_as_they_do(narrow_model: Path, narrow_spec: ModelSpec) -> None:
    model = create_model(narrow_model)
    assert model.spec == narrow_spec
    expected, _ = load_model(narrow_model)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), expected(IMAGES))


def test_another_number_of_classes_is_another_classifier(narrow_model: Path, narrow_spec: ModelSpec) -> None:
    model = create_model(narrow_model, num_classes=5)
    expected, _ = load_model(narrow_model)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(IMAGES), expected.embed(IMAGES))
        assert model(IMAGES).shape == (2, 5)
    assert model.spec.classes == tuple("01234")
    assert model.spec.preprocessing == narrow_spec.preprocessing
    assert 0.005 < float(model.classifier.weight.detach().std()) < 0.015  # as a new one begins


def test_weights_of_other_projects_are_taken(tmp_path: Path) -> None:
    theirs = inceptionv4.InceptionV4(1000).state_dict()
    torch.save(theirs, tmp_path / "plain.pth")
    same, other = create_model(tmp_path / "plain.pth"), create_model(tmp_path / "plain.pth", num_classes=3)
    assert same.spec.classes[0] == "tench"
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in same.state_dict().items())
    changed = {name for name, tensor in other.state_dict().items() if not torch.equal(tensor, theirs[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_what_cannot_be_made_says_why(tmp_path: Path, narrow_model: Path, narrow_spec: ModelSpec) -> None:
    for arguments, message in (
        ({"weights": tmp_path / "none"}, "no model at"),
        ({"num_classes": 0}, "num_classes and in_channels must be at least 1, got 0"),
        ({"weights": narrow_model, "width": 1.0}, "are for width 0.1, not 1"),
        ({"width": -1.0}, "width must be above 0"),
        ({"dropout": 1.0}, "dropout must be in"),
    ):
        with pytest.raises(UsageError, match=message):
            create_model(**arguments)
    network, _ = load_model(narrow_model)
    weights = dict(list(network.state_dict().items())[1:])
    save_checkpoint(Checkpoint(weights, narrow_spec), tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        create_model(tmp_path / "part.safetensors")


def test_torch_hub_makes_it_from_a_clone(tmp_path: Path, narrow_model: Path) -> None:
    code = (
        "import torch\n"
        f"model = torch.hub.load({str(ROOT)!r}, 'inception_v4', source='local', weights={str(narrow_model)!r})\n"
        "print(type(model).__mro__[1].__name__, *model.spec.classes, model(torch.zeros(1, 3, 75, 75)).shape[1])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "InceptionV4 brick grass gravel 3\n"
