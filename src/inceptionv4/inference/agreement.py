"""Whether two runtimes answer alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from inceptionv4.artefact import Precision

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1.0}
"""Largest difference of a logit that is rounding, as a share of the spread of the model's logits (their largest less
their smallest, over all images), by what the file computes in: 24, 11 and 8 bits of mantissa through 150 layers. What
int8 may cost is a matter of accuracy, for which there is `--max-drop`; the gate then looks at the classes only.
"""
AGREEMENT: dict[Precision, float] = {"fp32": 1.0, "fp16": 1.0, "bf16": 0.9, "int8": 0.75}
"""Share of images whose likeliest class must be the same. Classes whose logits the tolerance cannot tell apart count as
the same.
"""


@dataclass(frozen=True)
class Agreement:
    """How one runtime's logits compare with another's; see `artefact.Verification` for the words."""

    largest_difference: float
    top1_agreement: float
    top5_overlap: float
    tolerance: float


def compare(expected: Tensor, logits: Tensor, precision: Precision) -> Agreement:
    """How `logits` of a runtime that computes in `precision` compare with `expected`; both float32 `(n, classes)`."""
    tolerance = TOLERANCES[precision] * max(float(expected.max() - expected.min()), 1e-3)
    best = logits.argmax(1, keepdim=True)
    same = expected.max(1).values - expected.gather(1, best).squeeze(1) <= (0 if precision == "int8" else 2 * tolerance)
    top = min(5, expected.shape[1])
    ours, theirs = (values.topk(top).indices for values in (expected, logits))
    overlap = (ours[:, :, None] == theirs[:, None, :]).any(2).float().mean()
    return Agreement(
        largest_difference=float((logits - expected).abs().max()),
        top1_agreement=float(same.float().mean()),
        top5_overlap=float(overlap),
        tolerance=tolerance,
    )


def agrees(found: Agreement, precision: Precision) -> bool:
    """Whether what was found is rounding."""
    within = found.largest_difference <= found.tolerance or precision == "int8"
    return math.isfinite(found.largest_difference) and within and found.top1_agreement >= AGREEMENT[precision]
