"""The network for inference: norms folded and pools moved, with equal answers but for rounding.

Norms go into convolutions: `W' = W gamma / sqrt(variance + eps)`, `b' = beta - mean gamma / sqrt(variance + eps)`.

Projections go before pools: a 1 x 1 convolution and the average pool before it change places. Both are linear, and the
mean of a constant is that constant, so the bias passes too. The pool then works on what the convolution puts out, a
quarter to an eighth of its input. The ReLU stays last.

Normalisation goes into the first convolution, for graphs that take pixels: it has no padding, so that every output sees
`(v / 255 - mean) / std` of the same number of pixels.

Sibling 1 x 1 convolutions stay apart: as one, with its result split, they are not faster in OpenVINO or ONNX Runtime,
and 3 % slower in torch, which copies the parts (benchmarks/RESULTS.md).

What comes out is made of torch's own modules and `Concatenate`, and cannot be trained. The plain network of `layers` is
what it is tested against, and every exported graph is written from it.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from inceptionv4.network.blocks import Concatenate, ConvNormReLU
from inceptionv4.network.layers import InceptionV4


class ConvReLU(nn.Sequential):
    """Convolution with bias, ReLU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, nn.ReLU(inplace=True))


@torch.no_grad()
def build_inference_graph(network: InceptionV4) -> InceptionV4:
    """A copy of `network`, in evaluation mode, that computes the same by 149 convolutions with ReLUs, pools and
    concatenations between them. Folded in float64, kept in the network's own type; the classifier is shared.

    Raises:
        ValueError: a norm has no running statistics.
    """
    rewritten = copy.copy(network)
    rewritten._modules = dict(network._modules)
    rewritten.features = _rewrite(network.features)  # type: ignore[assignment]  # a Sequential, as it was
    rewritten.dropout = nn.Identity()  # type: ignore[assignment]
    rewritten.training = False
    return rewritten


@torch.no_grad()
def fold_normalization(rewritten: InceptionV4, mean: tuple[float, ...], std: tuple[float, ...]) -> InceptionV4:
    """A copy of a rewritten network that takes pixels of 0 to 255, as floats, and normalises them by itself."""
    first = _first(rewritten)
    assert first.padding == (0, 0)
    weight, bias = first.weight.double(), first.bias.double()  # type: ignore[union-attr]
    means, stds = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
    pixels = copy.deepcopy(rewritten)
    layer = _first(pixels)
    layer.weight.copy_(weight / (255 * stds))
    layer.bias.copy_(bias - (weight * means / stds).sum((1, 2, 3)))  # type: ignore[union-attr]
    return pixels


def _first(rewritten: InceptionV4) -> nn.Conv2d:
    return next(module for module in rewritten.features.modules() if isinstance(module, nn.Conv2d))


def _rewrite(module: nn.Module) -> nn.Module:
    match module:
        case ConvNormReLU():
            return ConvReLU(fold(module))
        case nn.Sequential():
            parts = list(module.named_children())
            if len(parts) == 2 and _commutes(parts[0][1], parts[1][1]):
                (_, pool), (_, projection) = parts
                assert isinstance(projection, ConvNormReLU)
                return nn.Sequential(fold(projection), pool, nn.ReLU(inplace=True))
            rewritten = nn.Sequential()
            for name, part in parts:
                rewritten.add_module(name, _rewrite(part))
            return rewritten
        case Concatenate():
            return Concatenate([_rewrite(branch) for branch in module])
        case _:
            return module  # a pool


def _commutes(first: nn.Module, second: nn.Module) -> bool:
    return isinstance(first, nn.AvgPool2d) and isinstance(second, ConvNormReLU) and second.conv.kernel_size == (1, 1)


def fold(layer: ConvNormReLU) -> nn.Conv2d:
    """The convolution with a bias that computes what `layer` does before its ReLU, in evaluation mode."""
    conv, norm = layer.conv, layer.norm
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a norm without running statistics cannot be folded")
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    folded = copy.copy(conv)
    folded._parameters = {
        "weight": nn.Parameter(weight.to(conv.weight), requires_grad=False),
        "bias": nn.Parameter(bias.to(conv.weight), requires_grad=False),
    }
    return folded
