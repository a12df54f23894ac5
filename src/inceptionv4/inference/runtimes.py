"""Which runtime answers for which kind of file, whether it is here, and where it was ever tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inceptionv4.config import PrecisionOption, RuntimeOption
from inceptionv4.errors import UsageError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.open_weights import Weights, check_options
from inceptionv4.inference.trial import open_fastest
from inceptionv4.network.inference_graph import build_inference_graph
from inceptionv4.runtime.device import ASCEND, CPU, NVIDIA, Device, select_device
from inceptionv4.runtime.exported import is_exported_onnx
from inceptionv4.weights.load import find_model, load_model


@dataclass(frozen=True)
class Runtime:
    """One way to run a model."""

    name: str
    suffix: str
    """The ending of the files that it runs; empty: weights, of any origin."""
    modules: tuple[str, ...]
    """Python packages any of which it needs."""
    install: str
    devices: Callable[[], tuple[str, ...]]
    """Kinds of torch's devices that it can be told to compute on."""
    tested: str
    """On which hardware its answers were compared with the network's."""
    open: Callable[[Path, Device], Backend] | None
    """For a file; None: weights, which `open_weights` opens."""

    def missing(self) -> str | None:
        """Why it cannot be used here; None if it can."""
        if any(importlib.util.find_spec(module) for module in self.modules):
            return None
        return f"{' or '.join(self.modules)} is not installed: {self.install}"


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
TORCH = Runtime("torch", "", ("torch",), "", _any, "CPU, an NVIDIA H200; Ascend untested on hardware", None)
RUNTIMES = (
    TORCH,
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


def open_backend(
    model: str | Path,
    *,
    device: str = "auto",
    precision: PrecisionOption | None = None,
    runtime: RuntimeOption | None = None,
) -> Backend:
    """Whatever a user calls a model, ready to answer.

    Weights are answered by PyTorch in fp32 unless another `runtime` or `precision` is given (`Weights.open`). An
    exported file has its own runtime and precision: what is given must be that, or `auto`.

    Raises:
        UsageError: no such model or device; its runtime is not installed, or does not compute on the device or in the
            precision asked for; another runtime or precision than that of an exported file.
        CheckpointError: it is damaged, or no Inception-v4.
    """
    check_options(runtime, precision)
    backend = _open(find_model(model), device, precision, runtime)
    backend.name = str(model)
    return backend


def _open(path: Path, device: str, precision: PrecisionOption | None, runtime: RuntimeOption | None) -> Backend:
    """`open_backend` for a file that is here."""
    kind = next((kind for kind in RUNTIMES[1:] if path.suffix.lower() == kind.suffix), TORCH)
    if kind.suffix == ".onnx" and not is_exported_onnx(path):
        kind = TORCH  # another project's: read as weights
    if kind.open is None:
        network, checkpoint = load_model(path)
        weights = Weights(build_inference_graph(network), checkpoint.spec, checkpoint.trained_on, device)
        if runtime == "auto":
            return open_fastest(weights, precision or "fp32")
        return weights.open(runtime or "torch", precision or "fp32")
    if runtime not in (None, "auto", kind.name):
        raise UsageError(
            f"{path.name} is an exported file, which {kind.name} runs, not {runtime}; leave --runtime out, or name the "
            "weights that it was made of"
        )
    selected = select_device(device, "fp32")
    if device != "auto" and selected.device.type not in kind.devices():
        raise UsageError(
            f"{kind.name} runs {path.name} on {' or '.join(kind.devices())} here, not on {device}; with `auto` "
            "it takes what it can, and weights go to any device"
        )
    backend = kind.open(path, selected)
    if precision not in (None, "auto", backend.precision):
        raise UsageError(
            f"{path.name} is an exported file, which is computed in {backend.precision} here, not in {precision}; "
            "leave --precision out, or name the weights that it was made of"
        )
    return backend
