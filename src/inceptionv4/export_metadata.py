"""Metadata of an exported model: all that is needed to feed it and to trust it.

As JSON it is kept in the file where the format has a place for it (ONNX's metadata, OpenVINO's runtime information),
and beside it, as NAME.om.json, where it has none (MINDIR, AIR, .om).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from inceptionv4.config import MOST_IMAGES
from inceptionv4.errors import CheckpointError, ConfigError
from inceptionv4.settings import coerce
from inceptionv4.spec import ModelSpec
from inceptionv4.strict_json import from_json, to_json

Format = Literal["onnx", "openvino", "mindir", "air", "om"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What convolutions are computed in, from the finest to the coarsest, by which `coarsest` compares."""
Input = Literal["float32", "uint8"]
NOTE = "inceptionv4"
"""What the description is called among a file's own notes."""


def coarsest(precisions: Iterable[Precision]) -> Precision:
    """The precision of one or more that rounds most."""
    return max(precisions, key=get_args(Precision).index)


@dataclass(frozen=True)
class Verification:
    """How a file answered on real images beside the model that it was made of."""

    images: int
    source: str
    largest_difference: float
    """Largest difference of a logit."""
    top1_agreement: float
    """Share of images whose likeliest class is the same; none is counted so because it is nearly as likely."""
    top5_overlap: float
    """Mean share of the five likeliest classes that both name."""
    tolerance: float
    """Largest difference that was allowed, of a logit: some times the model's own rounding (`inference.agreement`)."""
    computed_in: Precision | None = None
    """Which is not what the file is to compute in where the processor does not; None: an older version did not ask."""

    def __str__(self) -> str:
        return (
            f"logits within {self.largest_difference:.2g} of the model's, top-1 agrees on {self.top1_agreement:.1%}, "
            f"top-5 on {self.top5_overlap:.1%} ({self.images} images: {self.source})"
        )


@dataclass(frozen=True)
class Calibration:
    """The images whose activations set the ranges of an int8 model, the convolutions that stayed in float, and what
    int8 changed of the answers to `images` held-out images.
    """

    data: str
    seed: int
    files: tuple[str, ...]
    float_layers: tuple[str, ...] = ()
    top1_float: float | None = None
    top1_int8: float | None = None
    images: int = 0
    lost: tuple[str, ...] = ()
    """Images that only the model in float classifies correctly, each with both answers: `cat/7.jpg (cat -> dog)`."""
    gained: tuple[str, ...] = ()
    """Images that only the model in int8 classifies correctly."""


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """An exported model.

    `input` is float32 `(B, 3, size, size)`, normalised as `spec.preprocessing` says, or uint8 `(B, size, size, 3)`,
    pixels as they are. The output is float32 logits `(B, classes)`. `batch_size` is B where it is fixed.
    """

    format: Format
    precision: Precision
    spec: ModelSpec
    version: str
    """Version of this package."""
    weights: str
    """SHA-256 of the weights that it was made of; empty for a graph that is only in memory."""
    content: str = ""
    """SHA-256 of what a runtime computes with (`runtime.exported`), verified on opening; empty as `weights` is."""
    input: Input = "float32"
    batch_size: int | None = None
    soc_version: str | None = None
    """om: the Ascend that it is compiled for, such as Ascend310P3; others do not run it."""
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the training data, by which an evaluation knows the images that the model has seen."""
    calibration: Calibration | None = None
    verification: Verification | None = None
    """None: it was never run."""

    @property
    def unverified_reason(self) -> str | None:
        """Why it is not verified; None: it is, in the precision that it is to compute in."""
        if self.verification is None:
            return "it was never run; `inceptionv4 evaluate` runs it, where its runtime is"
        computed_in = self.verification.computed_in
        if computed_in not in (None, self.precision):
            return (
                f"it was run in {computed_in}, as the processor where it was made does not compute in {self.precision}"
            )
        return None

    def to_json(self) -> str:
        status = (
            {"status": "verified"}
            if self.unverified_reason is None
            else {"status": "unverified", "reason": self.unverified_reason}
        )
        return to_json(status | asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str, name: str) -> ExportMetadata:
        """The inverse of `to_json`; `name` is the file's, for errors.

        Raises:
            CheckpointError: damaged, or of another version.
        """
        try:
            values = from_json(text)
            for note in ("status", "reason"):  # for readers
                values.pop(note, None)
            calibration, verification = values.pop("calibration"), values.pop("verification")
            if not 1 <= (1 if values.get("batch_size") is None else values["batch_size"]) <= MOST_IMAGES:
                raise ValueError(f"batch_size must be from 1 to {MOST_IMAGES}, got {values['batch_size']}")
            spec, trained_on = ModelSpec.from_dict(values.pop("spec")), dict(values.pop("trained_on", {}))
            return cls(
                **_typed(cls, values),
                spec=spec,
                trained_on=trained_on,
                calibration=None if calibration is None else Calibration(**_typed(Calibration, calibration)),
                verification=None if verification is None else Verification(**_typed(Verification, verification)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CheckpointError(
                f"{name} is damaged or was exported by another version: {error}; export the model again"
            ) from None


def _typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values from JSON as the fields of a dataclass take them.

    Raises:
        KeyError: it has no such field.
        ConfigError: one is of another type, or not finite.
    """
    hints = get_type_hints(kind)
    typed = {name: coerce(value, hints[name], name) for name, value in values.items()}
    if infinite := [name for name, value in typed.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise ConfigError(f"{infinite[0]} must be finite")
    return typed
