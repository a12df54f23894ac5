"""ONNX: the rewritten network, written down node by node.

No tracer: the graph has the operators that the architecture has, in its order and by its names, whatever the version of
torch; and what depends on the reader, such as the version of the operators, is chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inceptionv4.artefact import NOTE, Artefact
from inceptionv4.errors import UsageError
from inceptionv4.export.draft import Draft
from inceptionv4.network.blocks import Concatenate
from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.rewrites import take_pixels
from inceptionv4.spec import NOTE as SPEC_NOTE

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError:
    raise UsageError("ONNX's graphs are written by onnx: pip install 'inceptionv4[onnx]'") from None

OPSET, IR_VERSION = 20, 10
ASCEND_OPSET, ASCEND_IR_VERSION = 18, 8
"""The newest that Ascend's compiler (CANN 8) reads."""
BATCH = "batch"
"""The name of the first dimension where it is free."""


def build_graph(
    rewritten: InceptionV4, artefact: Artefact, *, opset: int = OPSET, ir_version: int = IR_VERSION
) -> onnx.ModelProto:
    """The graph of a rewritten network: `images` as `artefact.input` says, to `logits`, float32 `(B, classes)`."""
    size, batch = artefact.spec.preprocessing.size, artefact.batch_size or BATCH
    writer = _Writer()
    if artefact.input == "uint8":
        pixels = artefact.spec.preprocessing
        rewritten = take_pixels(rewritten, pixels.mean, pixels.std)
        shape: list[int | str] = [batch, size, size, 3]
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, shape)
        planes = writer.add("Transpose", ["images"], "pixels/planes", perm=[0, 3, 1, 2])
        start = writer.add("Cast", [planes], "pixels/floats", to=TensorProto.FLOAT)
    else:
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])
        start = "images"
    features = writer.write(rewritten.features, start, "features")
    pooled = writer.add("GlobalAveragePool", [features], "pool")
    flat = writer.add("Flatten", [pooled], "pool/flat")
    writer.nodes.append(
        helper.make_node(
            "Gemm",
            [flat, *writer.constants("classifier", rewritten.classifier.weight, rewritten.classifier.bias)],
            ["logits"],
            "classifier",
            transB=1,
        )
    )
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(artefact.spec.classes)])
    graph = helper.make_graph(writer.nodes, "inception_v4", [images], [logits], writer.initializers)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
        producer_name="inceptionv4",
        producer_version=artefact.version,
    )
    onnx.checker.check_model(model)
    return model


@dataclass(frozen=True)
class OnnxDraft(Draft):
    """A graph that is to be a file."""

    model: onnx.ModelProto

    def save(self, artefact: Artefact, path: Path) -> None:
        """Write one file, with its description in its metadata."""
        del self.model.metadata_props[:]
        helper.set_model_props(self.model, {NOTE: artefact.to_json(), SPEC_NOTE: artefact.spec.to_json()})
        path.write_bytes(self.model.SerializeToString())


class _Writer:
    """Nodes and weights, as the modules are walked."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node, whose output has its name."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constants(self, name: str, weight: Tensor, bias: Tensor) -> list[str]:
        names = [f"{name}.weight", f"{name}.bias"]
        for constant, tensor in zip(names, (weight, bias), strict=True):
            array = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
            self.initializers.append(numpy_helper.from_array(array, constant))
        return names

    def write(self, module: nn.Module, given: str, name: str) -> str:
        """The nodes that compute `module` on the tensor `given`; the name of their output."""
        match module:
            case nn.Sequential():
                for part, inner in module.named_children():
                    given = self.write(inner, given, f"{name}.{part}")
                return given
            case Concatenate():
                outputs = [self.write(branch, given, f"{name}.{part}") for part, branch in enumerate(module)]
                return self.add("Concat", outputs, name, axis=1)
            case nn.Conv2d():
                assert isinstance(module.bias, Tensor)
                assert isinstance(module.padding, tuple)
                return self.add(
                    "Conv",
                    [given, *self.constants(name, module.weight, module.bias)],
                    name,
                    kernel_shape=list(module.kernel_size),
                    strides=list(module.stride),
                    pads=[*module.padding, *module.padding],
                )
            case nn.ReLU():
                return self.add("Relu", [given], name)
            case nn.MaxPool2d():
                return self.add("MaxPool", [given], name, kernel_shape=[3, 3], strides=[2, 2])
            case nn.AvgPool2d():
                return self.add(
                    "AveragePool",
                    [given],
                    name,
                    kernel_shape=[3, 3],
                    strides=[1, 1],
                    pads=[1, 1, 1, 1],
                    count_include_pad=0,
                )
            case _:
                raise TypeError(f"{name} is a {type(module).__name__}, which no rewrite leaves in a network")
