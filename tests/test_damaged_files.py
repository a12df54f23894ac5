"""Every text file that we read, with contents that nobody wrote on purpose: an error in words, or what stands in its
stead, and never a traceback.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from layouts import write_csv, write_imagenet, write_shard_folder

from inceptionv4.class_names import read_class_names
from inceptionv4.config import Config, load_config
from inceptionv4.data import cache
from inceptionv4.data.index import read_dataset
from inceptionv4.data.tools.pack import LEDGER, pack
from inceptionv4.errors import CheckpointError, Error
from inceptionv4.export_metadata import ExportMetadata, Verification
from inceptionv4.modelzoo import convert_settings
from inceptionv4.runtime import storage
from inceptionv4.runtime.exported import read_sidecar
from inceptionv4.spec import NOTE, ModelSpec, Preprocessing
from inceptionv4.training.plots import draw_curves
from inceptionv4.training.run import lease
from inceptionv4.training.run.find import fetch_settings, find_run
from inceptionv4.training.run.history import read_log, read_rows
from inceptionv4.training.run.recovery import inspect_run, read_id
from inceptionv4.training.run.resumption import _recorded_precision
from inceptionv4.weights import load
from inceptionv4.weights.checkpoint import FORMAT, _digest, load_checkpoint
from inceptionv4.weights.notes import TRAINING_NOTE, read_notes, read_spec, read_training

CONTENTS = {
    "no UTF-8": b"\xff\xfe",
    "no UTF-8 behind": b'{"a": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"x"',
    "an object": b"{}",
    "a number that is none": b'{"run": NaN, "device": Infinity}',
    "deep": b"[" * 20_000,
    "deep keys": b'{"a":' * 20_000,
    "empty": b"",
    "zeros": bytes(100),
    "a line": b"\n",
    "half a pair": b'{"run": "\\ud800", "device": "\\udfff"}',
}
MAPPINGS = [CONTENTS[name] for name in ("an object", "a number that is none", "half a pair")]
damaged = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read_spec_of_checkpoint(folder: Path, content: bytes, key: str = "spec") -> Any:
    """A checkpoint whose digest is right: what wrote it was another version."""
    tensors = {"a": torch.zeros(1)}
    text = content.decode("utf-8", "replace").replace("\0", " ")
    metadata = {"format": FORMAT, "spec": ModelSpec(classes=("a",)).to_json(), "training": "{}", key: text}
    metadata["digest"] = _digest(tensors, metadata)
    safetensors.torch.save_file(tensors, folder / "a.safetensors", metadata)
    return load_checkpoint(folder / "a.safetensors")


def make_run(folder: Path) -> Path:
    put(folder / "run/config.yaml", b"seed: 1\n")
    return folder / "run"


def refusal(read: Callable[[], Any]) -> str | None:
    """The words of an error of ours; any other one is a failure."""
    try:
        read()
    except Error as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def few(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of a class and part."""
    root = tmp_path_factory.mktemp("few")
    for path in textures.glob("*/*/00[01].jpg"):
        target = root / path.relative_to(textures)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


@damaged
def test_descriptions_of_models(content: bytes, tmp_path: Path) -> None:
    text = content.decode("latin-1")
    put(tmp_path / "a.om.json", content)
    with pytest.raises(CheckpointError, match=r"a\.om"):
        read_sidecar(tmp_path / "a.om")
    with pytest.raises(CheckpointError, match=r"a\.onnx is damaged or was exported by another version"):
        ExportMetadata.from_json(text, "a.onnx")
    with pytest.raises(CheckpointError, match="its note .* cannot be read"):
        read_spec(tmp_path, {NOTE: text})
    said = refusal(lambda: read_training(tmp_path, {TRAINING_NOTE: text}))
    assert (said is None) == (content in (b"[]", b"{}", b'{"a": "\xff"}') or b"\\ud800" in content), said
    put(tmp_path / "a.ckpt.json", content)
    said = refusal(lambda: read_notes(tmp_path / "a.ckpt"))  # without our note, it is another program's file
    assert said is None or "a.ckpt.json cannot be read" in said
    with pytest.raises(CheckpointError, match="was written by another version"):
        read_spec_of_checkpoint(tmp_path, content)
    if content not in (b"[]", b"{}", b'{"a": "\xff"}') and b"run" not in content:
        with pytest.raises(CheckpointError, match="was written by another version"):
            read_spec_of_checkpoint(tmp_path, content, "training")


@damaged
def test_settings(content: bytes, tmp_path: Path) -> None:
    """Nothing but keys and values is settings; no settings are the defaults."""
    content = content[:600]  # deep enough, and PyYAML takes seconds for a thousand brackets
    file, run = put(tmp_path / "a.yaml", content), make_run(tmp_path)
    put(run / "config.yaml", content)
    said = refusal(lambda: load_config(file=file))
    assert (said is None) == (content in (b"", b"\n", b"{}"))
    assert said is None or "a.yaml" in said
    said = refusal(lambda: convert_settings(file))
    assert (said is None) == (content in MAPPINGS)
    assert said is None or "a.yaml" in said
    said = refusal(lambda: load_config(file=fetch_settings(str(find_run(Config(), str(run))))))
    assert (said is None) == (content in (b"", b"\n", b"{}"))
    assert said is None or str(run) in said


