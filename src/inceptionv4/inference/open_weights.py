"""Weights, opened in the runtime and the precision that answer for them.

    weights = Weights(build_inference_graph(network), spec, trained_on, device="cpu")
    weights.open()                        # PyTorch in fp32
    weights.open("openvino", "auto")      # OpenVINO, in bf16 where the processor has it

What is opened does not change later: an image's prediction depends neither on its place in a stream nor on the load of
the machine. `inference.trial` finds the fastest.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

from inceptionv4.config import PrecisionOption, RuntimeName, RuntimeOption
from inceptionv4.errors import UsageError
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import CPU, select_device
from inceptionv4.spec import ModelSpec

NAMES: dict[RuntimeName, str] = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Weights:
    """A network as `network.inference_graph` leaves it, and what came with its weights."""

    rewritten: InceptionV4
    spec: ModelSpec
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"

    def open(self, runtime: RuntimeName = "torch", precision: PrecisionOption = "fp32") -> Backend:
        """The model in `runtime`. The precision `auto` is bf16 where runtime and device compute in it, else fp32.

        Raises:
            UsageError: no such device, or the runtime is not installed, does not load, or does not compute there in
                that precision.
        """
        match runtime:
            case "torch":
                device = select_device(self.device, precision)
                return TorchBackend(self.rewritten, self.spec, device, mode="eager", trained_on=self.trained_on)
            case "onnxruntime":
                backend = self._open_onnxruntime(precision)
            case "openvino":
                backend = self._open_openvino(precision)
        if precision not in ("auto", backend.precision):
            raise UsageError(
                f"{NAMES[runtime]} computes in {backend.precision} here, not in {precision}; "
                f"give --precision {backend.precision} or auto, or --runtime torch"
            )
        return backend

    def _open_onnxruntime(self, precision: PrecisionOption) -> Backend:
        if precision not in ("auto", "fp32"):
            raise UsageError(f"ONNX Runtime computes weights in fp32, not in {precision}; give --precision fp32")
        require("onnxruntime", "onnx")
        from inceptionv4.inference.backends.onnx import OnnxBackend, devices

        device = select_device(self.device, "fp32").device
        _require_device("onnxruntime", device.type, devices())
        return OnnxBackend.of_graph(self.graph, self._describe("onnx", "fp32"), device)

    def _open_openvino(self, precision: PrecisionOption) -> Backend:
        require("openvino", "openvino")
        from inceptionv4.inference.backends.openvino import OpenVinoBackend, precisions

        _require_device("openvino", select_device(self.device, "fp32").device.type, (CPU,))
        if precision == "auto":
            precision = "bf16" if "bf16" in precisions() else "fp32"
        return OpenVinoBackend.of_graph(self.graph, self._describe("openvino", precision))

    @cached_property
    def graph(self) -> bytes:
        """The model as an ONNX graph, for any number of images."""
        from inceptionv4.network.onnx import write_graph

        graph: bytes = write_graph(self.rewritten, self.spec.preprocessing.size).SerializeToString()
        return graph

    def _describe(self, form: Any, precision: Any) -> ExportMetadata:
        """What an exported file would say of the graph."""
        return ExportMetadata(
            format=form,
            precision=precision,
            spec=self.spec,
            version=importlib.metadata.version("inceptionv4"),
            weights="",
            trained_on=self.trained_on,
        )


def check_options(runtime: str | None, precision: str | None) -> None:
    """Raise UsageError unless these are options, or None."""
    for option, value, known in (
        ("--runtime", runtime, get_args(RuntimeOption)),
        ("--precision", precision, get_args(PrecisionOption)),
    ):
        if value is not None and value not in known:
            raise UsageError(f"{option} is one of {', '.join(known)}, got {value!r}")


def require(runtime: str, extra: str) -> None:
    """Raise UsageError unless a runtime is installed, with onnx beside it, and loads."""
    absent = [module for module in ("onnx", runtime) if importlib.util.find_spec(module) is None]
    if absent:
        raise UsageError(f"--runtime {runtime} needs {' and '.join(absent)}: pip install 'inceptionv4[{extra}]'")
    for module in ("onnx", runtime):
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - an installation may be broken in any way
            raise UsageError(
                f"{module} is installed, but does not load ({str(error)[:200]}); install it again"
            ) from None


def _require_device(runtime: str, kind: str, kinds: tuple[str, ...]) -> None:
    if kind not in kinds:
        raise UsageError(
            f"--runtime {runtime} computes on {' or '.join(kinds)} here, not on {kind}; give --device {kinds[0]}"
        )
