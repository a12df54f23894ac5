"""OpenVINO: an .xml file of this package, with its .bin beside it."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inceptionv4.errors import CheckpointError, Error, UsageError
from inceptionv4.export_metadata import NOTE, ExportMetadata, Precision, coarsest
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.runtime.exported import verify_content

HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}
"""What OpenVINO is told to compute in. Left alone, it takes bf16 wherever the processor has it, and says nothing."""
COMPUTED: dict[str, Precision] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "I8": "int8"}
"""How the names of OpenVINO's kernels end."""


@cache
def core() -> Any:
    """OpenVINO's core of this process, the only one, which never ends.

    While a core's plugin for processors (2026.4) is alive, it has the main thread handle signals on a stack of its own,
    and at its end gives back the stack that it found. Of two that do not end in the reverse order of their beginning,
    the second one gives back the first one's, which is no more: the next signal, SIGTERM to a training perhaps, is a
    segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVinoBackend(GraphBackend):
    """A graph in OpenVINO, on as many threads as torch has; a batch is spread over the streams that it finds best."""

    runtime = "openvino"

    def __init__(self, model: Any, metadata: ExportMetadata) -> None:
        """Compile a graph of OpenVINO's that `metadata` describes, for the processor.

        Raises:
            Error: OpenVINO cannot compile it, or does not say in which precision it computes.
        """
        super().__init__(metadata)
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": HINTS[metadata.precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            self._compiled: Any = core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise Error(f"OpenVINO cannot compile the model in {metadata.precision} ({reason})") from None
        self._computed_in = read_precision(self._compiled)
        self.streams = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [self._compiled.create_infer_request() for _ in range(self.streams)]

    @classmethod
    def open(cls, path: Path) -> OpenVinoBackend:
        """Raises:
        UsageError: openvino is not installed.
        CheckpointError: damaged, or not exported by this package.
        """
        try:
            import openvino  # noqa: F401 - a word about it, before a word about the file
        except ImportError:
            raise UsageError("OpenVINO's files are run by openvino: pip install 'inceptionv4[openvino]'") from None
        try:
            model = core().read_model(path)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise CheckpointError(f"{path} is damaged, or its .bin is gone ({reason}); export it again") from None
        if not model.has_rt_info([NOTE]):
            raise CheckpointError(f"{path} was not exported by inceptionv4: it says nothing of classes and pixels")
        return cls(
            model, verify_content(path, ExportMetadata.from_json(model.get_rt_info([NOTE]).astype(str), str(path)))
        )

    @classmethod
    def of_graph(cls, graph: bytes, metadata: ExportMetadata) -> OpenVinoBackend:
        """An ONNX graph that is in memory."""
        return cls(core().read_model(graph), metadata)

    def run(self, images: np.ndarray) -> np.ndarray:
        edges = np.linspace(0, len(images), min(self.streams, len(images)) + 1).astype(int)
        if self.metadata.batch_size is not None:
            edges = np.array([0, len(images)])
        parts = [images[start:end] for start, end in itertools.pairwise(edges)]
        running = list(zip(self._requests, parts, strict=False))
        for request, part in running:
            request.start_async({0: part}, share_inputs=True)
        for request, _ in running:
            request.wait()
        return np.concatenate([request.get_output_tensor(0).data.copy() for request, _ in running])

    @property
    def precision(self) -> Precision:
        return self._computed_in

    def describe(self) -> str:
        return f"OpenVINO, CPU, {self.precision}, {self.streams} streams"


def read_precision(compiled: Any) -> Precision:
    """What a compiled model's convolutions are computed in; the coarsest, if they differ.

    What OpenVINO is told is only a hint: asked for fp16, a processor with bf16 alone takes that, and one with neither
    takes fp32. So this reads the kernels' names, such as `brgconv_avx512_1x1_bf16`. `runtimePrecision` would not do:
    it is that of weights which the file has in 16 bits, also where they are computed with in 32.

    Raises:
        Error: OpenVINO has kernels of names that are not known here.
    """
    found: set[Precision] = set()
    for layer in compiled.get_runtime_model().get_ops():
        notes = layer.get_rt_info()
        if notes["layerType"].astype(str) == "Convolution":
            kernel = notes["primitiveType"].astype(str)
            if (ending := kernel.rpartition("_")[2]) not in COMPUTED:
                raise Error(f"OpenVINO does not say in which precision {kernel} computes; try another version of it")
            found.add(COMPUTED[ending])
    if not found:
        raise Error("OpenVINO does not say by what it computes convolutions; try another version of it")
    return coarsest(found)


def precisions() -> tuple[Precision, ...]:
    """The floating-point precisions that this processor has instructions for, as OpenVINO tells."""
    offered = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    return tuple(name for name in names if name.upper() in offered)


@cache
def computes(precision: Precision) -> bool:
    """Try whether OpenVINO, told to compute in `precision`, does so on this processor, perhaps by emulation."""
    import openvino
    from openvino import opset8 as operators

    images = operators.parameter([1, 16, 16, 16], np.float32)
    weight = operators.constant(np.ones((16, 16, 3, 3), np.float32))
    convolved = operators.convolution(images, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    settings = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    return read_precision(core().compile_model(openvino.Model([convolved], [images]), "CPU", settings)) == precision
