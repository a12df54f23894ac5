"""The architecture as MindSpore's cells, for graph or eager mode. Parameters are called as ours are, but for norms:
`gamma`, `beta`, `moving_mean` and `moving_variance` are MindSpore's words for their four.

Importing this module needs MindSpore.
"""

from __future__ import annotations

from collections import OrderedDict

import mindspore
from mindspore import Tensor, nn, ops

from inceptionv4.network.architecture import (
    MIN_SIZE,
    NORM_EPS,
    AveragePool,
    Branches,
    Chain,
    Convolution,
    MaxPool,
    Node,
    output_shape,
    widen,
)
from inceptionv4.network.variants import ARCHITECTURES, Architecture

NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
"""Torch's words for what a norm holds, and MindSpore's."""


class ConvNormReLU(nn.Cell):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, node: Convolution) -> None:
        super().__init__()
        height, width = node.pad
        self.conv = nn.Conv2d(
            in_channels,
            node.channels,
            node.kernel,
            stride=node.stride,
            pad_mode="pad",
            padding=(height, height, width, width),
            has_bias=False,
        )
        self.norm = nn.BatchNorm2d(node.channels, eps=NORM_EPS, momentum=0.9)  # one minus torch's momentum
        self.relu = nn.ReLU()

    def construct(self, images: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(images)))


class Concatenate(nn.SequentialCell):
    """Cells side by side on one input, their outputs concatenated by channel.

    A list of cells would be the word, but in graph mode a cell that is a list cannot be called.
    """

    def construct(self, images: Tensor) -> Tensor:
        outputs: tuple[Tensor, ...] = ()
        for branch in self.cell_list:
            outputs += (branch(images),)
        return ops.cat(outputs, axis=1)


def build(node: Node, in_channels: int) -> nn.Cell:
    """The cell that computes `node` on `in_channels` channels."""
    match node:
        case Convolution():
            return ConvNormReLU(in_channels, node)
        case MaxPool():
            return nn.MaxPool2d(3, stride=2)
        case AveragePool():
            # "same" leaves the padding out of the mean, as the architecture wants it.
            return nn.AvgPool2d(3, stride=1, pad_mode="same")
        case Chain(nodes):
            cells = []
            for part in nodes:
                cells.append(build(part, in_channels))
                in_channels = _channels(part, in_channels)
            return nn.SequentialCell(cells)
        case Branches(nodes):
            return Concatenate([build(part, in_channels) for part in nodes])


def _channels(node: Node, in_channels: int) -> int:
    return output_shape(node, (in_channels, MIN_SIZE, MIN_SIZE))[0]


class InceptionV4(nn.Cell):
    """Inception-v4 in MindSpore; see `network.layers.InceptionV4`, whose arguments it takes.

    Takes float32 images `(B, in_channels, H, W)`; returns logits `(B, num_classes)`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        dropout: float = 0.2,
        width: float = 1.0,
        architecture: Architecture = "inception-v4",
    ) -> None:
        super().__init__()
        channels = in_channels
        stages: OrderedDict[str, nn.Cell] = OrderedDict()
        for stage in ARCHITECTURES[architecture]:
            node = widen(stage.node, width)
            stages[stage.name] = build(node, channels)
            channels = _channels(node, channels)
        self.features = nn.SequentialCell(stages)
        self.dropout = nn.Dropout(p=dropout)
        self.classifier = nn.Dense(channels, num_classes)

    def construct(self, images: Tensor) -> Tensor:
        pooled = self.features(images).mean((2, 3))
        return self.classifier(self.dropout(pooled))


def parameter_name(name: str) -> str | None:
    """What a tensor of the torch network's `state_dict` is called here; None where MindSpore keeps no such thing."""
    layer, _, part = name.rpartition(".")
    if part == "num_batches_tracked":
        return None
    return f"{layer}.{NORM_PARTS[part]}" if layer.endswith(".norm") else name


def load_weights(network: InceptionV4, weights: dict[str, mindspore.Parameter]) -> None:
    """Copy `weights`, by their names here, into `network`; all of them and no others.

    Raises:
        ValueError: a parameter is missing, or has no place.
    """
    missing, strange = mindspore.load_param_into_net(network, weights, strict_load=True)
    if missing or strange:
        raise ValueError(f"parameters that do not fit: {', '.join([*missing, *strange][:5])}")