@damaged
def test_what_a_run_has_written(content: bytes, tmp_path: Path) -> None:
    """It goes on without what cannot be read."""
    run = make_run(tmp_path)
    for name in ("log.jsonl", "results.csv", "environment.json"):
        put(run / name, content)
    assert read_log(content)[0] == read_rows(content) == []
    assert draw_curves(run) == ""
    assert read_id(run) == ("\ud800" if content == CONTENTS["half a pair"] else None)
    assert _recorded_precision(run) is None
    assert inspect_run(run).state is None


@damaged
def test_data(content: bytes, few: Path, tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet", "a.tar", "a.zip"):
        with pytest.raises(Error, match=name):
            read_dataset(put(tmp_path / name, content))
    with pytest.raises(Error, match=r"classes\.txt"):
        read_class_names(content + b"\n\na", str(tmp_path / "classes.txt"))


def test_lists_beside_data(few: Path, textures: Path, tmp_path: Path) -> None:
    """Of shards and of ImageNet; the packed data's ledger."""
    shards, archives = tmp_path / "shards", tmp_path / "imagenet"
    for folder, write in ((shards, write_shard_folder), (archives, write_imagenet)):
        folder.mkdir()
        write(few, folder)
    kit = tmp_path / "kit"
    pack(str(few), tmp_path / "packed")
    for content in CONTENTS.values():
        said = refusal(lambda: read_dataset(shards))
        assert said is None or "classes.txt" in said
        put(shards / "classes.txt", content)
        put(kit / "ILSVRC2012_validation_ground_truth.txt", content)
        put(kit / "meta.mat", content)
        with tarfile.open(archives / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
            archive.add(kit, "data")
        with pytest.raises(Error, match="development kit"):
            read_dataset(archives)
        put(tmp_path / "packed" / LEDGER, content + b"\n")
        with pytest.raises(Error, match="packed"):
            pack(str(few), tmp_path / "packed")


@damaged
def test_a_kept_index_is_made_anew(content: bytes, textures: Path, tmp_path: Path) -> None:
    table = read_dataset(textures).source.table
    file = tmp_path / "index.npz"
    assert cache.load(put(file, content), str(textures), []) is None
    cache.save(file, table, [])
    assert cache.load(file, str(textures), []) is not None
    with np.load(file) as kept:
        arrays = {**kept, "facts": np.frombuffer(content, np.uint8)}
    np.savez(file, **arrays)
    assert cache.load(file, str(textures), []) is None


@damaged
def test_objects_of_a_run_in_storage(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pointer to the newest state, and the lease of who writes the run."""
    uri = "s3://bucket/run"
    pointer = storage.Object(f"{uri}/checkpoints/last", len(content), "1")
    monkeypatch.setattr(storage, "find", lambda asked: pointer if asked.endswith(("last", "lock")) else None)
    monkeypatch.setattr(storage, "list_objects", lambda _: [pointer])
    monkeypatch.setattr(storage, "read_all", lambda _: content)
    with pytest.raises(CheckpointError, match="s3://bucket/run/checkpoints/last is damaged: it holds"):
        load.find_model(uri)
    assert isinstance(lease._read(f"{uri}/lock"), dict)


VALUES = (None, [], {}, "x", -1, 1.5, True, [[]], {"a": None}, 10**400, "\ud800")


def test_a_description_is_taken_only_as_it_is_typed() -> None:
    """Each value of a description is replaced by each of others: refused, or of the type that it is to have."""
    verification = Verification(3, "digits", 0.1, 1.0, 1.0, 0.2)
    spec = ModelSpec(classes=("a", "b"), preprocessing=Preprocessing(size=75))
    sound = ExportMetadata(
        format="onnx", precision="fp32", spec=spec, version="1", weights="", batch_size=2, verification=verification
    )
    assert ExportMetadata.from_json(sound.to_json(), "a") == sound
    values = json.loads(sound.to_json())
    refused = 0
    for place in (values, values["spec"], values["spec"]["preprocessing"], values["verification"]):
        for key in [key for key in place if key not in ("status", "reason")]:
            before = place[key]
            for value in VALUES:
                place[key] = value
                try:
                    found = ExportMetadata.from_json(json.dumps(values), "a")
                except CheckpointError:
                    refused += 1
                    continue
                assert ExportMetadata.from_json(found.to_json(), "a") == found
                assert all(isinstance(name, str) for name in found.spec.classes)
                assert found.batch_size is None or type(found.batch_size) is int
                assert found.verification is None or dataclasses.is_dataclass(found.verification)
            place[key] = before
    assert refused > 150


def test_a_table_whose_first_line_names_an_odd_delimiter(few: Path, tmp_path: Path) -> None:
    write_csv(tmp_path, few, ["file_name", "label"])
    text = (tmp_path / "labels.csv").read_text()
    for first in ('sep="\n', "sep=\0\n", "sep=;\n"):
        (tmp_path / "labels.csv").write_text(first + text)
        said = refusal(lambda: read_dataset(tmp_path / "labels.csv"))
        assert said is not None
        assert "labels.csv" in said
