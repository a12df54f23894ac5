"""A device that was asked for is the one that answers, or there is an error; `auto` takes what a runtime can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from inceptionv4.errors import UsageError
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.inference import runtimes
from inceptionv4.inference.backends.onnx import OnnxBackend
from inceptionv4.inference.runtimes import open_backend

OFFERED = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture(scope="module")
def onnx_file(narrow_model: Path, textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_model(str(narrow_model), ExportOptions(format="onnx", output=path, validate=str(textures)))
    return path


def test_a_device_that_a_runtime_cannot_use(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` is the one device that every torch has beside the processor."""
    intermediate = onnx_file.with_suffix(".xml")
    intermediate.touch()
    with pytest.raises(UsageError, match=r"onnxruntime runs model\.onnx on cpu here, not on meta"):
        open_backend(onnx_file, device="meta")
    with pytest.raises(UsageError, match=r"openvino runs model\.xml on cpu here, not on meta"):
        open_backend(intermediate, device="meta")
    # What torch finds by itself is no wish.
    found = SimpleNamespace(device=torch.device("meta"))
    monkeypatch.setattr(runtimes, "select_device", lambda *_: found)
    assert open_backend(onnx_file).describe() == "ONNX Runtime, CPU, fp32"


@pytest.mark.parametrize(
    ("name", "providers"),
    [
        ("cpu", ["CPUExecutionProvider"]),
        ("cuda", [("CUDAExecutionProvider", {"device_id": 0, "use_tf32": "0"}), "CPUExecutionProvider"]),
        ("cuda:3", [("CUDAExecutionProvider", {"device_id": 3, "use_tf32": "0"}), "CPUExecutionProvider"]),
    ],
)
def test_each_process_of_onnxruntime_has_its_own_accelerator(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, providers: list[Any]
) -> None:
    """Of an onnxruntime that was built for NVIDIA."""
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(model: Any, options: Any, providers: list[Any], enable_fallback: int) -> Any:
        asked[:] = providers
        return Loaded(model, options, ["CPUExecutionProvider"])

    class Loaded(real):  # type: ignore[valid-type,misc]
        def get_providers(self) -> list[str]:
            return [name if isinstance(name, str) else name[0] for name in asked]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: OFFERED)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxBackend.open(onnx_file, torch.device(name))
    assert asked == providers


def test_an_accelerator_whose_libraries_do_not_load(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, onnxruntime would go on on the processor."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: OFFERED)
    with pytest.raises(UsageError, match="built for cuda and cannot use cuda: .*CUDA.* or take --device cpu"):
        OnnxBackend.open(onnx_file, torch.device("cuda"))
    assert OnnxBackend.open(onnx_file, torch.device("cpu")).describe() == "ONNX Runtime, CPU, fp32"


def test_signals_are_handled_after_openvino(onnx_file: Path) -> None:
    """Cores of OpenVINO's that end in the order of their beginning would leave none but a fault for the next signal."""
    code = (
        "import gc, os, signal, sys\n"
        "from inceptionv4.export_metadata import NOTE, ExportMetadata\n"
        "from inceptionv4.inference.backends.openvino import OpenVinoBackend\n"
        "import onnx\n"
        "model = onnx.load(sys.argv[1])\n"
        "note = next(entry.value for entry in model.metadata_props if entry.key == NOTE)\n"
        "metadata = ExportMetadata.from_json(note, 'a test')\n"
        "def make(): return OpenVinoBackend.of_graph(model.SerializeToString(), metadata)\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "first = make(); second = make()\n"
        "del first; gc.collect(); del second; gc.collect()\n"
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    done = subprocess.run([sys.executable, "-c", code, onnx_file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
