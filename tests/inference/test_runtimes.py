"""A device that was asked for is the one that answers, or there is an error; `auto` takes what a runtime can."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from inceptionv4.errors import UsageError
from inceptionv4.export.export import export_model
from inceptionv4.inference import runtimes
from inceptionv4.inference.backends.onnx import OnnxBackend
from inceptionv4.inference.runtimes import open_backend


@pytest.fixture(scope="module")
def onnx_file(narrow_model: Path, textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_model(str(narrow_model), "onnx", path, images=str(textures))
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
    monkeypatch.setattr(runtimes, "select_device", lambda name: found)
    assert open_backend(onnx_file).describe() == "ONNX Runtime, CPU, fp32"


@pytest.mark.parametrize(
    ("device", "providers"),
    [
        ("cpu", ["CPUExecutionProvider"]),
        ("cuda", [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]),
        ("cuda:3", [("CUDAExecutionProvider", {"device_id": 3}), "CPUExecutionProvider"]),
    ],
)
def test_each_process_of_onnxruntime_has_its_own_accelerator(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, device: str, providers: list[Any]
) -> None:
    """Of an onnxruntime that was built for NVIDIA."""
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(model: Any, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        return real(model, options, ["CPUExecutionProvider"])

    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxBackend.open(onnx_file, torch.device(device))
    assert asked == providers
