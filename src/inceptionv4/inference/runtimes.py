"""Which runtime answers for which kind of file, whether it is here, and where it was ever tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inceptionv4.errors import UsageError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.onnx import is_exported_onnx
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.fastest import FastestBackend
from inceptionv4.runtime.device import ASCEND, CPU, NVIDIA, Device, select_device
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
    devices: Callable[[], tuple[str, ...]]
    """Kinds of torch's devices that it can be told to compute on."""
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

    # Its graph has no autocast, and its answers were compared in fp32.
    return Pt2Backend(path, select_device(str(device.device), "fp32"))


def _onnx(path: Path, device: Device) -> Backend:
    from inceptionv4.inference.backends.onnx import OnnxBackend

    return OnnxBackend.open(path, device.device)


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
    kind = FastestBackend if device.device.type == CPU else TorchBackend
    return kind(network, checkpoint.spec, device, trained_on=checkpoint.trained_on)


def _extra(name: str) -> str:
    return f"pip install 'inceptionv4[{name}]'"


def _any() -> tuple[str, ...]:
    return (CPU, NVIDIA, ASCEND)


def _onnx_devices() -> tuple[str, ...]:
    if importlib.util.find_spec("onnxruntime") is None:
        return _any()  # opening a file says that it is missing
    from inceptionv4.inference.backends.onnx import devices

    return devices()


def _cpu() -> tuple[str, ...]:
    return (CPU,)


def _npu() -> tuple[str, ...]:
    return (ASCEND,)


OM = Runtime(
    name="ascend",
    suffix=".om",
    modules=("acl", "ais_bench"),
    install="install CANN and source its set_env.sh, see docs/ascend.md",
    devices=_npu,
    tested="its calls, with stand-ins; untested on hardware",
    open=_ascend,
)
TORCH = Runtime("torch", "", ("torch",), "", _any, "CPU; NVIDIA and Ascend untested on hardware", _weights)
RUNTIMES = (
    TORCH,
    Runtime("torch.export", ".pt2", ("torch",), "", _any, "CPU; NVIDIA and Ascend untested on hardware", _pt2),
    Runtime(
        "onnxruntime",
        ".onnx",
        ("onnxruntime",),
        _extra("onnx"),
        _onnx_devices,
        "CPU; NVIDIA and Ascend untested on hardware",
        _onnx,
    ),
    Runtime("openvino", ".xml", ("openvino",), _extra("openvino"), _cpu, "CPU", _openvino),
    Runtime("mindspore", ".mindir", ("mindspore",), _extra("mindspore"), _cpu, "CPU", _mindspore),
    OM,
)


def open_backend(model: str | Path, *, device: str = "auto") -> Backend:
    """Whatever a user calls a model, ready to answer: an exported file by the runtime for its kind, weights by torch,
    and on a processor by whatever is fastest there, after a while.

    Raises:
        UsageError: no such model or device, its runtime is not installed, or does not compute on the device asked for.
        CheckpointError: it is damaged, or no Inception-v4.
    """
    path = find_model(model)
    runtime = next((runtime for runtime in RUNTIMES[1:] if path.suffix.lower() == runtime.suffix), TORCH)
    if runtime.suffix == ".onnx" and not is_exported_onnx(path):
        runtime = TORCH  # another project's: read as weights
    selected = select_device(device)
    if device != "auto" and selected.device.type not in runtime.devices():
        raise UsageError(
            f"{runtime.name} runs {path.name} on {' or '.join(runtime.devices())} here, not on {device}; with `auto` "
            "it takes what it can, and weights go to any device"
        )
    return runtime.open(path, selected)
