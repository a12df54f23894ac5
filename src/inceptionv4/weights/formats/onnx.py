"""An Inception-v4 in an ONNX file, recognised by its graph: what its tensors are called does not matter.

The graph is walked from its output backwards along the architecture. Convolutions may have their norms beside them or
folded into them; a softmax at the end is left out. Anything else in the graph is an error, so that what was read is
what the file computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inceptionv4.errors import CheckpointError
from inceptionv4.network.architecture import (
    NORM_EPS,
    AveragePool,
    Branches,
    Chain,
    Convolution,
    MaxPool,
    Node,
    Stage,
)
from inceptionv4.network.variants import ARCHITECTURES, Architecture
from inceptionv4.weights.formats.assemble import BACKGROUND, DROPPED, Report
from inceptionv4.weights.graph_files import parse_onnx

if TYPE_CHECKING:
    import onnx

TRANSPARENT = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze")
"""Operators that may stand between the pooled features and the classifier."""
POOLING = ("GlobalAveragePool", "ReduceMean")


@dataclass(frozen=True)
class OnnxModel:
    """What an ONNX file says of an Inception-v4."""

    weights: dict[str, Tensor]
    """By the names of our network."""
    architecture: Architecture
    size: int | None
    """Height and width of its images, px; None: any."""
    report: Report
    notes: dict[str, str]
    """The file's own."""


def read_onnx(path: Path) -> OnnxModel:
    """The Inception-v4 in an ONNX file.

    Raises:
        UsageError: the package onnx is not installed.
        CheckpointError: damaged, another network, or with tensors in files that are not beside it.
    """
    model = parse_onnx(path)
    from onnx.external_data_helper import load_external_data_for_model

    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # noqa: BLE001 - its exceptions have no class of their own in common
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())[:200]}); copy it again") from None
    complaints = []
    for name, stages in ARCHITECTURES.items():
        try:
            weights, report, images = _Graph(model.graph).read(stages)
        except _NotThisOneError as error:
            complaints.append(str(error))
        else:
            notes = {entry.key: entry.value for entry in model.metadata_props}
            return OnnxModel(weights, name, fixed_size(path, images), report, notes)
    raise CheckpointError(f"{path} is no Inception-v4 in float: {complaints[0]}")


def fixed_size(path: Path, images: onnx.ValueInfoProto) -> int | None:
    """The side of the square that a graph's images must be; None if it takes any.

    Raises:
        CheckpointError: they are not square.
    """
    dims = [dim.dim_value for dim in images.type.tensor_type.shape.dim]
    if len(dims) != 4 or not all(dims[2:]):
        return None
    if dims[2] != dims[3]:
        raise CheckpointError(f"{path} takes images of {dims[2]} x {dims[3]} pixels; this package runs squares")
    return int(dims[2])


def drop_background(weights: dict[str, Tensor], report: Report) -> None:
    """Leave out the first of 1001 classes: a graph says by no name whose it is."""
    if len(weights["classifier.bias"]) == BACKGROUND:
        for name in ("classifier.weight", "classifier.bias"):
            weights[name] = weights[name][1:].contiguous()
            report.taken -= 1
            report.folded[DROPPED] += 1


