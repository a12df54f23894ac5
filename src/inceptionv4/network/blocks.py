"""The architecture's nodes as torch modules: one module a node kind, one `forward` for every branching block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
)


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU: the only layer with weights before the classifier."""

    def __init__(self, in_channels: int, node: Convolution) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, node.channels, node.kernel, stride=node.stride, padding=node.pad, bias=False)
        self.norm = nn.BatchNorm2d(node.channels, eps=NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.relu(self.norm(self.conv(images)), inplace=True)


class Concatenate(nn.ModuleList):
    """Modules side by side on one input, their outputs concatenated by channel."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([branch(images) for branch in self], dim=1)


def build(node: Node, in_channels: int) -> nn.Module:
    """The torch module that computes `node` on `in_channels` channels."""
    match node:
        case Convolution():
            return ConvNormReLU(in_channels, node)
        case MaxPool():
            return nn.MaxPool2d(3, stride=2)
        case AveragePool():
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        case Chain(nodes):
            modules = []
            for part in nodes:
                modules.append(build(part, in_channels))
                in_channels = channels_after(part, in_channels)
            return nn.Sequential(*modules)
        case Branches(nodes):
            return Concatenate([build(part, in_channels) for part in nodes])


def channels_after(node: Node, in_channels: int) -> int:
    """How many channels `node` makes of `in_channels`."""
    return output_shape(node, (in_channels, MIN_SIZE, MIN_SIZE))[0]
