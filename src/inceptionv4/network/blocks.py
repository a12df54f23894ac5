"""The architecture's nodes as torch modules: one module a node kind, one `forward` for every branching block."""

from __future__ import annotations

import functools

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


class MeanPool(nn.AvgPool2d):
    """Mean over 3 x 3 with stride 1, of those pixels that lie inside the image."""

    def __init__(self) -> None:
        super().__init__(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, images: Tensor) -> Tensor:
        differentiates = images.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if differentiates and images.device.type != "cpu" and not _has_right_gradient(images.device):
            images = images.contiguous()
        return super().forward(images)


@functools.cache
def _has_right_gradient(device: torch.device) -> bool:
    """Try whether torch's gradient of a padded mean pool is right on `device` for images that are channels last.

    On NVIDIA GPUs it is off by 100 % until the middle of 2026 (pytorch/pytorch#188344; seen with torch 2.11).
    The gradient for contiguous images is right.
    """
    if device.type == "meta":  # which has shapes alone
        return True
    gradients: list[Tensor] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.zeros(1, 2, 4, 4, device=device).contiguous(memory_format=layout).requires_grad_()
        output = nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
        weights = torch.arange(32.0, device=device).view(1, 2, 4, 4)
        gradients += torch.autograd.grad(output, images, weights)
    contiguous, channels_last = gradients
    return torch.allclose(contiguous, channels_last)


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
            return MeanPool()
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
