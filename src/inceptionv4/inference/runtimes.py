"""Which runtime answers for which kind of file, whether it is here, and where it was ever tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.onnx import is_exported_onnx
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.fastest import FastestBackend
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.weights.load import find_model, load_model


@dataclass(frozen=True)
class Runtime:
    """One way to run a model."""

    name: str
    suffix: str
    """Of the files that it runs; empty: weights, of any origin."""
    modules: tuple[str, ...]
    """Python packages any of which it needs."""
    install: str
    tested: str
    """On which hardware its answers were compared with the network's."""
    open: Callable[[Path, Device], Backend]

    def missing(self) -> str | None:
        """Why it cannot be used here; None if it can."""
        if any(importlib.util.find_spec(module) for module in self.modules):
            return None
        return f"{' or '.join(self.modules)} is not installed: {self.install}"


def _pt2(path: Path, device: Device) -> Backend:
    from inceptionv4.inference.backends.pt2 import Pt2Backend

    return Pt2Backend(path, device)


def _onnx(path: Path, device: Device) -> Backend:
    from inceptionv4.inference.backends.onnx import OnnxBackend

    return OnnxBackend.open(path, cpu=device.device.type == "cpu")


def _openvino(path: Path, device: Device) -> Backend:
    from inceptionv4.inference.backends.openvino import OpenVinoBackend

    return OpenVinoBackend.open(path)


def _mindspore(path: Path, device: Device) -> Backend:
    from inceptionv4.inference.backends.mindspore import MindSporeBackend

    return MindSporeBackend(path)


def _ascend(path: Path, device: Device) -> Backend:
    from inceptionv4.inference.backends.ascend import AscendBackend

    return AscendBackend(path, device.device.index or 0)


def _weights(path: Path, device: Device) -> Backend:
    network, checkpoint = load_model(path)
    kind = FastestBackend if device.device.type == "cpu" else TorchBackend
    return kind(network, checkpoint.spec, device, trained_on=checkpoint.trained_on)


def _extra(name: str) -> str:
    return f"pip install 'inceptionv4[{name}]'"


CANN = "install CANN and source its set_env.sh, see docs/ascend.md"
ASCEND = Runtime(
    "ascend", ".om", ("acl", "ais_bench"), CANN, "its calls, with stand-ins; untested on hardware", _ascend
)
TORCH = Runtime("torch", "", ("torch",), "", "CPU; NVIDIA and Ascend untested on hardware", _weights)
RUNTIMES = (
    TORCH,
    Runtime("torch.export", ".pt2", ("torch",), "", "CPU", _pt2),
    Runtime("onnxruntime", ".onnx", ("onnxruntime",), _extra("onnx"), "CPU", _onnx),
    Runtime("openvino", ".xml", ("openvino",), _extra("openvino"), "CPU; Intel GPUs untested on hardware", _openvino),
    Runtime("mindspore", ".mindir", ("mindspore",), _extra("mindspore"), "CPU", _mindspore),
    ASCEND,
)


def open_backend(model: str | Path, *, device: str = "auto") -> Backend:
    """Whatever a user calls a model, ready to answer: an exported file by the runtime for its kind, weights by torch,
    and on a processor by whatever is fastest there, after a while.

    Raises:
        UsageError: no such model or device, or its runtime is not installed.
        CheckpointError: it is damaged, or no Inception-v4.
    """
    path = find_model(model)
    runtime = next((runtime for runtime in RUNTIMES[1:] if path.suffix == runtime.suffix), TORCH)
    if path.suffix == ".onnx" and not is_exported_onnx(path):
        runtime = TORCH  # another project's: read as weights
    return runtime.open(path, select_device(device))
