"""Files from elsewhere that ask for more than they should: descriptions of models, and tables of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from inceptionv4.data.index import read_dataset
from inceptionv4.data.tools.pack import pack
from inceptionv4.errors import CheckpointError, DataError, ImageError, UnreadableError
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.runtime.exported import read_sidecar, sidecar
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import FORMAT, load_checkpoint
from inceptionv4.weights.huggingface import read_config

NESTED = "[" * 100_000
SPEC = ModelSpec(classes=("a", "b", "c"))


def test_json_that_is_nested_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's parser fills its stack with it."""
    config = tmp_path / "config.json"
    config.write_text(NESTED)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read_config(config, SPEC)
    model = tmp_path / "m.om"
    sidecar(model).write_text(NESTED)
    with pytest.raises(CheckpointError, match=r"m\.om\.json is damaged or was exported by another version"):
        read_sidecar(model)
    ours = tmp_path / "ours.safetensors"
    monkeypatch.setattr("inceptionv4.weights.checkpoint._digest", lambda *_: "")
    safetensors.torch.save_file({}, ours, {"format": FORMAT, "digest": "", "spec": NESTED})
    with pytest.raises(UnreadableError, match=r"ours\.safetensors was written by another version"):
        load_checkpoint(ours)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("input", "int64"), ("batch_size", 0), ("batch_size", 2**40), ("batch_size", "1"), ("batch_size", True)),
        *(("format", "pt2"), ("precision", "fp8")),
    ],
)
def test_a_description_says_nothing_that_no_export_does(key: str, value: object) -> None:
    metadata = ExportMetadata(format="om", precision="fp16", spec=SPEC, version="0", weights="", batch_size=1)
    text = metadata.to_json()
    assert ExportMetadata.from_json(text, "m.om.json") == metadata
    with pytest.raises(CheckpointError, match=r"m\.om\.json is damaged or was exported by another version"):
        ExportMetadata.from_json(json.dumps({**json.loads(text), key: value}), "m.om.json")


@pytest.mark.parametrize(
    "change",
    [
        *({"classes": "abc"}, {"classes": [["a"], "b", "c"]}, {"classes": {"a": 1}}),
        *({"width": float("nan")}, {"width": -1}, {"preprocessing": {"size": 2**20}}),
        {"preprocessing": {"crop": 1e-7}},  # of which the shorter side would become a billion pixels
    ],
)
def test_a_specification_has_names_and_numbers_within_reason(change: dict[str, Any]) -> None:
    assert ModelSpec.from_dict(SPEC.to_dict()) == SPEC
    with pytest.raises(ValueError, match="the model's specification"):
        ModelSpec.from_dict({**SPEC.to_dict(), **change})


@pytest.mark.parametrize("where", ["https://localhost:1/x.jpg", "s3://bucket/x.jpg", "file:///etc/hosts", "/dev/zero"])
def test_a_table_fetches_nothing(textures: Path, tmp_path: Path, where: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(f"file_name,label\n{textures}/val/brick/000.jpg,a\n{where},b\n")
    with pytest.raises(DataError, match=r"labels\.csv:3 names .* which is not there"):
        read_dataset(tmp_path)


def test_a_table_may_name_any_file_but_only_images_are_read_of_it(textures: Path, tmp_path: Path) -> None:
    """A key that a table names does not end up in shards that are handed on."""
    secret, folder = tmp_path / "secret", tmp_path / "data"
    secret.write_text("a private key")
    folder.mkdir()
    parts = (("train", "000"), ("val", "001"))
    lines = [f"{textures}/val/{name}/{file}.jpg,{name},{part}" for name in ("brick", "grass") for part, file in parts]
    (folder / "labels.csv").write_text("\n".join(["file_name,label,split", *lines, "../secret,brick,train", ""]))
    with pytest.raises(ImageError, match="secret is no image"):
        pack(str(folder), tmp_path / "raise")
    packed = pack(str(folder), tmp_path / "skip", on_error="skip")
    assert (packed.images, len(packed.skipped)) == (4, 1)
    shards = list(tmp_path.rglob("*.tar"))
    assert shards
    assert not any(secret.read_bytes() in shard.read_bytes() for shard in shards)
