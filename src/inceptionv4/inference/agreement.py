"""Does a runtime answer as the network does? Measured against what rounding alone does to the network's own answers.

A runtime may differ from the plain network in fp32 by `FACTORS` times what the runtime's precision does to the plain
network. That is computed here, on the same images, on any processor: fp32 against float64, bf16 and fp16 by rounding
weights and every module's output, int8 by rounding the weights and inputs of convolutions. Refused are also:

- answers that differ from the network's by three quarters of what its own differ by from image to image: constant
  logits differ by all of it
- images with red and blue exchanged, which rounding in int8 could hide: the difference from the right answers points
  to those of exchanged images
- in int8, five images or more with another likeliest class, where the network's own lead is more than rounding: so many
  are significant by the exact McNemar test (`evaluation.paired`). In other precisions the logits' limit implies it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inceptionv4.data.transforms import normalize
from inceptionv4.export_metadata import Precision
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import Preprocessing

FACTORS: dict[Precision, float] = {"fp32": 32.0, "fp16": 4.0, "bf16": 4.0, "int8": 4.0}
"""How many times the network's own rounding is allowed. In fp32 runtimes differ by the order of their sums and by
algorithms such as Winograd's: 1 to 3 times were seen; any wrong image is off by 10,000 times.
"""
SWAPPED = 0.5
"""Share of the way to the answers for exchanged colours, from which on they count as exchanged."""
VARIATION = 0.75
"""Share of the answers' variation from image to image that a difference may be at most, in the root mean square."""
MOST_FLIPS = 4
"""Images of another class in int8 that may be chance: five have p = 1/32."""
ROUNDED = 16
"""Images by which rounding is measured at most, evenly over all; in float64, which takes longer, half of them."""
BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """How one runtime's logits compare with the network's; see `export_metadata.Verification` for the words."""

    images: int
    """Images compared: all, or in int8 the model's own."""
    largest_difference: float
    top1_agreement: float
    top5_overlap: float
    tolerance: float
    refusal: str | None = None
    """Why the answers do not agree; None: they do."""


@dataclass(frozen=True)
class _Rounding:
    """Differences of logits that a precision makes: the largest, and the root of the mean square."""

    largest: float
    rms: float


