"""Checkpoints: what goes in comes out; what is damaged, foreign or half-written never does."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from inceptionv4.errors import CheckpointError, RunError, UsageError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime import files
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from inceptionv4.weights.load import find_model, load_model, start_from

SPEC = ModelSpec(
    classes=("a", "ü"), width=0.1, preprocessing=Preprocessing(size=80, std=(0.1, 0.2, 0.3)), origin="test"
)


def small() -> Checkpoint:
    weights = {"x": torch.arange(24.0).reshape(2, 3, 4), "n": torch.tensor(3), "h": torch.ones(5, dtype=torch.bfloat16)}
    return Checkpoint(weights, SPEC, {"epoch": 2, "config": {"seed": 1}})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint = small()
    save_checkpoint(checkpoint, tmp_path / "a.safetensors")
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert (loaded.spec, loaded.training) == (checkpoint.spec, checkpoint.training)
    assert set(loaded.weights) == set(checkpoint.weights)
    for name, tensor in checkpoint.weights.items():
        assert loaded.weights[name].dtype == tensor.dtype
        assert torch.equal(loaded.weights[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_network_comes_back_with_equal_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = InceptionV4(2, width=0.1).to(memory_format=torch.channels_last).eval()
    save_checkpoint(Checkpoint(network.state_dict(), SPEC), tmp_path / "a.safetensors")
    loaded, _ = load_model(tmp_path / "a.safetensors")
    images = torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network(images))
    assert not loaded.training


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(small(), path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    # All of the header, where a flip is most likely to slip through, and all of the data, which are few here.
    for position in range(len(content)):
        for bit in (0, 5):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                loaded = load_checkpoint(path)
            except CheckpointError as error:
                assert str(path) in str(error)  # noqa: PT017 - in a loop over thousands
            else:
                pytest.fail(f"bit {bit} of byte {position} of {len(content)} (header {header}) went through: {loaded}")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_checkpoint_cut_short_is_found(narrow_model: Path, tmp_path: Path, share: float) -> None:
    content = narrow_model.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"short\.safetensors is damaged or no checkpoint"):
        load_checkpoint(path)


def test_a_flip_in_a_real_model_is_found(narrow_model: Path, tmp_path: Path) -> None:
    content = narrow_model.read_bytes()
    generator = random.Random(0)
    path = tmp_path / "flipped.safetensors"
    for _ in range(100):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="is damaged|is a safetensors file, but"):
            load_checkpoint(path)


def test_foreign_files_are_told_apart(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="is a safetensors file, but not a checkpoint of inceptionv4"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    torch.save({"x": torch.zeros(1)}, tmp_path / "pickle.pth")
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
        load_checkpoint(tmp_path / "pickle.pth")


def test_weights_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    weights = InceptionV4(3, width=0.1).state_dict()
    save_checkpoint(Checkpoint(weights, SPEC), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(tmp_path / "a.safetensors")


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(small(), path)
    before = path.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(files.os, name, fail)
            patch.setattr(Path, name, fail, raising=False)
            with pytest.raises(RunError, match=r"cannot write .*a\.safetensors: No space left on device"):
                save_checkpoint(Checkpoint({}, SPEC), path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_models_are_found_by_file_run_and_folder_of_runs(tmp_path: Path) -> None:
    for run, name in (("9", "best"), ("10", "best"), ("10", "last"), ("11", "last")):
        file = tmp_path / "digits" / run / "checkpoints" / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "digits" / "12").mkdir()  # a run without a finished epoch
    runs = tmp_path / "digits"
    assert find_model(runs / "10") == runs / "10/checkpoints/best.safetensors"
    assert find_model(runs / "11") == runs / "11/checkpoints/last.safetensors"
    assert find_model(runs) == runs / "11/checkpoints/last.safetensors"
    file = runs / "9/checkpoints/best.safetensors"
    assert find_model(file) == file
    with pytest.raises(UsageError, match="12 holds no trained model"):
        find_model(runs / "12")
    with pytest.raises(UsageError, match="no model at nowhere"):
        find_model("nowhere")


def test_training_starts_from_weights_with_or_without_their_classifier(narrow_model: Path) -> None:
    source = load_checkpoint(narrow_model)
    for classes, kept in ((source.spec.classes, True), (("x", "y"), False)):
        torch.manual_seed(5)
        network = InceptionV4(len(classes), width=0.1)
        drawn = network.classifier.weight.detach().clone()
        assert start_from(network, classes, source, str(narrow_model)) is kept
        stem = "features.stem.0.conv.weight"
        assert torch.equal(network.state_dict()[stem], source.weights[stem])
        assert torch.equal(network.classifier.weight, source.weights["classifier.weight"] if kept else drawn)
    with pytest.raises(UsageError, match=r"are for width 0\.1; train with --model\.width 0\.1"):
        start_from(InceptionV4(2, width=0.2), ("x", "y"), source, str(narrow_model))


def test_specifications_survive_json_and_versions() -> None:
    values = json.loads(json.dumps(SPEC.to_dict()))
    assert ModelSpec.from_dict(values) == SPEC
    del values["preprocessing"]["exif_orientation"], values["origin"]
    assert ModelSpec.from_dict(values).preprocessing == SPEC.preprocessing
    for wrong, message in (
        ({**values, "colour": 1}, "unknown keys.*colour"),
        ({**values, "classes": []}, "no classes"),
        ({**values, "preprocessing": {"size": 3}}, "size must be >= 75"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelSpec.from_dict(wrong)
