"""An exported file whose contents are not those that the export verified is refused, whatever was changed in it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from inceptionv4.errors import CheckpointError
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.export_metadata import NOTE
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.runtime.exported import hash_content, read_sidecar, sidecar, write_sidecar
from inceptionv4.weights.load import read_model

FORMS = {"onnx": "onnx", "openvino": "xml", "mindir": "mindir"}
WEIGHTS = {"onnx": "m.onnx", "openvino": "m.bin", "mindir": "m.mindir"}
MEMBERS = ("m.onnx", "m.xml", "m.bin", "m.mindir", "m.mindir.json")


@pytest.fixture(scope="module")
def exported(narrow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in every form."""
    folder = tmp_path_factory.mktemp("exported")
    for form, ending in FORMS.items():
        export_model(str(narrow_model), ExportOptions(format=form, output=folder / f"m.{ending}", batch_size=2))  # type: ignore[arg-type]
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def _write(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        assert file.read(len(content)) != content
        file.seek(at)
        file.write(content)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_zeros_in_the_weights_are_noticed(copy: Path, form: str, share: float, command: Callable[..., Any]) -> None:
    damaged = copy / WEIGHTS[form]
    _write(damaged, int(damaged.stat().st_size * share), bytes(40_000))
    with pytest.raises(CheckpointError, match=rf"m\.{FORMS[form]} is damaged"):
        open_backend(copy / f"m.{FORMS[form]}")
    result = command("predict", copy / f"m.{FORMS[form]}", "examples/seven.png")
    assert (result.code, result.out) == (1, "")


def test_an_attribute_of_the_graph_is_noticed(copy: Path) -> None:
    xml = copy / "m.xml"
    text = xml.read_bytes()
    assert text.count(b'strides="2, 2"')
    xml.write_bytes(text.replace(b'exclude-pad="true"', b'exclude-pad="false"', 1))
    assert xml.read_bytes() != text
    with pytest.raises(CheckpointError, match=r"m\.xml is damaged"):
        open_backend(xml)
    graph = onnx.load(copy / "m.onnx")
    pool = next(node for node in graph.graph.node if node.op_type == "AveragePool")
    pool.attribute.add(name="count_include_pad", i=1, type=onnx.AttributeProto.INT)
    onnx.save(graph, copy / "m.onnx")
    for read in (open_backend, read_model):
        with pytest.raises(CheckpointError, match=r"m\.onnx"):
            read(copy / "m.onnx")


def test_weights_changed_in_an_onnx_are_noticed_when_it_is_read_as_weights(copy: Path) -> None:
    size = (copy / "m.onnx").stat().st_size
    _write(copy / "m.onnx", size // 2, bytes(64))
    with pytest.raises(CheckpointError, match=r"m\.onnx is damaged"):
        read_model(copy / "m.onnx")


@pytest.mark.parametrize("member", ["m.mindir", "m.mindir.json"])
def test_a_part_of_another_model_is_noticed(copy: Path, tmp_path: Path, member: str) -> None:
    """The other's file and description fit each other."""
    other = tmp_path / "other" / "m.mindir"
    other.parent.mkdir()
    shutil.copy(copy / "m.mindir", other)
    _write(other, other.stat().st_size // 2, bytes(64))
    write_sidecar(other, read_sidecar(copy / "m.mindir"))
    read_sidecar(other)
    shutil.copy(other.with_name(member), copy / member)
    with pytest.raises(CheckpointError, match="not the file that its description was written for"):
        open_backend(copy / "m.mindir")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_file_that_is_cut_short_is_refused(copy: Path, member: str) -> None:
    path = copy / member
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    with pytest.raises(CheckpointError):
        open_backend(copy / {"m.bin": "m.xml", "m.mindir.json": "m.mindir"}.get(member, member))


def test_files_open_under_another_name_and_after_another_writer(copy: Path, tmp_path: Path) -> None:
    """Copies, and an .onnx that onnx itself wrote again."""
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for member in MEMBERS:
        shutil.copy(copy / member, moved / member.replace("m.", "renamed.", 1))
    onnx.save(onnx.load(copy / "m.onnx"), moved / "renamed.onnx")
    images = torch.randint(0, 256, (2, 3, 75, 75), dtype=torch.uint8)
    for ending in FORMS.values():
        answers = [open_backend(path).infer(images) for path in (copy / f"m.{ending}", moved / f"renamed.{ending}")]
        torch.testing.assert_close(*answers, rtol=0, atol=1e-6)


def test_a_file_without_a_checksum_is_refused(copy: Path) -> None:
    path = sidecar(copy / "m.mindir")
    values = json.loads(path.read_text())
    del values["content"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="recorded no checksum; export the model again"):
        read_sidecar(copy / "m.mindir")


def test_the_checksum_is_of_all_but_the_description(copy: Path) -> None:
    """Notes of others beside ours change nothing; every other field of an .onnx does."""
    before = hash_content(copy / "m.onnx")
    graph = onnx.load(copy / "m.onnx")
    entry = next(entry for entry in graph.metadata_props if entry.key == NOTE)
    assert json.loads(entry.value)["content"] == before
    graph.metadata_props.add(key="owner", value="somebody")
    onnx.save(graph, copy / "m.onnx")
    assert hash_content(copy / "m.onnx") == before
    graph.doc_string = "another"
    onnx.save(graph, copy / "m.onnx")
    assert hash_content(copy / "m.onnx") != before


def _describe_anew(path: Path) -> None:
    """Write the checksum that the file has now into its own description, as whoever can write the file can."""
    if path.suffix == ".onnx":
        graph = onnx.load(path)
        entry = next(entry for entry in graph.metadata_props if entry.key == NOTE)
        entry.value = json.dumps(json.loads(entry.value) | {"content": hash_content(path)})
        onnx.save(graph, path)
    else:
        text = path.read_text()
        before = re.search(r"&quot;content&quot;: &quot;(\w+)&quot;", text)
        assert before is not None
        path.write_text(text.replace(before[1], hash_content(path)))


def test_operators_of_others_are_refused_by_the_runtime(copy: Path) -> None:
    """A checksum is no signature: a forged one is accepted, and then no library is loaded for unknown operators."""
    graph = onnx.load(copy / "m.onnx")
    relu = next(node for node in graph.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Run", "evil.example"
    graph.opset_import.add(domain="evil.example", version=1)
    onnx.save(graph, copy / "m.onnx")
    _describe_anew(copy / "m.onnx")
    xml = copy / "m.xml"
    xml.write_text(xml.read_text().replace('type="ReLU" version="opset1"', 'type="Run" version="evil"', 1))
    _describe_anew(xml)
    for path in (copy / "m.onnx", xml):
        with pytest.raises(CheckpointError) as error:
            open_backend(path)
        assert "SHA-256" not in str(error.value)
