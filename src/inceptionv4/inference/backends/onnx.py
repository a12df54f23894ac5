"""ONNX Runtime: .onnx files of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.export_metadata import NOTE, ExportMetadata
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.runtime.device import ASCEND, CPU, NVIDIA
from inceptionv4.runtime.exported import verify_content
from inceptionv4.weights.graph_files import check_onnx

PROVIDERS = {
    NVIDIA: "CUDAExecutionProvider",
    ASCEND: "CANNExecutionProvider",
    CPU: "CPUExecutionProvider",
}
"""What onnxruntime calls torch's devices. Others that it may offer send images elsewhere, or are untried."""
KEEP_FP32 = {NVIDIA: {"use_tf32": "0"}, ASCEND: {"precision_mode": "must_keep_origin_dtype"}}
"""Options without which graphs of fp32 are computed in TF32 on NVIDIA, and in fp16 on Ascend; untested on hardware."""


class OnnxBackend(GraphBackend):
    """A graph in ONNX Runtime, with as many threads as torch has."""

    runtime = "onnxruntime"

    def __init__(self, session: Any, metadata: ExportMetadata) -> None:
        """A session of onnxruntime's, with a graph that `metadata` describes."""
        super().__init__(metadata)
        self._session = session
        self._input = session.get_inputs()[0].name

    @classmethod
    def open(cls, path: Path, device: torch.device) -> OnnxBackend:
        """On `device`, or on the processor where this onnxruntime was built for no such device.

        Raises:
            UsageError: onnxruntime is not installed, or the libraries of the device do not load.
            CheckpointError: damaged, not exported by this package, or with weights that lie elsewhere.
        """
        try:
            import onnxruntime  # noqa: F401 - a word about it, before a word about the file
        except ImportError:
            raise UsageError("ONNX files are run by onnxruntime: pip install 'inceptionv4[onnx]'") from None
        check_onnx(path)
        try:
            session = _session(path, torch.device(CPU))
        except Exception as error:  # noqa: BLE001 - its exceptions have no class of their own in common
            raise CheckpointError(f"{path} is damaged or no ONNX file ({str(error)[:200]})") from None
        if device.type != CPU and device.type in devices():
            session = _accelerated(path, device)
        notes = session.get_modelmeta().custom_metadata_map
        if NOTE not in notes:
            raise CheckpointError(f"{path} was not exported by inceptionv4: it says nothing of classes and pixels")
        return cls(session, verify_content(path, ExportMetadata.from_json(notes[NOTE], str(path))))

    @classmethod
    def of_graph(cls, graph: bytes, metadata: ExportMetadata, device: torch.device) -> OnnxBackend:
        """A graph that is in memory, on a device that `devices` lists.

        Raises:
            UsageError: the libraries of the device do not load.
        """
        return cls(_session(graph, device) if device.type == CPU else _accelerated(graph, device), metadata)

    def run(self, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._session.run(None, {self._input: images})[0]
        return logits

    def describe(self) -> str:
        provider = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        return f"ONNX Runtime, {provider}, {self.metadata.precision}"


def devices() -> tuple[str, ...]:
    """The kinds of torch's devices that this onnxruntime was built for."""
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    return tuple(kind for kind, provider in PROVIDERS.items() if provider in offered)


def _accelerated(model: Path | bytes, device: torch.device) -> Any:
    """A session on an accelerator, for a model that the processor could open."""
    reason = "its libraries do not load"
    try:
        session = _session(model, device)
    except Exception as error:  # noqa: BLE001 - as above
        reason = str(error)[:200]
    else:
        if PROVIDERS[device.type] in session.get_providers():
            return session
    raise UsageError(
        f"onnxruntime was built for {device.type} and cannot use {device}: {reason}; put the folders of its libraries "
        "into LD_LIBRARY_PATH, or take --device cpu"
    )


def _session(model: Path | bytes, device: torch.device) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads would spin on after an answer, on the cores that decoding needs, and torch, where the two take turns.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [PROVIDERS[CPU]]
    if device.type != CPU:
        settings = {"device_id": device.index or 0, **KEEP_FP32[device.type]}
        providers.insert(0, (PROVIDERS[device.type], settings))
    # It would go on on the processor, and print that on standard output.
    return onnxruntime.InferenceSession(model, options, providers, enable_fallback=0)
