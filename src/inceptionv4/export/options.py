"""Options of an export, checked once for the command and for Python alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inceptionv4.config import MOST_IMAGES
from inceptionv4.errors import UsageError
from inceptionv4.export_metadata import Format, Precision

SUFFIXES: dict[Format, str] = {"openvino": ".xml"}
"""Suffixes of files, where they are not the format's name."""
PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "om": ("fp16",),
}
"""Precisions that a format is written in; fp32 where it is not named here."""
FIXED_BATCH: tuple[Format, ...] = ("mindir", "air", "om")
"""Formats that take a fixed number of images."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export a model to, as `inceptionv4 export` takes it; each field is the option of that name."""

    format: Format
    output: Path | None = None
    """The file; `inceptionv4` with the format's suffix, in the working directory, if None."""
    profile: Literal["ascend"] | None = None
    soc_version: str | None = None
    precision: Precision | None = None
    int8: bool = False
    calibrate: str | None = None
    """Labelled images, on training ones of which ranges are measured."""
    samples: int = 300
    validate: str | None = None
    """Labelled images, on held-out ones of which the file is compared with the model."""
    max_drop: float = 0.3
    """Points of top-1 that int8 may cost."""
    pixels: bool | None = None
    """True if the graph takes uint8 and normalises by itself. None: an om does, others do not."""
    batch_size: int | None = None
    """Number of images at once; None: any, or 1 where the format fixes it."""
    encrypt_key_file: Path | None = None

    def __post_init__(self) -> None:
        """Raises:
        UsageError: two options do not go together, or one is out of range.
        """
        if self.path.suffix != self.suffix:
            raise UsageError(f"--output must end in {self.suffix}, got {self.path}")
        if self.batch_size is not None and not 1 <= self.batch_size <= MOST_IMAGES:
            raise UsageError(f"--batch-size must be at least 1 and at most {MOST_IMAGES}, got {self.batch_size}")
        if self.encrypt_key_file is not None and self.format != "mindir":
            raise UsageError("--encrypt-key-file is for --format mindir; others are not encrypted")
        if self.profile is not None and self.format != "onnx":
            raise UsageError(f"--profile {self.profile} is for --format onnx, not for {self.format}")
        if self.soc_version is not None and not self.for_ascend:
            raise UsageError("--soc-version is for --format om and --profile ascend")
        if self.pixels and self.format == "air":
            raise UsageError("--pixels is for onnx, openvino and mindir (an om takes pixels anyway), not for air")
        self._check_precision()
        if not self.path.parent.is_dir():
            raise UsageError(f"--output is to be in {self.path.parent}, which is no folder; make it, or give another")

    def _check_precision(self) -> None:
        if self.int8 and self.format not in ("onnx", "openvino"):
            raise UsageError(f"--int8 is for onnx and openvino, not for {self.format}")
        if self.int8 and self.for_ascend:
            raise UsageError("--int8 is not for --profile ascend: Ascend's compiler reads no such graph")
        if self.int8 and self.calibrate is None:
            raise UsageError("--int8 needs images like those that it will see: --calibrate FOLDER")
        has_defaults = (self.samples, self.max_drop) == (ExportOptions.samples, ExportOptions.max_drop)
        if not self.int8 and (self.calibrate is not None or not has_defaults):
            raise UsageError("--calibrate, --samples and --max-drop are for --int8; give it, too, or leave them out")
        if self.int8 and self.precision is not None:
            raise UsageError(f"--int8 and --precision {self.precision} are two precisions; give one of them")
        if self.samples < 1 or not 0 <= self.max_drop < math.inf:
            raise UsageError(
                f"--samples must be at least 1 and --max-drop a number, at least 0, got {self.samples} and "
                f"{self.max_drop:g}"
            )
        possible = PRECISIONS.get(self.format, ("fp32",))
        if self.computed_in not in possible:
            named = ", ".join("int8 (--int8)" if one == "int8" else one for one in possible)
            raise UsageError(f"{self.format} is written in {named}, not in {self.computed_in}")

    @property
    def suffix(self) -> str:
        return SUFFIXES.get(self.format, f".{self.format}")

    @property
    def path(self) -> Path:
        """The file to write."""
        return self.output or Path(f"inceptionv4{self.suffix}")

    @property
    def for_ascend(self) -> bool:
        """True if Ascend's compiler is to read the graph."""
        return self.format == "om" or self.profile == "ascend"

    @property
    def computed_in(self) -> Precision:
        """The precision that the file is written in."""
        return "int8" if self.int8 else self.precision or ("fp16" if self.format == "om" else "fp32")
