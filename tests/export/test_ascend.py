"""Ascend, without one: stand-ins for atc, pyACL and ais_bench check each call and compute the answers by themselves."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch

from inceptionv4.data.transforms import normalize
from inceptionv4.errors import CheckpointError, Error, UsageError
from inceptionv4.export.ascend import Ascend
from inceptionv4.export.atc import Recipe, write_aipp
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference.backends.ascend import AscendBackend
from inceptionv4.inference.runtimes import RUNTIMES, open_backend
from inceptionv4.runtime.exported import read_sidecar, write_sidecar
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.load import load_model

CANN = Path(__file__).parent / "cann"
IMAGENET = Preprocessing(size=75, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(CANN)
    return importlib.import_module("chip")


@pytest.fixture
def acl(chip: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A fresh pyACL on an Ascend310P3, in which nothing may be left in the end."""
    monkeypatch.syspath_prepend(CANN / "pyacl")
    module = importlib.import_module("acl")
    yield module
    del sys.modules["acl"]
    module.fail.clear()
    gc.collect()
    assert module.alive == {}


@pytest.fixture
def ais_bench(chip: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(CANN / "ais")
    yield importlib.import_module("ais_bench.infer.interface")
    for name in ("ais_bench", "ais_bench.infer", "ais_bench.infer.interface"):
        del sys.modules[name]


@pytest.fixture
def name_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What puts a libascendcl.so on the loader's path, whose chip is called so."""
    load = ctypes.CDLL

    def build(name: str) -> None:
        library = tmp_path / f"{name}.so"
        source = CANN / "ais" / "libascendcl.c"
        subprocess.run(["cc", "-shared", f'-DCHIP="{name}"', source, "-o", library], check=True)
        monkeypatch.setattr(ctypes, "CDLL", lambda asked: load(library if asked == "libascendcl.so" else asked))

    return build


@pytest.fixture(scope="session")
def search_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with a compiler on it."""
    script = tmp_path_factory.mktemp("bin") / "atc"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {CANN / "atc.py"} "$@"\n')
    script.chmod(0o755)
    return f"{script.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def atc(search_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", search_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a folder"
    made.mkdir()
    return made


@pytest.fixture(scope="session")
def compiled(search_path: str, narrow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "narrow.om"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", search_path)
        export_model(
            str(narrow_model), ExportOptions(format="om", output=path, batch_size=3, soc_version="Ascend310P3")
        )
    return path


@pytest.fixture
def om(compiled: Path, folder: Path) -> Path:
    """A .om of three images at once, for an Ascend310P3, that takes pixels. Nothing ran it."""
    shutil.copytree(compiled.parent, folder, dirs_exist_ok=True)
    return folder / compiled.name


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def expected(model: Path, images: torch.Tensor) -> torch.Tensor:
    network, checkpoint = load_model(model)
    with torch.inference_mode():
        return network(normalize(images, checkpoint.spec.preprocessing))


def random_images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 75, 75), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("preprocessing", [Preprocessing(size=75), IMAGENET])
def test_aipp_normalises_as_training_does(preprocessing: Preprocessing, chip: ModuleType) -> None:
    aipp = chip.parse_aipp(write_aipp(preprocessing))
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    ours = chip.apply_aipp(every.permute(0, 2, 3, 1).numpy(), aipp).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours, normalize(every, preprocessing).numpy(), rtol=0, atol=1e-6)
    assert aipp["input_format"] == "RGB888_U8"
    if preprocessing.mean == (0.5, 0.5, 0.5):
        assert [aipp[f"min_chn_{i}"] for i in range(3)] == ["127.5"] * 3
        assert float(aipp["var_reci_chn_0"]) == pytest.approx(2 / 255)


def test_a_profile_of_onnx_that_atc_reads_with_its_command(
    atc: None, chip: ModuleType, narrow_model: Path, folder: Path, command: Callable[..., object]
) -> None:
    path = folder / "narrow.onnx"
    arguments = ("export", narrow_model, "--format", "onnx", "--profile", "ascend", "--output", path, "--batch-size", 2)
    result = command(*arguments)
    assert result.code == 0, result.err
    assert "logits within" in result.out
    assert files(folder) == ["narrow.aipp.cfg", "narrow.atc.sh", "narrow.onnx"]
    graph = onnx.load(path)
    assert (graph.opset_import[0].version, graph.ir_version) == (18, 8)
    kinds = {node.op_type for node in graph.graph.node}
    assert kinds == {"Conv", "Relu", "MaxPool", "AveragePool", "Concat", "GlobalAveragePool", "Flatten", "Gemm"}
    assert (
        "\natc --framework=5 --model=narrow.onnx --output=narrow --input_format=NCHW --input_shape=images:2,3,75,75 "
        "--soc_version=Ascend310P3 --precision_mode=force_fp16 --insert_op_conf=narrow.aipp.cfg --log=error\n"
    ) in (folder / "narrow.atc.sh").read_text()

    subprocess.run(["sh", folder / "narrow.atc.sh"], check=True, capture_output=True, cwd="/")
    assert read_sidecar(folder / "narrow.om") == replace(
        open_backend(path).metadata,
        format="om", precision="fp16", input="uint8", soc_version="Ascend310P3", verification=None,
        content=hashlib.sha256((folder / "narrow.om").read_bytes()).hexdigest(),
    )  # fmt: skip
    description = json.loads((folder / "narrow.om.json").read_text())
    assert (description["status"], "never run" in description["reason"]) == ("unverified", True)
    images = random_images(2)
    logits = chip.Chip(str(folder / "narrow.om")).compute(images.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(logits, expected(narrow_model, images), rtol=0, atol=1e-5)

    command(*arguments, "--no-pixels", "--soc-version", "Ascend910B4")
    script = (folder / "narrow.atc.sh").read_text()
    assert "--soc_version=Ascend910B4" in script
    assert "insert_op_conf" not in script
    assert '"input": "float32"' in script


def test_without_atc_all_but_the_last_step_is_done(
    narrow_model: Path, folder: Path, command: Callable[..., object]
) -> None:
    result = command("export", narrow_model, "--format", "om", "--output", folder / "narrow.om")
    assert (result.code, result.out) == (5, "")
    assert "there is no atc on PATH" in result.err
    assert "`sh narrow.atc.sh`" in result.err
    assert files(folder) == ["narrow.aipp.cfg", "narrow.ascend.onnx", "narrow.atc.sh"]
    assert "--model=narrow.ascend.onnx --output=narrow " in (folder / "narrow.atc.sh").read_text()
    verification = open_backend(folder / "narrow.ascend.onnx").metadata.verification
    assert verification is not None
    assert verification.top1_agreement == 1


def test_atc_compiles_what_onnx_runtime_verified(
    atc: None, narrow_model: Path, narrow_spec: ModelSpec, folder: Path, command: Callable[..., object]
) -> None:
    path = folder / "narrow.om"
    result = command("export", narrow_model, "--format", "om", "--batch-size", 3, "--output", path)
    assert (result.code, "narrow.om: om, fp16" in result.out, "unverified" in result.out) == (0, True, True), result.err
    assert files(folder) == ["narrow.om", "narrow.om.json"]
    metadata = read_sidecar(path)
    assert (metadata.format, metadata.precision, metadata.input) == ("om", "fp16", "uint8")
    assert (metadata.batch_size, metadata.soc_version, metadata.spec) == (3, "Ascend310P3", narrow_spec)
    assert metadata.verification is None


def test_atc_that_fails_is_quoted_and_leaves_nothing(
    atc: None, narrow_model: Path, folder: Path, command: Callable[..., object]
) -> None:
    result = command(
        "export", narrow_model, "--format", "om", "--soc-version", "Ascend999", "--output", folder / "narrow.om"
    )
    assert result.code == 1
    assert "atc made no narrow.om (exit code 255)" in result.err
    assert "E10001: Value [Ascend999] for parameter [--soc_version] is invalid." in result.err
    assert "atc --framework=5" in result.err
    assert files(folder) == []


def test_on_an_ascend_of_the_kind_the_om_passes_the_gate(
    atc: None, acl: ModuleType, narrow_model: Path, folder: Path, command: Callable[..., object]
) -> None:
    arguments = ("export", narrow_model, "--format", "om", "--output", folder / "narrow.om")
    assert Ascend().resolve() == "Ascend310P3"
    result = command(*arguments)
    assert result.code == 0, result.err
    verification = read_sidecar(folder / "narrow.om").verification
    assert verification is not None
    assert verification.largest_difference < 1e-4
    assert "mdl.execute" in acl.calls

    command(*arguments, "--soc-version", "Ascend910B4")
    assert read_sidecar(folder / "narrow.om").verification is None  # another kind
    acl.soc = None
    command(*arguments)
    assert read_sidecar(folder / "narrow.om").verification is None
    assert read_sidecar(folder / "narrow.om").soc_version == "Ascend310P3"

    kept = (folder / "narrow.om").read_bytes()
    acl.soc = "Ascend310B1"
    assert Ascend().resolve() == "Ascend310B1"
    acl.fail["mdl.execute"] = 507011
    result = command(*arguments)
    assert (result.code, "acl.mdl.execute failed: error 507011" in result.err) == (1, True)
    assert (folder / "narrow.om").read_bytes() == kept


def test_where_only_ais_bench_is_the_om_passes_the_gate_too(
    atc: None,
    ais_bench: ModuleType,
    name_chip: Callable[[str], None],
    narrow_model: Path,
    folder: Path,
    command: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = folder / "narrow.om"
    arguments = ("export", narrow_model, "--format", "om", "--output", path)
    name_chip("Ascend310B1")
    result = command(*arguments)
    assert result.code == 0, result.err
    verified = read_sidecar(path)
    assert verified.soc_version == "Ascend310B1"
    assert verified.verification is not None
    assert verified.verification.largest_difference < 1e-4
    assert ais_bench.freed[-1].endswith("/narrow.om")

    monkeypatch.setattr(ais_bench.InferSession, "infer", lambda *_, **__: [np.zeros((1, 3), np.float32)])
    kept = path.read_bytes()
    result = command(*arguments)
    assert (result.code, "narrow.om, run by ais_bench" in result.err) == (1, True)
    assert path.read_bytes() == kept

    assert command(*arguments, "--soc-version", "Ascend310P3").code == 0  # another kind
    assert read_sidecar(path).verification is None


def test_where_nothing_runs_it_the_om_of_this_chip_is_kept_unverified(
    atc: None, name_chip: Callable[[str], None], narrow_model: Path, folder: Path, command: Callable[..., object]
) -> None:
    name_chip("Ascend310B1")
    result = command("export", narrow_model, "--format", "om", "--output", folder / "narrow.om")
    assert (result.code, "unverified" in result.out) == (0, True), result.err
    metadata = read_sidecar(folder / "narrow.om")
    assert (metadata.soc_version, metadata.verification) == ("Ascend310B1", None)


def test_an_om_that_answers_otherwise_is_not_kept(
    atc: None,
    acl: ModuleType,
    chip: ModuleType,
    narrow_model: Path,
    folder: Path,
    command: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = chip.Chip.compute
    monkeypatch.setattr(chip.Chip, "compute", lambda self, images: compute(self, images) * np.float32([1, 1, 1.1]))
    result = command("export", narrow_model, "--format", "om", "--output", folder / "narrow.om")
    assert (result.code, "narrow.om, run by pyACL" in result.err) == (1, True)
    assert files(folder) == []


def test_pyacl_answers_as_the_network_does_and_gives_everything_back(
    om: Path, acl: ModuleType, narrow_model: Path
) -> None:
    backend = open_backend(om)
    assert backend.describe() == "pyACL, Ascend310P3, device 0, fp16"
    assert acl.calls == [
        "init", "rt.set_device", "rt.create_context", "mdl.load_from_file", "mdl.create_desc", "mdl.get_desc",
        "mdl.get_num_inputs", "mdl.get_num_outputs", "mdl.get_output_dims", "mdl.get_input_data_type",
        "mdl.get_input_size_by_index", "mdl.get_output_data_type",
        "mdl.get_input_size_by_index", "rt.malloc", "mdl.create_dataset", "create_data_buffer",
        "mdl.add_dataset_buffer",
        "mdl.get_output_size_by_index", "rt.malloc", "mdl.create_dataset", "create_data_buffer",
        "mdl.add_dataset_buffer",
    ]  # fmt: skip
    acl.calls.clear()
    images = random_images(7)  # three, three, and one that is filled up
    torch.testing.assert_close(backend.infer(images), expected(narrow_model, images), rtol=0, atol=1e-5)
    assert acl.calls == 3 * ["rt.set_context", "rt.memcpy", "mdl.execute", "rt.memcpy"]
    with pytest.raises(ValueError, match="takes uint8 pixels"):
        backend.infer(torch.zeros(1, 3, 75, 75))

    with ThreadPoolExecutor(1) as threads:  # as a server does
        torch.testing.assert_close(threads.submit(backend.infer, images).result(), backend.infer(images))

    acl.calls.clear()
    del backend
    gc.collect()
    assert acl.calls == [
        "rt.set_context", "destroy_data_buffer", "mdl.destroy_dataset", "rt.free",
        "destroy_data_buffer", "mdl.destroy_dataset", "rt.free",
        "mdl.destroy_desc", "mdl.unload", "rt.destroy_context", "rt.reset_device",
    ]  # fmt: skip
    assert acl.alive == {}


def test_floats_where_the_om_has_no_aipp(
    atc: None, acl: ModuleType, narrow_model: Path, folder: Path, command: Callable[..., object]
) -> None:
    path = folder / "narrow.om"
    result = command("export", narrow_model, "--format", "om", "--no-pixels", "--batch-size", 2, "--output", path)
    assert result.code == 0, result.err
    images = random_images(3)
    floats = normalize(images, Preprocessing())
    backend = open_backend(path)
    for given in (images, floats):
        torch.testing.assert_close(backend.infer(given), expected(narrow_model, images), rtol=0, atol=1e-5)


def test_sizes_rounded_up_and_logits_in_half(om: Path, acl: ModuleType, narrow_model: Path) -> None:
    acl.lie["mdl.get_input_size_by_index"] = 3 * 3 * 75 * 75 + 96
    acl.lie["mdl.get_output_size_by_index"] = 64
    images = random_images(3)
    answer = open_backend(om).infer(images)
    torch.testing.assert_close(answer, expected(narrow_model, images), rtol=0, atol=1e-5)
    acl.lie["mdl.get_output_data_type"] = acl.FLOAT16
    answer = open_backend(om).infer(images)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, expected(narrow_model, images), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ("init", Error, "acl.init failed: error 7, EZ9999: Inner Error! what it is about"),
        ("rt.set_device", Error, "acl.rt.set_device failed: error 7"),
        ("rt.create_context", Error, "acl.rt.create_context failed"),
        ("mdl.load_from_file", CheckpointError, "compiled for Ascend310P3, this is Ascend310P3"),
        ("mdl.get_desc", Error, "acl.mdl.get_desc failed"),
        ("rt.malloc", Error, "acl.rt.malloc failed"),
        ("mdl.add_dataset_buffer", Error, "acl.mdl.add_dataset_buffer failed"),
    ],
)
def test_what_was_taken_is_given_back_after_errors(
    om: Path, acl: ModuleType, call: str, kind: type[Error], words: str
) -> None:
    acl.fail[call] = 7
    with pytest.raises(kind, match=words):
        open_backend(om)
    assert acl.alive == {}
    acl.fail.clear()
    assert open_backend(om).infer(random_images(1)).shape == (1, 3)


def test_errors_while_it_runs_leave_it_usable(om: Path, acl: ModuleType) -> None:
    backend = open_backend(om)
    for call in ("rt.memcpy", "mdl.execute"):
        acl.fail[call] = 507899
        with pytest.raises(Error, match=f"acl.{call} failed: error 507899.*npu-smi"):
            backend.infer(random_images(1))
        acl.fail.clear()
    assert backend.infer(random_images(1)).shape == (1, 3)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("mdl.get_num_outputs", 2),
        ("mdl.get_input_data_type", 0),
        ("mdl.get_input_size_by_index", 4 * 3 * 3 * 75 * 75),
        ("mdl.get_input_size_by_index", 2 * 3 * 75 * 75),
        ("mdl.get_output_dims", ({"name": "logits", "dims": [3, 1000]}, 0)),
        ("mdl.get_output_data_type", 9),
    ],
)
def test_a_description_of_another_model_is_found_out(om: Path, acl: ModuleType, call: str, answer: object) -> None:
    acl.lie[call] = answer
    with pytest.raises(CheckpointError, match=r"not the model that narrow.om.json describes: 3 uint8 images of 75"):
        open_backend(om)
    assert acl.alive == {}


def test_an_om_for_another_chip_says_so(om: Path, acl: ModuleType) -> None:
    acl.soc = "Ascend910B4"
    with pytest.raises(CheckpointError, match="it is compiled for Ascend310P3, this is Ascend910B4"):
        open_backend(om)


def test_torch_npu_may_have_started_pyacl_before(om: Path, acl: ModuleType) -> None:
    acl.init()
    assert open_backend(om).infer(random_images(1)).shape == (1, 3)


def test_at_the_end_of_a_process_the_model_goes_before_pyacl(om: Path, tmp_path: Path) -> None:
    program = (
        "import weakref; early = type('', (), {})(); weakref.finalize(early, print)\n"
        f"from inceptionv4.inference.runtimes import open_backend; backend = open_backend({str(om)!r})"
    )
    log = tmp_path / "log"
    paths = [str(CANN), str(CANN / "pyacl"), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FAKE_ACL_LOG": str(log)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert log.read_text().split()[-3:] == ["rt.destroy_context", "rt.reset_device", "finalize"]


def test_ais_bench_answers_as_the_network_does(
    om: Path, ais_bench: ModuleType, narrow_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend(om)
    assert backend.describe() == "ais_bench, Ascend310P3, device 0, fp16"
    images = random_images(4)
    torch.testing.assert_close(backend.infer(images), expected(narrow_model, images), rtol=0, atol=1e-5)
    monkeypatch.setattr(ais_bench.InferSession, "infer", lambda *_, **__: [np.zeros((3, 1000), np.float32)])
    with pytest.raises(Error, match=r"answers \(3, 1000\), its description says \(3, 3\)"):
        backend.infer(images)
    monkeypatch.undo()
    del backend
    gc.collect()
    assert ais_bench.freed == [str(om)]
    metadata = read_sidecar(om)
    om.write_bytes(b"damaged")
    write_sidecar(om, metadata)  # the checksum is right, so that the runtime sees the file
    monkeypatch.syspath_prepend(CANN / "ais")
    monkeypatch.syspath_prepend(CANN)
    with pytest.raises(CheckpointError, match="was not loaded"):
        AscendBackend(om)


def test_predict_and_evaluate_take_an_om(
    atc: None, acl: ModuleType, narrow_model: Path, textures: Path, folder: Path, command: Callable[..., object]
) -> None:
    path = folder / "narrow.om"
    command("export", narrow_model, "--format", "om", "--batch-size", 4, "--output", path)
    ours, theirs = (
        json.loads(command("evaluate", model, "--data", textures, "--json").out) for model in (path, narrow_model)
    )
    assert ours["images"] == 45
    assert ours.pop("runtime").startswith("pyACL, Ascend310P3")
    assert theirs.pop("runtime").startswith("PyTorch")
    assert (ours.pop("precision"), theirs.pop("precision")) == ("fp16", "fp32")
    assert ours == pytest.approx(theirs, abs=1e-4)
    images = sorted((textures / "val" / "grass").iterdir())[:5]
    ours, theirs = (command("predict", model, *images, "--csv").out.splitlines() for model in (path, narrow_model))
    assert [line.rsplit(",", 1)[0] for line in ours] == [line.rsplit(",", 1)[0] for line in theirs]


def test_without_cann_an_om_says_what_it_needs(om: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="by pyACL or ais_bench .*set_env.sh"):
        open_backend(om)
    runtime = next(runtime for runtime in RUNTIMES if runtime.suffix == ".om")
    assert "acl or ais_bench is not installed" in str(runtime.missing())
    assert "untested on hardware" in runtime.tested
    (folder / "narrow.om.json").unlink()
    with pytest.raises(CheckpointError, match="needs narrow.om.json beside it"):
        open_backend(om)


def test_libraries_of_cann_that_are_not_found(om: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acl.py").write_text("raise ImportError('libascendcl.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"libascendcl.so: cannot open.*set_env.sh"):
        open_backend(om)


@pytest.mark.parametrize("name", ["Ascend310P3", "Ascend910B4-1", "Ascend910_9391", "Ascend310"])
def test_chips_names_are_taken(name: str) -> None:
    assert Ascend(name).resolve() == name


@pytest.mark.parametrize(
    "name", ["310P3", "Ascend", "Ascend-1", "Ascend310P3; rm", "Ascend310P3\n", "Ascend$(rm)", "Ascend`rm`", "Ascend³"]
)
def test_what_is_no_chips_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="what `npu-smi info` calls the chip"):
        Ascend(name).resolve()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "om", "--soc-version", "310P3"), "Ascend and what `npu-smi info` calls the chip"),
        (("--format", "om", "--soc-version", "Ascend310P3; rm"), "Ascend and what `npu-smi info` calls the chip"),
        (("--format", "om", "--precision", "fp32"), "om is written in fp16, not in fp32"),
        (("--format", "om", "--int8", "--calibrate", "x"), "--int8 is for onnx and openvino"),
        (("--format", "openvino", "--profile", "ascend"), "--profile ascend is for --format onnx"),
        (("--format", "onnx", "--soc-version", "Ascend310P3"), "--soc-version is for --format om and --profile ascend"),
        (("--format", "onnx", "--profile", "ascend", "--int8", "--calibrate", "x"), "--int8 is not for --profile"),
    ],
)
def test_what_makes_no_sense_is_refused(
    narrow_model: Path, command: Callable[..., object], arguments: tuple[str, ...], words: str
) -> None:
    result = command("export", narrow_model, *arguments)
    assert (result.code, words in result.err) == (2, True), result.err


def test_two_formats_of_one_name_keep_their_descriptions_apart(om: Path) -> None:
    other = om.with_suffix(".mindir")
    metadata: ExportMetadata = replace(read_sidecar(om), format="mindir", precision="fp32", input="float32")
    other.write_bytes(b"a graph")
    write_sidecar(other, metadata)
    assert read_sidecar(other).input == "float32"
    assert read_sidecar(om).input == "uint8"


def test_the_script_takes_any_names(narrow_spec: ModelSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(narrow_spec, classes=("END", "$(touch harm)", "it's", "`x`\\n", "Ü\nEND\n"))
    metadata = ExportMetadata(
        format="om", precision="fp16", spec=spec, version="1", weights="0", input="uint8", batch_size=1,
        soc_version="Ascend310P3",
    )  # fmt: skip
    name = "it's $HOME.om"
    recipe = Recipe("it's $HOME.onnx", name, metadata)
    recipe.write(folder)
    compiler = folder.parent / "atc"
    compiler.write_text('#!/bin/sh\nprintf \'%s\\n\' "$@" > arguments\necho om > "it\'s \\$HOME.om"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["sh", recipe.script], check=True, cwd=folder)
    made = ["om", "om.json"]
    assert files(folder) == ["arguments", *(f"it's $HOME.{ending}" for ending in ("aipp.cfg", "atc.sh", *made))]
    assert (folder / "arguments").read_text().splitlines() == recipe.command()[1:]
    assert read_sidecar(folder / name) == replace(metadata, content=hashlib.sha256(b"om\n").hexdigest())


def test_air_is_written_by_mindspore_and_marked_unverified(
    narrow_model: Path, folder: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untested on hardware: MindSpore is told that an Ascend is there, and what it is asked to write is looked at."""
    os.environ.setdefault("GLOG_v", "4")
    mindspore = pytest.importorskip("mindspore")
    asked: list[tuple[tuple[int, ...], str]] = []

    def write(cells: object, images: object, *, file_name: str, file_format: str) -> None:
        asked.append((images.shape, file_format))
        Path(file_name).write_bytes(b"air")

    monkeypatch.setattr(mindspore.hal, "is_available", lambda name: name == "Ascend")
    monkeypatch.setattr(mindspore, "set_device", lambda name: None)
    monkeypatch.setattr(mindspore, "export", write)
    path = folder / "narrow.air"
    result = command("export", narrow_model, "--format", "air", "--batch-size", 2, "--output", path)
    assert (result.code, "unverified" in result.out) == (0, True), result.err
    assert asked == [((2, 3, 75, 75), "AIR")]
    assert files(folder) == ["narrow.air", "narrow.air.json"]
    assert read_sidecar(path).verification is None