class Reference:
    """A network's answers in fp32 to some images, against which runtimes are compared."""

    def __init__(self, network: InceptionV4, images: Tensor, preprocessing: Preprocessing, *, coloured: int) -> None:
        """Answer all `images`, uint8 `(n, 3, size, size)`, of which the last `coloured` are in colour. `network` is in
        evaluation mode.
        """
        self.images = images
        self._network, self._preprocessing, self._coloured = network, preprocessing, coloured
        self.logits = self.answer(network, images)
        self._swapped = self.answer(network, images[-coloured:].flip(1))
        self._roundings: dict[Precision, _Rounding] = {}

    def compare(self, logits: Tensor, precision: Precision) -> Agreement:
        """Compare the answers of a runtime that computes in `precision`, float32 `(n, classes)`, with the network's."""
        own, factor, compared = self._rounding(precision), FACTORS[precision], self._compared(precision)
        expected, found = self.logits[compared], logits[compared]
        most = VARIATION * (variation := _rms(expected - expected.mean(0)))
        difference = found - expected
        largest, rms = float(difference.abs().max()), _rms(difference)
        lead = expected.max(1).values - expected.gather(1, found.argmax(1)[:, None]).squeeze(1)
        flips = int((lead > 2 * own.largest).sum())
        top = min(5, logits.shape[1])
        ours, theirs = (values.topk(top).indices for values in (expected, found))
        refusal = None
        if not bool(logits.isfinite().all()):
            refusal = "its logits are not finite"
        elif own.rms >= most:
            refusal = (
                f"the model's own answers differ by {variation:.2g} from image to image, and rounding in {precision} "
                f"changes them by {own.rms:.2g}: nothing can be told from them"
            )
        elif largest > factor * own.largest or rms > min(factor * own.rms, most):
            refusal = (
                f"a logit differs by {largest:.2g}, {rms:.2g} in the root mean square; allowed are "
                f"{factor * own.largest:.2g} and {min(factor * own.rms, most):.2g}"
            )
        elif self._looks_swapped((logits - self.logits)[-self._coloured :], own):
            refusal = "it answers as if red and blue were exchanged"
        elif precision == "int8" and flips > MOST_FLIPS:
            refusal = f"{flips} images are of another class, beyond rounding; {MOST_FLIPS} may be chance"
        return Agreement(
            images=len(expected),
            largest_difference=largest,
            top1_agreement=float((found.argmax(1) == expected.argmax(1)).float().mean()),
            top5_overlap=float((ours[:, :, None] == theirs[:, None, :]).any(2).float().mean()),
            tolerance=factor * own.largest,
            refusal=refusal,
        )

    def _compared(self, precision: Precision) -> slice:
        """The images whose logits are compared: all but the photographs in int8, where there are others.

        int8 cuts off what lies beyond the ranges that the model's own images have, and photographs may.
        """
        own = len(self.images) - self._coloured
        return slice(own) if precision == "int8" and own else slice(None)

    def _looks_swapped(self, difference: Tensor, own: _Rounding) -> bool:
        """True if the difference leads to the answers for exchanged colours, where the network tells colours apart."""
        swap = self._swapped - self.logits[-self._coloured :]
        return _rms(swap) > 2 * own.rms and float((difference * swap).sum() / swap.square().sum()) > SWAPPED

    def _rounding(self, precision: Precision) -> _Rounding:
        """What computing in `precision` does to the network's own answers."""
        if precision not in self._roundings:
            last = len(self.images[self._compared(precision)]) - 1
            count = min(ROUNDED if precision != "fp32" else ROUNDED // 2, last + 1)
            rows = torch.linspace(0, last, count).round().long()
            difference = self.answer_rounded(precision, self.images[rows]) - self.logits[rows]
            least = torch.finfo(torch.float32).eps * float(self.logits.abs().max())
            largest = max(float(difference.abs().max()), least)
            self._roundings[precision] = _Rounding(largest, max(_rms(difference), least / 4))
        return self._roundings[precision]

    def answer_rounded(self, precision: Precision, images: Tensor) -> Tensor:
        """Logits of the network, rounded as `precision` rounds, for uint8 images; float32 `(n, classes)`."""
        return self.answer(_ROUND[precision](copy.deepcopy(self._network)), images)

    @torch.inference_mode()
    def answer(self, network: nn.Module, images: Tensor) -> Tensor:
        """Logits of `network` for uint8 images `(n, 3, size, size)`; float32 `(n, classes)`."""
        parameter = next(network.parameters())
        logits = []
        for part in torch.split(images, BATCH):
            floats = normalize(part.to(parameter.device), self._preprocessing)
            logits.append(network(floats.to(parameter.dtype)).float().cpu())
        return torch.cat(logits)


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _to_float64(network: InceptionV4) -> nn.Module:
    return network.double()


def _round_everything(network: InceptionV4, dtype: torch.dtype) -> nn.Module:
    """`network` with its kernels and the output of each of its modules rounded to `dtype`, computed in fp32."""

    def round_output(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return output.to(dtype).to(output.dtype)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = module.weight.data.to(dtype).to(module.weight.dtype)
        if not list(module.children()):
            module.register_forward_hook(round_output)
    return network


def _round_convolutions(network: InceptionV4) -> nn.Module:
    """`network` with the kernels and the inputs of its convolutions rounded as in int8, computed in fp32."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = round_weights(module.weight.data)
            module.register_forward_pre_hook(lambda conv, given: (round_activations(given[0]),))
    return network


_ROUND: dict[Precision, Callable[[InceptionV4], nn.Module]] = {
    "fp32": _to_float64,
    "fp16": lambda network: _round_everything(network, torch.float16),
    "bf16": lambda network: _round_everything(network, torch.bfloat16),
    "int8": _round_convolutions,
}


def round_activations(values: Tensor) -> Tensor:
    """Rounded to 256 steps from the least to the largest value, 0 among them."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-12)
    step = (high - low) / 255
    return values.div(step).round_().mul_(step)


def round_weights(weight: Tensor) -> Tensor:
    """Kernels `(out, in, h, w)`, rounded to 127 steps for each output: 7 bits, as `export.quantize` says why."""
    step = weight.abs().amax((1, 2, 3), keepdim=True).clamp_(min=1e-12) / 63
    return weight.div(step).round_().mul_(step)
