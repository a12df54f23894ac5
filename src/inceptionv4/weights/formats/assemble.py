"""Named arrays of another project to weights of our network, exactly: what it computes otherwise is folded in.

    number in the norms     gamma' = gamma sqrt((variance + ours) / (variance + theirs))
    no gamma (TF-slim)      gamma' = 1
    1001 classes            the first, the background, is dropped (Cadene, TF-slim)
    dropout of PaddleClas   which shrinks features by 0.8 when it drops none:  W' = 0.8 W
    head of the model zoo   norm -> dense -> norm:  W' = diag(a1) W diag(a0),  b' = a1 (W b0 + b) + b1
                            with a = gamma / sqrt(variance + eps) and b = beta - a mean of each norm;
                            the softmax's logarithm that follows changes no softmax, and is left out

All in float64, rounded once at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from inceptionv4.errors import CheckpointError
from inceptionv4.network.architecture import NORM_EPS
from inceptionv4.network.layers import InceptionV4
from inceptionv4.weights.formats.naming import (
    CADENE,
    NAMING_SCHEMES,
    PADDLE,
    TIMM,
    ZOO,
    NamingScheme,
    Norm,
    our_convolutions,
)

CLASSES = 1000
BACKGROUND = 1001
"""As many outputs where the first is for images of nothing, as TensorFlow's ImageNet has it."""
DROPPED = "the background's class is dropped"
ZOO_NORMS = ("bn0", "softmax.batchnorm")
ZOO_HEAD_EPS = (1e-3, 1e-5)
Array = Tensor | np.ndarray


@dataclass
class Report:
    """What became of every array of a file: `{words: how many}`."""

    origin: str
    taken: int = 0
    folded: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    assumed: str = ""
    """What the file does not say, and what is taken instead."""

    def lines(self) -> list[str]:
        """What became of the arrays, in words."""
        lines = [f"{self.origin}: {self.taken + self.folded.total() + self.skipped.total()} arrays"]
        lines += [f"  {'as they are':<9} {self.taken:>5}"]
        lines += [f"  {'folded':<11} {count:>5}  {words}" for words, count in self.folded.items()]
        lines += [f"  {'skipped':<11} {count:>5}  {words}" for words, count in self.skipped.items()]
        lines += [f"  assumed: {self.assumed}; --image.size and so on say another"] if self.assumed else []
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def recognize(arrays: Mapping[str, Array], classes: int | None = None) -> NamingScheme:
    """Whose names these are. `classes` is their number, where the file or one beside it says it.

    Raises:
        CheckpointError: nobody's that is known.
    """
    for origin in NAMING_SCHEMES:
        if origin.convolutions[0] + origin.conv in arrays:
            if origin is TIMM and _has_background(arrays, TIMM, classes):
                return CADENE
            return origin
    some = ", ".join(list(arrays)[:3]) or "none"
    raise CheckpointError(
        f"no Inception-v4 that is known: its arrays are called {some}...; "
        f"read are {', '.join(origin.name for origin in NAMING_SCHEMES)}"
    )


def _has_background(arrays: Mapping[str, Array], origin: NamingScheme, classes: int | None) -> bool:
    """True if the first of 1001 outputs is for images of nothing, and not a class like the others."""
    bias = origin.head[1]
    return bias in arrays and len(arrays[bias]) == BACKGROUND and classes != BACKGROUND


def assemble(
    arrays: Mapping[str, Array], origin: NamingScheme, dtype: torch.dtype = torch.float32, classes: int | None = None
) -> tuple[dict[str, Tensor], Report]:
    """Weights by the names of our network, in `dtype`, and what became of each array. `classes` is their number, where
    the file or one beside it says it; else the first of 1001 is taken for the background and dropped.

    Raises:
        CheckpointError: an array is missing, of the wrong shape, or there for no known reason.
    """
    return _Assembly(arrays, origin, classes).finish(dtype)


def _is_plain(array: Array) -> bool:
    if isinstance(array, np.ndarray):
        return array.dtype.kind in "biuf"
    if array.layout != torch.strided or array.device.type != "cpu":
        return False
    return not (array.is_quantized or array.is_complex() or array.is_nested)


