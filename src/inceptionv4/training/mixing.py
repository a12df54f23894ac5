"""Mixup and CutMix: two images of a batch become one, and so do their targets."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from inceptionv4.config import AugmentConfig


def mix(
    images: Tensor, targets: Tensor, augment: AugmentConfig, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix images `(B, 3, H, W)` and targets `(B, K)`, each with that of the opposite place in the batch.

    A share l is drawn from Beta(a, a). Mixup (arXiv 1710.09412) is `l x + (1 - l) y`; CutMix (arXiv 1905.04899) pastes
    on x a box of y, of share 1 - l of the area, whose middle is anywhere and whose outside is cut off. Targets are
    mixed by the share that is really shown. Where both are asked for, each batch gets one of them at random.
    """
    if not (augment.mixup or augment.cutmix) or len(images) < 2:
        return images, targets
    cut = generator.random() < 0.5 if augment.mixup and augment.cutmix else bool(augment.cutmix)
    alpha = augment.cutmix if cut else augment.mixup
    share = float(generator.beta(alpha, alpha))
    if cut:
        height, width = images.shape[2:]
        top, bottom = _span(height, math.sqrt(1 - share), generator)
        left, right = _span(width, math.sqrt(1 - share), generator)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = share * images + (1 - share) * images.flip(0)
    return mixed, share * targets + (1 - share) * targets.flip(0)


def _span(length: int, share: float, generator: np.random.Generator) -> tuple[int, int]:
    """Both ends of a share of a length, about a middle that is anywhere in it."""
    half, middle = round(length * share) / 2, int(generator.integers(length))
    return max(math.floor(middle - half), 0), min(math.floor(middle + half), length)
