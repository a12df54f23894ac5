"""Every exported file answers as the model does, in its own runtime, wherever a model is named; or it is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.transforms import normalize
from inceptionv4.errors import CheckpointError, Error, UsageError
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.export.export import export_model, hash_weights
from inceptionv4.export.options import ExportOptions
from inceptionv4.export_metadata import NOTE, ExportMetadata
from inceptionv4.inference.backends.openvino import core
from inceptionv4.inference.classifier import Classifier
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.exported import hash_content
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import build_network, load_model, read_model

PIXELS = Preprocessing(size=75, crop=0.9, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
ENDINGS = {"onnx": "onnx", "openvino": "xml", "mindir": "mindir"}


@pytest.fixture(scope="module")
@torch.no_grad()
def model(tmp_path_factory: pytest.TempPathFactory, textures: Path) -> Path:
    """A narrow network with norms that have seen the textures, and a classifier that tells them apart a little."""
    torch.manual_seed(0)
    network = InceptionV4(3, width=0.1)
    batches = list(evaluation_batches(read_dataset(textures).train, PIXELS, batch_size=60, workers=0))
    images = normalize(torch.cat([batch.images for batch in batches]), PIXELS)
    labels = torch.cat([batch.labels for batch in batches])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    network.eval()
    features = network.embed(images)
    middle = features.mean(0)
    means = torch.stack([features[labels == label].mean(0) for label in range(3)]) - middle
    network.classifier.weight.copy_(means / means.norm(dim=1, keepdim=True).square() * 4)
    network.classifier.bias.copy_(-network.classifier.weight @ middle)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    spec = ModelSpec(classes=("brick", "grass", "gravel"), width=0.1, preprocessing=PIXELS)
    save_checkpoint(Checkpoint(network.state_dict(), spec), path)
    return path


@pytest.fixture(scope="module")
def expected(model: Path, textures: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The held-out textures, uint8, and the plain network's logits in float64."""
    network, _ = load_model(model)
    batches = list(evaluation_batches(read_dataset(textures).val, PIXELS, batch_size=45, workers=0))
    images = torch.cat([batch.images for batch in batches])
    with torch.no_grad():
        logits = network.double()(normalize(images, PIXELS).double()).float()
    assert len(logits.argmax(1).unique()) == 3
    return images, logits


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *(pytest.param(form, {}, marks=pytest.mark.isa) for form in ("onnx", "openvino")),
        *((form, options) for form in ("onnx", "openvino") for options in ({"pixels": True}, {"batch_size": 4})),
    ],
)
def test_a_file_answers_as_the_model(
    model: Path, textures: Path, tmp_path: Path, expected: Any, form: Any, options: dict[str, Any]
) -> None:
    path = tmp_path / f"m.{ENDINGS[form]}"
    metadata = export_model(str(model), ExportOptions(format=form, output=path, validate=str(textures), **options))
    files = {path.name, "m.bin"} if form == "openvino" else {path.name}
    assert {file.name for file in tmp_path.iterdir()} == files
    backend = open_backend(path)
    images, logits = expected
    torch.testing.assert_close(backend.infer(images), logits, rtol=0, atol=1e-4)
    if "pixels" not in options:
        torch.testing.assert_close(backend.infer(normalize(images[:7], PIXELS)), logits[:7], rtol=0, atol=1e-4)
    else:
        with pytest.raises(ValueError, match="takes uint8 pixels"):
            backend.infer(normalize(images[:7], PIXELS))
    assert backend.spec == ModelSpec(classes=("brick", "grass", "gravel"), width=0.1, preprocessing=PIXELS)
    verification = metadata.verification
    assert verification is not None
    assert (verification.images, verification.top1_agreement, verification.top5_overlap) == (40, 1.0, 1.0)
    assert verification.largest_difference < 1e-4
    assert metadata.weights == hash_weights(load_model(model)[0])