class _NotThisOneError(Exception):
    """The graph is not of this architecture; says where it first differs."""


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.made_by = {output: node for node in graph.node for output in node.output}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.used = 0
        self.folded = 0

    def read(self, stages: tuple[Stage, ...]) -> tuple[dict[str, Tensor], Report, onnx.ValueInfoProto]:
        """Weights by the names of our network, a report, and the input that takes the images."""
        weights: dict[str, Tensor] = {}
        tensor = self._head(self.graph.output[0].name, weights)
        for stage in reversed(stages):
            tensor = self._walk(stage.node, tensor, f"features.{stage.name}", weights)
        inputs = {value.name: value for value in self.graph.input if value.name not in self.constants}
        if tensor not in inputs:
            node = self.made_by.get(tensor)
            raise _NotThisOneError(f"images go through {node.op_type if node else tensor} before the network")
        report = Report("ONNX", taken=self.used)
        if self.folded:
            report.folded["convolutions that hold their norms"] = self.folded
        return weights, report, inputs[tensor]

    def _walk(self, node: Node, tensor: str, name: str, weights: dict[str, Tensor]) -> str:
        """The tensor that goes into `node` where `tensor` comes out of it."""
        match node:
            case Convolution():
                return self._convolution(node, self._maker(tensor, name, "Relu").input[0], name, weights)
            case MaxPool():
                pool = self._maker(tensor, name, "MaxPool")
                self._expect(pool, name, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 0, 0], ceil_mode=0)
                return str(pool.input[0])
            case AveragePool():
                pool = self._maker(tensor, name, "AveragePool")
                self._expect(pool, name, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=0)
                return str(pool.input[0])
            case Chain((AveragePool() as pool, Convolution() as projection)) if self._pools_last(tensor):
                # They commute, and files for inference, such as ours, may have them the other way round.
                pooled = str(self.made_by[tensor].input[0])
                convolved = self._walk(pool, pooled, f"{name}.0", weights)
                return self._convolution(projection, convolved, f"{name}.1", weights)
            case Chain(nodes):
                for number, part in reversed(list(enumerate(nodes))):
                    tensor = self._walk(part, tensor, f"{name}.{number}", weights)
                return tensor
            case Branches(nodes):
                concat = self._maker(tensor, name, "Concat")
                if len(concat.input) != len(nodes):
                    raise _NotThisOneError(f"{name} has {len(concat.input)} branches, not {len(nodes)}")
                ends = zip(nodes, concat.input, strict=True)
                starts = {self._walk(part, end, f"{name}.{i}", weights) for i, (part, end) in enumerate(ends)}
                if len(starts) != 1:
                    raise _NotThisOneError(f"the branches of {name} begin at different places")
                return starts.pop()

    def _pools_last(self, tensor: str) -> bool:
        """Whether `tensor` is a ReLU of a mean pool."""
        relu = self.made_by.get(tensor)
        pool = None if relu is None or relu.op_type != "Relu" else self.made_by.get(relu.input[0])
        return pool is not None and pool.op_type == "AveragePool"

    def _convolution(self, node: Convolution, before: str, name: str, weights: dict[str, Tensor]) -> str:
        """As `_walk`; `before` is what comes before the ReLU."""
        norm = self.made_by.get(before)
        if norm is not None and norm.op_type == "BatchNormalization":
            gamma, beta, mean, variance = (self._constant(part, name) for part in norm.input[1:5])
            eps = self._attributes(norm).get("epsilon", 1e-5)
            gamma = gamma * np.sqrt((variance + NORM_EPS) / (variance + eps)) if abs(eps - NORM_EPS) > 1e-9 else gamma
            before = norm.input[0]
        else:
            norm = None
        conv = self._maker(before, name, "Conv")
        pads = [*node.pad, *node.pad]
        self._expect(
            conv, name, kernel_shape=list(node.kernel), strides=[node.stride] * 2, pads=pads, group=1, dilations=[1, 1]
        )
        kernel = self._constant(conv.input[1], name)
        bias = self._constant(conv.input[2], name) if len(conv.input) > 2 else np.zeros(len(kernel))
        if norm is None:  # a norm that does nothing but add the bias
            self.folded += 1
            ones = np.ones(len(kernel))
            gamma, beta, mean, variance = np.sqrt(ones + NORM_EPS), bias, 0 * ones, ones
        else:
            mean = mean - bias
        arrays = {"conv.weight": kernel, "norm.weight": gamma, "norm.bias": beta}
        arrays |= {"norm.running_mean": mean, "norm.running_var": variance}
        weights |= {f"{name}.{part}": _float(array) for part, array in arrays.items()}
        weights[f"{name}.norm.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
        return str(conv.input[0])

    def _head(self, tensor: str, weights: dict[str, Tensor]) -> str:
        """The feature maps that the classifier's logits, in `tensor`, are made of."""
        tensor = self._skip(tensor, ("Softmax", "LogSoftmax", "Identity"))
        name = "the classifier"
        node = self._maker(tensor, name, "Gemm", "Add")
        if node.op_type == "Gemm":
            self._expect(node, name, alpha=1.0, beta=1.0, transA=0)
            features, kernel, bias = node.input[0], self._constant(node.input[1], name), node.input[2]
            if not self._attributes(node).get("transB", 0):
                kernel = kernel.T
        else:
            bias, product = sorted(node.input, key=lambda value: value not in self.constants)
            product_node = self._maker(product, name, "MatMul")
            features, kernel = product_node.input[0], self._constant(product_node.input[1], name).T
        weights["classifier.weight"], weights["classifier.bias"] = (
            _float(kernel),
            _float(self._constant(bias, name)),
        )
        pool = self._maker(self._skip(features, TRANSPARENT), "the pooling of features", *POOLING)
        return str(pool.input[0])

    def _skip(self, tensor: str, operators: tuple[str, ...]) -> str:
        seen = set()
        while tensor in self.made_by and self.made_by[tensor].op_type in operators:
            if tensor in seen:
                raise _NotThisOneError(f"its operators go round in a circle at {tensor[:100]}")
            seen.add(tensor)
            tensor = str(self.made_by[tensor].input[0])
        return tensor

    def _maker(self, tensor: str, where: str, *operators: str) -> onnx.NodeProto:
        node: onnx.NodeProto | None = self.made_by.get(tensor)
        if node is None or node.op_type not in operators:
            found = node.op_type if node is not None else "the input"
            raise _NotThisOneError(f"at {where} there is {found}, not {' or '.join(operators)}")
        return node

    def _expect(self, node: onnx.NodeProto, where: str, **wanted: Any) -> None:
        """Raise unless each attribute is as wanted, or left out where ONNX's default is."""
        defaults: dict[str, Any] = {"group": 1, "dilations": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}
        defaults |= {"alpha": 1.0, "beta": 1.0, "transA": 0, "ceil_mode": 0, "count_include_pad": 0}
        attributes = self._attributes(node)
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise _NotThisOneError(f"at {where} the padding is chosen automatically")
        for key, value in wanted.items():
            found = attributes.get(key, defaults.get(key))
            if key == "kernel_shape" and found is None:
                found = list(self.constants[node.input[1]].shape[2:])
            if found != value:
                raise _NotThisOneError(f"at {where} {node.op_type} has {key} {found}, not {value}")

    @staticmethod
    def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
        from onnx import helper

        return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}

    def _constant(self, tensor: str, where: str) -> np.ndarray:
        tensor = self._skip(tensor, ("Identity",))
        if tensor not in self.constants:
            raise _NotThisOneError(
                f"the weights at {where} are computed in the graph; if it is int8, convert its source"
            )
        self.used += 1
        return self.constants[tensor].astype(np.float64)


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
