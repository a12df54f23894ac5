"""Augmentation policies: chains of operations on a picture, drawn at random. The definitions are torchvision's.

    autoaugment      one of 25 pairs that were learnt on ImageNet (arXiv 1805.09501)
    randaugment      `policy_operations` operations, each of strength `policy_strength` of 30 (arXiv 1909.13719)
    trivialaugment   one operation of any strength, in the wide space (arXiv 2103.10158)
    augmix           three chains of one to three weak operations, blended with the picture (arXiv 1912.02781)

Every draw is from the sample's own generator; torchvision draws from the process's, which threads would share.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from inceptionv4.config import AugmentConfig

FILL = (128, 128, 128)
"""What comes in at the edges."""

STRENGTHS = 31
"""Of an operation in RandAugment and TrivialAugment; AutoAugment and AugMix have ten."""


def _affine(image: Image.Image, xx: float, xy: float, x: float, yx: float, yy: float, y: float) -> Image.Image:
    """Each pixel from where the matrix says: `(xx, xy, x)` gives its column, `(yx, yy, y)` its row."""
    matrix = (xx, xy, x, yx, yy, y)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL)


def _slope(amount: float) -> float:
    """A shear as torchvision rounds it: through degrees and back."""
    return math.tan(math.radians(math.degrees(math.atan(amount))))


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, amount: image,
    "shear_x": lambda image, amount: _affine(image, 1, _slope(amount), 0, 0, 1, 0),
    "shear_y": lambda image, amount: _affine(image, 1, 0, 0, _slope(amount), 1, 0),
    "translate_x": lambda image, amount: _affine(image, 1, 0, -int(amount), 0, 1, 0),
    "translate_y": lambda image, amount: _affine(image, 1, 0, 0, 0, 1, -int(amount)),
    "rotate": lambda image, amount: image.rotate(amount, Image.Resampling.BILINEAR, fillcolor=FILL),
    "brightness": lambda image, amount: ImageEnhance.Brightness(image).enhance(1 + amount),
    "color": lambda image, amount: ImageEnhance.Color(image).enhance(1 + amount),
    "contrast": lambda image, amount: ImageEnhance.Contrast(image).enhance(1 + amount),
    "sharpness": lambda image, amount: ImageEnhance.Sharpness(image).enhance(1 + amount),
    "posterize": lambda image, amount: ImageOps.posterize(image, int(amount)),
    "solarize": lambda image, amount: ImageOps.solarize(image, math.ceil(amount)),
    "autocontrast": lambda image, amount: ImageOps.autocontrast(image),
    "equalize": lambda image, amount: ImageOps.equalize(image),
    "invert": lambda image, amount: ImageOps.invert(image),
}


@functools.lru_cache
def _steps(first: float, last: float, count: int) -> list[float]:
    """`count` amounts from `first` to `last`, rounded as torchvision's.

    A threshold of solarisation must be 170 and not 170.00000000000003, which would leave pixels of 170 as they are.
    """
    amounts: list[float] = torch.linspace(first, last, count).tolist()
    return amounts


@dataclass(frozen=True)
class Space:
    """How strong operations can be, on a scale of `strengths` steps that all begin with the least."""

    strengths: int
    shear: float = 0.3
    translate: float = 150 / 331
    """As a share of the image's width or height; above one, pixels."""
    rotate: float = 30.0
    enhance: float = 0.9
    bits: int = 8
    """Left by the weakest posterisation."""
    fewer_bits: int = 4
    """Left by the strongest one, counted from the weakest."""

    def amount(self, operation: str, strength: int, size: int) -> float:
        """What an operation is given at a strength from 0 on, for an image of `size` x `size`."""
        match operation:
            case "shear_x" | "shear_y":
                return _steps(0, self.shear, self.strengths)[strength]
            case "translate_x" | "translate_y":
                most = self.translate if self.translate > 1 else self.translate * size
                return _steps(0, most, self.strengths)[strength]
            case "rotate":
                return _steps(0, self.rotate, self.strengths)[strength]
            case "brightness" | "color" | "contrast" | "sharpness":
                return _steps(0, self.enhance, self.strengths)[strength]
            case "posterize":
                return self.bits - round(self.fewer_bits * strength / (self.strengths - 1))
            case "solarize":
                return _steps(255, 0, self.strengths)[strength]
        return 0.0

    def apply(self, image: Image.Image, operation: str, strength: int, generator: np.random.Generator) -> Image.Image:
        """The operation on a square image, either way where it has two."""
        amount = self.amount(operation, strength, image.width)
        if operation in SIGNED and generator.random() < 0.5:
            amount = -amount
        return OPERATIONS[operation](image, amount)


SIGNED = frozenset(
    "shear_x shear_y translate_x translate_y rotate brightness color contrast sharpness".split()  # noqa: SIM905
)
PLAIN = tuple(name for name in OPERATIONS if name != "invert")
"""The fourteen of RandAugment and TrivialAugment."""
MIXED = tuple(name for name in PLAIN if name != "identity")
"""The thirteen of AugMix."""

AUTO_SPACE = Space(10)
RAND_SPACE = Space(STRENGTHS)
TRIVIAL_SPACE = Space(STRENGTHS, shear=0.99, translate=32.0, rotate=135.0, enhance=0.99, fewer_bits=6)
MIX_SPACE = Space(10, translate=1 / 3, bits=4)

AUTO_PAIRS: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
"""AutoAugment's for ImageNet (arXiv 1805.09501, table 9): operation, probability, strength."""


def apply_policy(image: Image.Image, augment: AugmentConfig, generator: np.random.Generator) -> Image.Image:
    """A square RGB image after the policy that `augment` names."""
    match augment.policy:
        case "autoaugment":
            for operation, probability, strength in AUTO_PAIRS[int(generator.integers(len(AUTO_PAIRS)))]:
                if generator.random() < probability:
                    image = AUTO_SPACE.apply(image, operation, strength, generator)
        case "randaugment":
            for number in generator.integers(len(PLAIN), size=augment.policy_operations).tolist():
                image = RAND_SPACE.apply(image, PLAIN[number], augment.policy_strength, generator)
        case "trivialaugment":
            operation, strength = PLAIN[int(generator.integers(len(PLAIN)))], int(generator.integers(STRENGTHS))
            image = TRIVIAL_SPACE.apply(image, operation, strength, generator)
        case "augmix":
            image = _augmix(image, generator)
    return image


def _augmix(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """AugMix with its paper's severity 3, three chains, depths of 1 to 3 and alpha 1."""
    kept = generator.beta(1, 1)
    mixed = kept * np.asarray(image, np.float32)
    for share in generator.dirichlet([1, 1, 1]).tolist():
        chained = image
        for number in generator.integers(len(MIXED), size=generator.integers(1, 4)).tolist():
            chained = MIX_SPACE.apply(chained, MIXED[number], int(generator.integers(3)), generator)
        mixed += (1 - kept) * share * np.asarray(chained, np.float32)
    return Image.fromarray(mixed.round().astype(np.uint8))