def shapes(path: Path) -> list[list[int | str]]:
    """Of the images and the logits in a file, by the file itself; a side that is free is a word."""
    if path.suffix == ".onnx":
        graph = onnx.load(path).graph
        onnx.checker.check_model(onnx.load(path), full_check=True)  # shapes in between are inferred, and must agree
        return [
            [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        ]
    model = core().read_model(path)
    return [
        [side.get_length() if side.is_static else "batch" for side in port.get_partial_shape()]
        for port in (*model.inputs, *model.outputs)
    ]


@pytest.mark.parametrize(("batch_size", "pixels"), [(None, False), (4, False), (4, True)])
@pytest.mark.parametrize(
    ("form", "precision"),
    [
        *(("onnx", "fp32"), ("openvino", "fp32")),
        *(pytest.param(form, "int8", marks=pytest.mark.slow) for form in ("onnx", "openvino")),
    ],
)
def test_the_number_of_images_is_that_of_the_file(
    model: Path, textures: Path, tmp_path: Path, form: Any, precision: str, batch_size: int | None, pixels: bool
) -> None:
    path = tmp_path / f"m.{ENDINGS[form]}"
    int8 = {"int8": True, "calibrate": str(textures), "samples": 8, "max_drop": 100} if precision == "int8" else {}
    metadata = export_model(
        str(model),
        ExportOptions(format=form, output=path, pixels=pixels, batch_size=batch_size, validate=str(textures), **int8),
    )
    batch = batch_size or "batch"
    assert metadata.batch_size == batch_size
    assert shapes(path) == [[batch, 75, 75, 3] if pixels else [batch, 3, 75, 75], [batch, 3]]


def computed_in(path: Path, hint: str, images: np.ndarray) -> str:
    """What OpenVINO, told so, computes in here, by its answers: those of which other hints it gives to the bit."""
    answers = {
        told: core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": told})(images)[0]
        for told in ("f32", "bf16", "f16")
    }
    if np.array_equal(answers[hint], answers["f32"]):
        return "fp32"
    return "bf16" if np.array_equal(answers[hint], answers["bf16"]) else "fp16"


@pytest.mark.parametrize(
    ("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), pytest.param("fp16", "f16", marks=pytest.mark.isa)]
)
def test_openvino_vouches_for_what_was_computed_in_the_precision_of_the_file(
    model: Path, textures: Path, tmp_path: Path, expected: Any, command: Callable[..., Any], precision: str, hint: str
) -> None:
    """Told to compute in what the processor does not have, OpenVINO takes another precision and says nothing."""
    path = tmp_path / "m.xml"
    arguments = ("--format", "openvino", "--precision", precision, "--output", path, "--validate", textures)
    result = command("export", model, *arguments)
    assert result.code == 0, result.err
    backend = open_backend(path)
    note = json.loads(backend.metadata.to_json())  # type: ignore[attr-defined]
    images = normalize(expected[0][:4], PIXELS).numpy()
    found = computed_in(path, hint, images)
    assert f"CPU, {found}, " in backend.describe()
    assert note["verification"]["computed_in"] == found
    assert note["status"] == ("verified" if found == precision else "unverified")
    assert (f"unverified: it was run in {found}, as the processor" in result.out) == (found != precision)
    assert "logits within" in result.out


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("here", [False, True])
def test_the_processor_decides_whether_a_short_precision_is_verified(
    model: Path, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, here: bool
) -> None:
    """With processors of both kinds, as their compiled graphs would tell; this one computes in fp32, which all can."""
    from inceptionv4.inference.backends.openvino import HINTS, OpenVinoBackend

    monkeypatch.setitem(HINTS, precision, "f32")
    monkeypatch.setattr(OpenVinoBackend, "precision", property(lambda _: precision if here else "fp32"))
    path = tmp_path / "m.xml"
    metadata = export_model(
        str(model), ExportOptions(format="openvino", output=path, precision=precision, validate=str(textures))
    )
    note = json.loads(core().read_model(path).get_rt_info([NOTE]).astype(str))
    assert ExportMetadata.from_json(json.dumps(note), "m.xml") == metadata
    if here:
        assert (note["status"], "reason" in note) == ("verified", False)
    else:
        assert note["status"] == "unverified"
        assert (
            note["reason"] == f"it was run in fp32, as the processor where it was made does not compute in {precision}"
        )


@pytest.mark.parametrize("options", [(), ("--pixels",)], ids=["floats", "pixels"])
@pytest.mark.slow
def test_a_mindir_does_too_and_is_evaluated(
    model: Path, textures: Path, tmp_path: Path, expected: Any, command: Callable[..., Any], options: tuple[str, ...]
) -> None:
    path = tmp_path / "m.mindir"
    arguments = ("--format", "mindir", "--output", path, "--batch-size", 8, "--validate", textures, *options)
    result = command("export", model, *arguments)
    assert result.code == 0, result.err
    assert "mindir, fp32" in result.out
    torch.testing.assert_close(open_backend(path).infer(expected[0]), expected[1], rtol=0, atol=1e-4)
    assert evaluate(path, textures).metrics.top1 == evaluate(model, textures).metrics.top1


@pytest.mark.parametrize("form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_int8_keeps_its_accuracy_or_layers_in_float(
    model: Path, textures: Path, tmp_path: Path, expected: Any, command: Callable[..., Any], form: str
) -> None:
    path = tmp_path / f"m.{ENDINGS[form]}"
    options = ("--int8", "--calibrate", textures, "--samples", 20, "--max-drop", 5, "--output", path)
    result = command("export", model, "--format", form, *options)
    assert result.code == 0, result.err
    assert f"{form}, int8" in result.out
    backend = open_backend(path)
    measured = evaluate(path, textures).metrics.top1
    assert measured >= evaluate(model, textures).metrics.top1 - 0.05
    calibration = backend.metadata.calibration  # type: ignore[attr-defined]
    assert calibration.top1_int8 == pytest.approx(measured)
    assert len(calibration.files) == 20
    assert all((textures / file).is_file() for file in calibration.files)
    # It computes in 8 bits: answers differ, by about what rounding to 127 steps does.
    difference = float((backend.infer(expected[0]) - expected[1]).abs().max())
    assert 1e-4 < difference < float(expected[1].max() - expected[1].min())


def test_int8_that_costs_too_much_keeps_layers_in_float_or_leaves_nothing(
    model: Path, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many answers are lost until 16 convolutions are in float, and then always."""
    from inceptionv4.export import int8

    monkeypatch.setattr(int8, "FLOAT_LAYERS", (0, 16))
    labels = read_dataset(str(textures)).val.labels.astype(np.int64)

    def wrong(count: int) -> np.ndarray:
        """Right answers but for the first `count`."""
        return np.where(np.arange(len(labels)) < count, (labels + 1) % 3, labels)

    answers = iter([wrong(0), wrong(5), wrong(4)])
    monkeypatch.setattr(int8, "_answer", lambda *_: next(answers))
    path = tmp_path / "m.onnx"
    metadata = export_model(
        str(model), ExportOptions(format="onnx", output=path, int8=True, calibrate=str(textures), samples=8)
    )
    assert metadata.calibration is not None
    # Four of a few dozen images are 10 points or so, and no significant drop.
    assert len(metadata.calibration.lost) == 4
    assert metadata.calibration.gained == ()
    layers = metadata.calibration.float_layers
    assert len(set(layers)) == 16
    convolutions = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 149
    assert {node.name for node in convolutions if node.input[1] == f"{node.name}.weight"} == set(layers)
    path.unlink()
    answers = iter([wrong(0), wrong(5), wrong(5)])
    with pytest.raises(Error, match=r"int8 costs more than 0.3 points of top-1.* points with 16 convolutions") as error:
        export_model(
            str(model), ExportOptions(format="onnx", output=path, int8=True, calibrate=str(textures), samples=8)
        )
    first = read_dataset(str(textures)).val.path(0)
    assert f"int8 loses 5 of {len(labels)} images ({first} (brick -> grass)" in str(error.value)
    assert "p = 0.031" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_kept(
    model: Path, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """The negative control: an export that forgets the norms' shifts."""
    from inceptionv4.export import export

    real = export.build_inference_graph

    def wrong(network: InceptionV4) -> InceptionV4:
        rewritten = real(network)
        next(module for module in rewritten.modules() if isinstance(module, nn.Conv2d)).bias.data.zero_()  # type: ignore[union-attr]
        return rewritten

    monkeypatch.setattr(export, "build_inference_graph", wrong)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"what was there before")
    result = command("export", model, "--format", "onnx", "--output", path, "--validate", textures)
    assert result.code == 1
    assert "does not answer as the model does" in result.err
    assert path.read_bytes() == b"what was there before"
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_onnx_says_what_it_is_and_is_read_as_weights_too(model: Path, textures: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_model(str(model), ExportOptions(format="onnx", output=path, validate=str(textures)))
    graph = onnx.load(path)
    assert (graph.opset_import[0].version, graph.ir_version) == (20, 10)
    notes = {entry.key: entry.value for entry in graph.metadata_props}
    described = ExportMetadata.from_json(notes[NOTE], "m.onnx")
    assert described.spec.classes == ("brick", "grass", "gravel")
    assert {node.op_type for node in graph.graph.node} == {
        *("Conv", "Relu", "MaxPool", "AveragePool", "Concat", "GlobalAveragePool", "Flatten", "Gemm")
    }
    back, report = read_model(path)
    assert report is not None
    assert back.spec == described.spec
    network = build_network(back.spec)
    network.load_state_dict(back.model_weights(), assign=True)
    images = torch.randn(2, 3, 75, 75)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), load_model(model)[0](images), rtol=1e-4, atol=1e-4)


def test_damaged_and_foreign_files_are_named(model: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    for name in ("a.xml", "a.mindir", "a.onnx"):
        (tmp_path / name).write_bytes(b"no model at all")
        result = command("predict", tmp_path / name, "x.jpg")
        assert result.code in (1, 2)
        assert name in result.err or "x.jpg" in result.err
        with pytest.raises(CheckpointError, match=name):
            open_backend(tmp_path / name)


def test_an_exported_file_is_no_source(
    model: Path, textures: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """Nor is it called damaged. What can be read as weights is, whatever it is called."""
    export_model(str(model), ExportOptions(format="openvino", output=tmp_path / "m.xml", validate=str(textures)))
    for name in ("m.om", "m.air", "m.mindir"):
        (tmp_path / name).write_bytes(b"a compiled graph")
    for name in ("m.xml", "m.om", "m.air", "m.mindir"):
        result = command("export", tmp_path / name, "--format", "onnx", "--output", tmp_path / "new.onnx")
        assert (result.code, f"{name} is an exported file" in result.err) == (2, True), result.err
        assert "give the weights that it was made of" in result.err
    result = command("export", tmp_path / "gone.xml", "--format", "onnx", "--output", tmp_path / "new.onnx")
    assert (result.code, "no model at" in result.err) == (2, True), result.err
    assert not (tmp_path / "new.onnx").exists()
    weights = tmp_path / "weights.xml"
    weights.write_bytes(model.read_bytes())
    assert (
        export_model(
            str(weights), ExportOptions(format="onnx", output=tmp_path / "new.onnx", validate=str(textures))
        ).verification
        is not None
    )


def in_a_constant(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same with its tensor in another file as an operator's attribute."""
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (tensor,) = (one for one in other.graph.initializer if one.external_data)
    other.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    other.graph.initializer.remove(tensor)
    return other


def test_weights_beside_an_onnx_file_lie_beside_it_or_are_not_read(
    model: Path, textures: Path, tmp_path: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor is in a file of its own, as ONNX allows; where that lies is up to who wrote the name.

    ONNX Runtime, of which older versions read any file and any address in memory, is not asked.
    """
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    path = folder / "m.onnx"
    export_model(str(model), ExportOptions(format="onnx", output=path, validate=str(textures)))
    graph = onnx.load(path)
    tensor = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    for place in (secret, folder / "beside"):
        place.write_bytes(tensor.raw_data)
    (folder / "link").symlink_to(secret)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add(key="location")
    described = next(prop for prop in graph.metadata_props if prop.key == NOTE)
    odd = (".", "", "folder", "*/_ORT_MEM_ADDR_/*")
    outside = ("../secret", "a/../../secret", "./../secret", str(secret), f"//{secret}", "link", "%2e%2e/secret")

    def write(location: str) -> None:
        """With the checksum that the file has then, so that the location alone decides."""
        entry.value = location
        path.write_bytes(graph.SerializeToString())
        described.value = json.dumps(json.loads(described.value) | {"content": hash_content(path)})
        path.write_bytes(graph.SerializeToString())

    for location in (*outside, *odd, "..\\secret", "file:../secret", "/dev/zero", "/proc/self/environ"):
        write(location)
        for read in (read_model, open_backend):
            with pytest.raises(CheckpointError, match=r"m\.onnx") as error:
                read(path)
            assert "SHA-256" not in str(error.value)
    write("beside")
    read_model(path)
    torch.testing.assert_close(open_backend(path).infer(expected[0]), expected[1], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_without_onnx_a_word_says_what_to_install(model: Path, textures: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['onnx'] = None\n"
        "from inceptionv4.cli import main\n"
        "main(['export', sys.argv[1], '--validate', sys.argv[2], '--format', 'openvino'])\n"
    )
    command = [sys.executable, "-c", program, model, textures]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'inceptionv4[onnx]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_go_together(model: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    for arguments, words in (
        (("onnx", "--output", "m.bin"), "must end in .onnx"),
        (("onnx", "--precision", "bf16"), "onnx is written in fp32, int8 (--int8), not in bf16"),
        (("onnx", "--int8"), "--calibrate FOLDER"),
        (("mindir", "--int8", "--calibrate", "x"), "--int8 is for onnx and openvino"),
        (("air", "--pixels"), "--pixels is for onnx, openvino and mindir"),
        (("onnx", "--encrypt-key-file", "k"), "is for --format mindir"),
        (("onnx", "--batch-size", 0), "--batch-size must be at least 1"),
        (
            ("onnx", "--batch-size", 2**63),
            "--batch-size must be at least 1 and at most 1048576, got 9223372036854775808",
        ),
        (
            ("onnx", "--int8", "--calibrate", "x", "--max-drop", "nan"),
            "--max-drop a number, at least 0, got 300 and nan",
        ),
    ):
        result = command("export", model, "--format", *arguments)
        assert (result.code, words in result.err) == (2, True), result.err
    assert list(tmp_path.iterdir()) == []


def test_python_refuses_the_options_that_the_command_refuses(tmp_path: Path) -> None:
    for options, words in (
        ({"format": "onnx", "output": tmp_path / "m.bin"}, "must end in .onnx"),
        ({"format": "mindir", "precision": "bf16"}, "mindir is written in fp32, not in bf16"),
        ({"format": "onnx", "profile": "ascend", "int8": True, "calibrate": "x"}, "--int8 is not for --profile ascend"),
        ({"format": "onnx", "samples": 5}, "--calibrate, --samples and --max-drop are for --int8"),
        ({"format": "openvino", "soc_version": "Ascend310P3"}, "--soc-version is for --format om"),
        ({"format": "onnx", "output": tmp_path / "no/m.onnx"}, "which is no folder"),
    ):
        with pytest.raises(UsageError, match=words):
            ExportOptions(**options)  # type: ignore[arg-type]
    assert ExportOptions(format="om").computed_in == "fp16"
    assert ExportOptions(format="openvino").path == Path("inceptionv4.xml")


def test_classifier_answers_by_any_runtime(model: Path, textures: Path, tmp_path: Path) -> None:
    files = sorted((textures / "val").rglob("*.jpg"))[::5]
    answers = Classifier.load(model)(files)
    for form, ending in (("onnx", "onnx"), ("openvino", "xml")):
        path = tmp_path / f"m.{ending}"
        export_model(str(model), ExportOptions(format=form, output=path, validate=str(textures)))  # type: ignore[arg-type]
        for ours, theirs in zip(answers, Classifier.load(path)(files), strict=True):
            assert ours.label == theirs.label
            np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-4)
