"""What travels with weights: all that is needed to rebuild the network and to prepare an image for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_type_hints

from inceptionv4.errors import ConfigError
from inceptionv4.network.variants import ARCHITECTURES, Architecture
from inceptionv4.settings import Section, coerce, setting
from inceptionv4.strict_json import to_json

Interpolation = Literal["bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]
MOST_PIXELS = 2**13
"""Of a side of the network's input: a batch of two takes 1.6 GB then, before the first layer."""
NOTE = "inceptionv4.spec"
"""What a specification, as JSON, is called among the notes of other projects' files that we write."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Section):
    """How an image becomes the network's input when nothing is random. The defaults are those of the ImageNet weights.

    An image is resized for a side of `floor(size / crop)` pixels, the central `size` x `size` square is cut out, and a
    value v of 0..255 becomes `(v / 255 - mean) / std`. `crop_mode` is timm's, and says which side:

        center  the shorter one, in proportion: the ends of the longer side are cut off
        squash  both, out of proportion: with `crop` 1 the whole image is seen
        border  the longer one, in proportion, with borders in the colour `mean`: with `crop` 1 the whole image is seen
    """

    size: int = setting(299, "height and width of the network's input, px", at_least=75, at_most=MOST_PIXELS)
    crop: float = setting(0.875, "share of the resized side that the evaluated square covers", at_least=0.1, at_most=1)
    crop_mode: CropMode = setting("center", "center: the middle square; squash or border: the whole image, with crop 1")
    interpolation: Interpolation = setting("bicubic", "bilinear or bicubic")
    mean: tuple[float, float, float] = setting((0.5, 0.5, 0.5), "subtracted, of values in 0..1")
    std: tuple[float, float, float] = setting((0.5, 0.5, 0.5), "divided by", above=0)
    exif_orientation: bool = setting(True, "turn photographs upright as their EXIF tag says, before anything else")

    def describe(self) -> str:
        """In a few words, for people: `299 px, crop 0.875, bicubic, mean 0.5, std 0.5`."""

        def values(numbers: tuple[float, ...]) -> str:
            return " ".join(f"{number:g}" for number in (numbers[:1] if len(set(numbers)) == 1 else numbers))

        crop, mean, std = f"{self.crop:.3g}", values(self.mean), values(self.std)
        mode = f" ({self.crop_mode})" if self.crop_mode != "center" else ""
        return f"{self.size} px, crop {crop}{mode}, {self.interpolation}, mean {mean}, std {std}"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """`classes[i]` is the name of logit i; `architecture` and `width` are the network's; `origin` says whence."""

    classes: tuple[str, ...]
    architecture: Architecture = "inception-v4"
    width: float = 1.0
    preprocessing: Preprocessing = Preprocessing()
    origin: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        return to_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`, after JSON too. What an older version did not write keeps its default.

        Raises:
            ValueError: a key is unknown, a value is of the wrong type, or there are no classes.
        """
        pixels = values.get("preprocessing", {}) if isinstance(values, Mapping) else None
        if not isinstance(pixels, Mapping):
            raise ValueError("the model's specification is no object of keys and values")
        if unknown := set(values) - _names(cls) | set(pixels) - _names(Preprocessing):
            raise ValueError(f"unknown keys in the model's specification: {', '.join(sorted(unknown))}")
        if not values.get("classes"):
            raise ValueError("the model's specification names no classes")
        if str(values.get("architecture", "inception-v4")) not in ARCHITECTURES:
            raise ValueError(f"the model is of an unknown architecture, {values['architecture']!r}")
        hints = get_type_hints(cls)
        try:
            preprocessing = Preprocessing(**pixels)
            others = {name: coerce(values[name], hints[name], name) for name in values if name != "preprocessing"}
        except ConfigError as error:
            raise ValueError(f"the model's specification: {error}") from None
        if not 0 < others.get("width", 1.0) < math.inf:
            raise ValueError(f"the model's specification: width must be above 0, got {others['width']}")
        return cls(**others, preprocessing=preprocessing)


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind)}
