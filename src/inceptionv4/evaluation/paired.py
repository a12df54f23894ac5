"""Whether one model is worse than another, by their answers to the same images.

The exact one-sided McNemar test (McNemar 1947): of the images that only one of two models classifies correctly, each
is as likely the one's as the other's if both are equally good.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.samples import Samples
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.classifier import WORKERS

SIGNIFICANCE = 0.05
"""A drop counts if chance alone would give one as large with a smaller probability than this."""
LEAST_LOST = math.floor(-math.log2(SIGNIFICANCE)) + 1
"""The fewest images whose loss is significant, with none gained: 5, as 1/2**5 < 0.05."""


@dataclass(frozen=True)
class PairedComparison:
    """Which of `images` images a candidate loses and gains, as row numbers: `lost` are those that only the reference
    classifies correctly, `gained` those that only the candidate does.
    """

    images: int
    lost: tuple[int, ...]
    gained: tuple[int, ...]

    @property
    def drop(self) -> float:
        """What the candidate's top-1 accuracy is lower by, in percentage points."""
        return 100 * (len(self.lost) - len(self.gained)) / self.images

    @property
    def p_value(self) -> float:
        """The probability that equally good models differ by as many images, to the candidate's disadvantage."""
        differing = len(self.lost) + len(self.gained)
        at_least = sum(math.comb(differing, count) for count in range(len(self.lost), differing + 1))
        return at_least / (1 << differing)

    def is_worse(self, allowed: float) -> bool:
        """True if accuracy falls by more than `allowed` percentage points, and significantly.

        A significant drop is one of five images at least, so that one or two flipped images never count.
        """
        return self.drop > allowed and self.p_value < SIGNIFICANCE


def compare_paired(reference_right: np.ndarray, candidate_right: np.ndarray) -> PairedComparison:
    """Compare two models by which images they classify correctly: bool `(n,)` each, of the same images, n at least 1.

    Raises:
        ValueError: the arrays differ in length, or are empty.
    """
    if len(reference_right) != len(candidate_right) or not len(reference_right):
        raise ValueError(f"{len(reference_right)} and {len(candidate_right)} answers are not of the same images")
    lost = np.flatnonzero(reference_right & ~candidate_right)
    gained = np.flatnonzero(candidate_right & ~reference_right)
    return PairedComparison(len(reference_right), tuple(lost.tolist()), tuple(gained.tolist()))


def predict_classes(backend: Backend, samples: Samples, after_batch: Callable[[int], None]) -> np.ndarray:
    """The likeliest class of each of `samples`, int64 `(n,)`; `after_batch` is told how many images a batch had.

    Raises:
        ImageError: an image cannot be decoded.
    """
    answers = []
    preprocessing = backend.spec.preprocessing
    for batch in evaluation_batches(samples, preprocessing, batch_size=backend.batch_size, workers=WORKERS):
        answers.append(backend.infer(batch.images).argmax(1).cpu().numpy())
        after_batch(len(batch))
    return np.concatenate(answers)