class _Assembly:
    def __init__(self, arrays: Mapping[str, Array], origin: NamingScheme, classes: int | None) -> None:
        self.arrays, self.origin = arrays, origin
        self.background = _has_background(arrays, origin, classes)
        self.report = Report(origin.name)
        self.missing: list[str] = []
        self.used: set[str] = set()

    def finish(self, dtype: torch.dtype) -> tuple[dict[str, Tensor], Report]:
        weights: dict[str, Tensor] = {}
        for ours, theirs in zip(our_convolutions(self.origin.architecture), self.origin.convolutions, strict=True):
            weights[f"{ours}.conv.weight"] = self._convolution(theirs + self.origin.conv)
            weights |= self._norm(f"{ours}.norm", theirs + self.origin.norm_of)
        weights["classifier.weight"], weights["classifier.bias"] = self._head()
        if self.missing:
            raise CheckpointError(
                f"{self.origin.name}'s names, but {_some(self.missing)} missing; the file is not whole"
            )
        self._account_for_the_rest()
        self._check_shapes(weights)
        return {
            name: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
            for name, tensor in weights.items()
        }, self.report

    def _take(self, name: str, folded: str | None = None) -> Tensor:
        """An array as it is, or as something to fold; a scalar in place of one that is missing, until all are known."""
        if name not in self.arrays:
            self.missing.append(name)
            return torch.zeros(1, 1, 1, 1)
        self.used.add(name)
        if folded:
            self.report.folded[folded] += 1
        else:
            self.report.taken += 1
        array = self.arrays[name]
        if not _is_plain(array):
            raise CheckpointError(f"{name} is no plain array of real numbers, as weights are; save it as one")
        return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))

    def _convolution(self, name: str) -> Tensor:
        kernel = self._take(name)
        return kernel.permute(3, 2, 0, 1) if self.origin.layout == "tensorflow" and kernel.ndim == 4 else kernel

    def _norm(self, ours: str, theirs: str) -> dict[str, Tensor]:
        names = self.origin.norm
        variance = self._take(theirs + names.variance)
        mean, beta = self._take(theirs + names.mean), self._take(theirs + names.beta)
        if names.gamma is None:
            gamma = torch.ones_like(variance)
        elif names.eps == NORM_EPS:
            gamma = self._take(theirs + names.gamma)
        else:
            wide = variance.double()
            gamma = self._take(theirs + names.gamma, f"norms that add {names.eps:g}, not {NORM_EPS:g}").double()
            gamma = gamma * ((wide + NORM_EPS) / (wide + names.eps)).sqrt()
        batches = theirs + ".num_batches_tracked"
        return {
            f"{ours}.weight": gamma,
            f"{ours}.bias": beta,
            f"{ours}.running_mean": mean,
            f"{ours}.running_var": variance,
            f"{ours}.num_batches_tracked": (
                self._take(batches) if batches in self.arrays else torch.zeros((), dtype=torch.int64)
            ),
        }

    def _head(self) -> tuple[Tensor, Tensor]:
        """Weights `(classes, features)` and biases `(classes,)` of the classifier, folded."""
        names = self.origin.head
        words = {
            ZOO: "norms before and after the classifier",
            PADDLE: "dropout that shrinks features by 0.8",
        }.get(self.origin, DROPPED if self.background else None)
        weight = self._take(names[0], words)
        bias = self._take(names[1], None if self.origin is PADDLE else words)
        if self.origin.layout != "torch":
            weight = weight.reshape(-1, weight.shape[-1]).T
        if self.origin is PADDLE:
            weight = 0.8 * weight.double()
        if self.origin is ZOO:
            before, after = (self._affine(name, eps, words) for name, eps in zip(ZOO_NORMS, ZOO_HEAD_EPS, strict=True))
            if not self.missing:
                scale, shift = before
                bias = weight.double() @ shift + bias.double()
                weight = weight.double() * scale
                scale, shift = after
                weight, bias = scale[:, None] * weight, scale * bias + shift
        if self.background:
            weight, bias = weight[1:], bias[1:]
        return weight, bias

    def _affine(self, name: str, eps: float, words: str | None) -> tuple[Tensor, Tensor]:
        """What a norm multiplies by and adds, in float64."""
        norm: Norm = self.origin.norm
        gamma, beta, mean, variance = (
            self._take(name + part, words).double() for part in (norm.gamma or "", norm.beta, norm.mean, norm.variance)
        )
        scale = gamma / (variance + eps).sqrt()
        return scale, beta - scale * mean

    def _account_for_the_rest(self) -> None:
        strangers = []
        for name in self.arrays:
            if name not in self.used:
                reason = self.origin.reason_to_skip(name, self.used)
                if reason is None:
                    strangers.append(name)
                else:
                    self.report.skipped[reason] += 1
        if strangers:
            raise CheckpointError(
                f"{self.origin.name}'s names, but {_some(strangers)} there besides, which no Inception-v4 has; "
                "it may be another network's"
            )

    def _check_shapes(self, weights: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            network = InceptionV4(max(1, len(weights["classifier.bias"])), architecture=self.origin.architecture)
        theirs = dict(zip(our_convolutions(self.origin.architecture), self.origin.convolutions, strict=True))
        for name, tensor in network.state_dict().items():
            if weights[name].shape != tensor.shape:
                layer = theirs.get(name.rsplit(".", 2)[0], name)
                raise CheckpointError(
                    f"{layer} of {self.origin.name} is of the shape {tuple(weights[name].shape)}, "
                    f"that of an Inception-v4 {tuple(tensor.shape)}"
                )


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "") + (" are" if len(names) > 1 else " is")
