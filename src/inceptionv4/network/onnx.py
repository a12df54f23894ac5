"""The rewritten network as an ONNX graph, written down node by node.

No tracer: the graph has the operators that the architecture has, in its order and by its names, whatever the version of
torch; and what depends on the reader, such as the version of the operators, is chosen by the caller.

Importing this module needs onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from inceptionv4.network.blocks import Concatenate
from inceptionv4.network.inference_graph import fold_normalization
from inceptionv4.network.layers import InceptionV4

OPSET, IR_VERSION = 20, 10
BATCH = "batch"
"""The name of the first dimension where it is free."""


def write_graph(
    rewritten: InceptionV4,
    size: int,
    *,
    batch_size: int | None = None,
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
) -> onnx.ModelProto:
    """The graph of a rewritten network: float32 `images` `(B, 3, size, size)`, normalised, to float32 `logits`
    `(B, classes)`.

    `batch_size` is B, which is free if it is not given. With `pixels`, a mean and a deviation a channel, of values of
    0 to 1, the graph takes uint8 `(B, size, size, 3)` and normalises by itself.
    """
    batch: int | str = batch_size or BATCH
    writer = _Writer()
    if pixels is None:
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])
        start = "images"
    else:
        rewritten = fold_normalization(rewritten, *pixels)
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, size, size, 3])
        planes = writer.add("Transpose", ["images"], "pixels/planes", perm=[0, 3, 1, 2])
        start = writer.add("Cast", [planes], "pixels/floats", to=TensorProto.FLOAT)
    features = writer.write(rewritten.features, start, "features")
    pooled = writer.add("GlobalAveragePool", [features], "pool")
    flat = writer.add("Flatten", [pooled], "pool/flat")
    weights = writer.constants("classifier", rewritten.classifier.weight, rewritten.classifier.bias)
    writer.nodes.append(helper.make_node("Gemm", [flat, *weights], ["logits"], "classifier", transB=1))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, rewritten.classifier.out_features])
    graph = helper.make_graph(writer.nodes, "inception_v4", [images], [logits], writer.initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="inceptionv4"
    )
    onnx.checker.check_model(model)
    return model


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
            content = tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
            self.initializers.append(helper.make_tensor(constant, TensorProto.FLOAT, tensor.shape, content, raw=True))
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
                raise TypeError(f"{name} is a {type(module).__name__}, which is in no inference graph")
