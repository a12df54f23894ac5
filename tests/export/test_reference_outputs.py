"""On which images an export is compared with its model, and what is said where there are none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from inceptionv4.errors import DataError, Error, ImageError, StorageError, UsageError
from inceptionv4.export import verify
from inceptionv4.export.verify import compute_reference_outputs
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.load import load_model


@pytest.fixture
def broken(textures: Path, tmp_path: Path) -> Path:
    """Photographs of which half are no JPEGs."""
    folder = tmp_path / "broken"
    shutil.copytree(textures, folder)
    for file in (folder / "val" / "grass").iterdir():
        file.write_bytes(b"\xff\xd8\xff\xe0garbage")
    return folder


@pytest.fixture
def few(textures: Path, tmp_path: Path) -> Path:
    """One photograph a class, so that none is held out."""
    for name in ("brick", "grass"):
        (tmp_path / "few" / name).mkdir(parents=True)
        shutil.copy(textures / "train" / name / "000.jpg", tmp_path / "few" / name)
    return tmp_path / "few"


def trained_on(model: Path, location: object) -> Checkpoint:
    return replace(load_model(model)[1], training={"data": {"location": str(location)}})


def test_images_are_held_out_ones_of_the_training_data(narrow_model: Path, textures: Path) -> None:
    network, _ = load_model(narrow_model)
    reference_outputs = compute_reference_outputs(network, trained_on(narrow_model, textures))
    assert reference_outputs.source == str(textures)
    assert len(reference_outputs.reference.images) == len(reference_outputs.reference.logits) == 32 + 8


def test_training_data_that_cannot_be_read_give_way_to_digits(
    narrow_model: Path, broken: Path, few: Path, tmp_path: Path
) -> None:
    network, _ = load_model(narrow_model)
    for place in (broken, few, tmp_path / "gone"):
        assert compute_reference_outputs(network, trained_on(narrow_model, place)).source == "digits"


@pytest.mark.parametrize(
    "reason", [StorageError("s3://nobody cannot be reached"), UsageError("pip install ..."), PermissionError("no")]
)
def test_so_do_those_whose_store_is_out_of_reach(
    narrow_model: Path, textures: Path, monkeypatch: pytest.MonkeyPatch, reason: Exception
) -> None:
    read = verify.read_dataset

    def refuse(place: str, **options: object) -> object:
        if place == "digits":
            return read(place, **options)
        raise reason

    monkeypatch.setattr(verify, "read_dataset", refuse)
    network, checkpoint = load_model(narrow_model)
    assert compute_reference_outputs(network, trained_on(narrow_model, "s3://nobody/photos.zip")).source == "digits"
    with pytest.raises(type(reason)):
        compute_reference_outputs(network, checkpoint, "s3://nobody/photos.zip")


def test_a_place_that_was_named_is_taken_or_refused(
    narrow_model: Path, textures: Path, broken: Path, few: Path, tmp_path: Path
) -> None:
    network, checkpoint = load_model(narrow_model)
    assert compute_reference_outputs(network, trained_on(narrow_model, broken), str(textures)).source == str(textures)
    kinds: tuple[tuple[Path, type[Error], str], ...] = (
        (broken, ImageError, "cannot be decoded"),
        (few, DataError, "has no held-out images"),
        (tmp_path / "gone", DataError, "no images at"),
    )
    for place, kind, words in kinds:
        with pytest.raises(kind, match=words):
            compute_reference_outputs(network, checkpoint, str(place))
