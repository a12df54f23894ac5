"""Which file a model's name leads to, on a disk and in object storage, with what lies beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import s3
import safetensors.torch
import torch

from inceptionv4.errors import CheckpointError, StorageError, UsageError
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime import storage
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint
from inceptionv4.weights.load import find_model, read_model
from inceptionv4.weights.write import write_folder

BEST, LAST = "checkpoints/best.safetensors", "checkpoints/last.safetensors"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("bucket")
    with pytest.MonkeyPatch.context() as patched, s3.running(s3.moto(folder / "log")) as server:
        s3.use(patched, server.port)
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        s3.make_bucket(server.port)
        yield


def _make(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(file.encode())


def test_the_newest_run_with_a_checkpoint_answers_and_newer_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _make(tmp_path, f"1/{BEST}", f"2/{BEST}", f"9/{LAST}", "10/config.yaml", "11/config.yaml", "note/x", "012x/x")
    assert find_model(tmp_path) == tmp_path / "9" / LAST
    said = capsys.readouterr().err
    assert said == f"{tmp_path}/11, {tmp_path}/10 have no checkpoint yet: taking {tmp_path}/9\n"
    assert find_model(tmp_path / "2") == tmp_path / "2" / BEST
    _make(tmp_path, f"11/{BEST}")
    assert find_model(tmp_path) == tmp_path / "11" / BEST
    assert capsys.readouterr().err == ""


def test_the_same_in_object_storage(bucket: None, capsys: pytest.CaptureFixture[str]) -> None:
    for key in (f"1/{BEST}", f"2/{BEST}", "3/config.yaml", "10/config.yaml"):
        storage.write(f"s3://bucket/runs/{key}", key.encode())
    assert find_model("s3://bucket/runs").read_bytes() == f"2/{BEST}".encode()
    said = capsys.readouterr().err
    assert said == "s3://bucket/runs/10, s3://bucket/runs/3 have no checkpoint yet: taking s3://bucket/runs/2\n"
    storage.write("s3://bucket/runs/3/checkpoints/last", b"step-7.safetensors")
    storage.write("s3://bucket/runs/3/checkpoints/step-7.safetensors", b"seven")
    assert find_model("s3://bucket/runs").read_bytes() == b"seven"
    assert capsys.readouterr().err == "s3://bucket/runs/10 has no checkpoint yet: taking s3://bucket/runs/3\n"
    with pytest.raises(UsageError, match="no model at s3://bucket/none"):
        find_model("s3://bucket/none")


def test_what_lies_beside_an_object_is_brought_with_it(bucket: None) -> None:
    for name in ("m.ckpt", "m.ckpt.json", "config.json", "model.safetensors", "other"):
        storage.write(f"s3://bucket/hub/{name}", name.encode())
    for uri, names in {
        "s3://bucket/hub/m.ckpt": {"m.ckpt", "m.ckpt.json", "config.json"},
        "s3://bucket/hub/model.safetensors": {"model.safetensors", "config.json"},
        "s3://bucket/hub": {"model.safetensors", "config.json"},
        "s3://bucket/hub/": {"model.safetensors", "config.json"},
    }.items():
        path = find_model(uri)
        assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {
            name: name.encode() for name in names
        }
    before = find_model("s3://bucket/hub/m.ckpt")
    storage.write("s3://bucket/hub/m.ckpt.json", b"changed since")
    after = find_model("s3://bucket/hub/m.ckpt")
    assert after.with_name("m.ckpt.json").read_bytes() == b"changed since"
    assert before.with_name("m.ckpt.json").read_bytes() == b"m.ckpt.json"


def test_a_checkpoint_of_ours_needs_nothing_beside_it_and_other_weights_need_to_know(
    bucket: None, narrow_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read one object may often not ask whether there is another; and trouble is not taken for absence."""
    storage.write("s3://bucket/own/narrow.safetensors", narrow_model.read_bytes())
    storage.write("s3://bucket/own/foreign.ckpt", b"of another project")
    proxy = s3.Proxy(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    s3.use(monkeypatch, proxy.port, 0.5)
    proxy.fault = lambda request: "503" if ".json" in request else "none"
    try:
        assert find_model("s3://bucket/own/narrow.safetensors").read_bytes() == narrow_model.read_bytes()
        assert not [request for request in proxy.requests if ".json" in request]
        with pytest.raises(StorageError, match=r"s3://bucket/own/config\.json cannot be reached"):
            find_model("s3://bucket/own/foreign.ckpt")
    finally:
        proxy.close()
        storage._store.cache_clear()


@pytest.mark.slow  # 170 MB, there and back
def test_weights_in_object_storage_are_read_as_on_a_disk(bucket: None, tmp_path: Path) -> None:
    preprocessing = Preprocessing(size=99, crop=0.9, crop_mode="border", mean=(0.1, 0.2, 0.3))
    spec = ModelSpec(classes=("cat", "dog"), preprocessing=preprocessing)
    write_folder(Checkpoint(InceptionV4(2).state_dict(), spec), tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")  # without our notes
    for name in ("model.safetensors", "config.json"):
        storage.write(f"s3://bucket/timms/{name}", tmp_path / name)
    read = [
        read_model(model)[0].spec for model in (tmp_path, "s3://bucket/timms", "s3://bucket/timms/model.safetensors")
    ]
    assert read == [replace(spec, origin="timm: model.safetensors")] * 3
    storage.write("s3://bucket/timms/config.json", b'{"architecture": "vit"}')
    for model in ("s3://bucket/timms", "s3://bucket/timms/model.safetensors"):
        with pytest.raises(CheckpointError, match='^s3://bucket/timms/config.json describes "vit"'):
            read_model(model)


def test_an_xml_and_its_bin_answer_from_object_storage(bucket: None, narrow_model: Path, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 75, 75), dtype=torch.uint8)
    for form, files in {"openvino": ("m.xml", "m.bin"), "onnx": ("m.onnx",)}.items():
        export_model(str(narrow_model), ExportOptions(format=form, output=tmp_path / files[0]))  # type: ignore[arg-type]
        for file in files:
            storage.write(f"s3://bucket/exported/{file}", (tmp_path / file).read_bytes())
        answers = [
            open_backend(model).infer(images) for model in (tmp_path / files[0], f"s3://bucket/exported/{files[0]}")
        ]
        torch.testing.assert_close(*answers, rtol=0, atol=1e-6)
