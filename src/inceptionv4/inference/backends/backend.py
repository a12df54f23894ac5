"""What every runtime offers: images in, logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inceptionv4.data.transforms import normalize
from inceptionv4.errors import AnswerError
from inceptionv4.export_metadata import ExportMetadata, Precision
from inceptionv4.spec import ModelSpec


@dataclass(frozen=True)
class RuntimeSpeed:
    """How one runtime did on a batch of images that was in memory."""

    runtime: str
    """As `Backend.describe` has it, or the runtime's name if it could not be opened."""
    images_per_second: float | None
    """None: it failed, or its answers differ."""
    reason: str = ""
    """Why there is no speed."""

    def __str__(self) -> str:
        speed = self.reason if self.images_per_second is None else f"{self.images_per_second:.1f} images/s"
        return f"{self.runtime}: {speed}"


class Backend(ABC):
    """A model that a runtime has loaded, with the specification that came with it."""

    batch_size = 16
    """Images that it is well fed with at once."""
    runtime: str
    """The name of the runtime: torch, onnxruntime, openvino, mindspore or ascend."""
    trials: tuple[RuntimeSpeed, ...] = ()
    """How each runtime did where a trial chose this one."""
    takes_floats = True
    """True if `infer` takes normalised floats, too; it always takes pixels."""
    name = ""
    """What the user calls the model, for errors; empty: nobody named it."""
    advice = "its weights are damaged or from a training that diverged; take another checkpoint of it, or copy it again"
    """What to do about an answer that is not finite."""

    def __init__(self, spec: ModelSpec, trained_on: Mapping[str, Any]) -> None:
        self.spec, self.trained_on = spec, trained_on

    @abstractmethod
    def infer(self, images: Tensor) -> Tensor:
        """Logits, float32 `(B, classes)` on the CPU, of images on the CPU, one or more.

        These are uint8 `(B, 3, size, size)`, pixels as they are, or float32 of the same shape, normalised. One thread
        at a time may ask.

        Raises:
            ValueError: floats, where it does not take them.
        """

    @property
    @abstractmethod
    def precision(self) -> Precision:
        """The precision in which this processor or accelerator really computes the convolutions."""

    @abstractmethod
    def describe(self) -> str:
        """Runtime, device and precision in a few words."""

    def require_finite(self, answers: Tensor, images: Callable[[int], str]) -> None:
        """Refuse answers `(B, ...)`, logits or features, that are no numbers; `images(i)` is the name of image i.

        Raises:
            AnswerError: one is NaN or infinite; it names the first such image and the model.
        """
        finite = answers.isfinite().flatten(1).all(dim=1)
        if bool(finite.all()):
            return
        model = self.name or self.spec.origin or "the model"
        fp32 = "" if self.precision == "fp32" else f". If fp32 answers, its numbers are too large for {self.precision}"
        raise AnswerError(
            f"{images(int(finite.int().argmin()))}: the answer of {model}, by {self.describe()}, is not finite (NaN or "
            f"infinity); {self.advice}{fp32}"
        )

    def warm_up(self) -> None:
        """Answer once, so that what a runtime prepares at its first answer is prepared."""
        size = self.spec.preprocessing.size
        self.infer(torch.zeros(self.batch_size, 3, size, size, dtype=torch.uint8))


class GraphBackend(Backend):
    """A graph from a file, which takes arrays of one type and perhaps of one number of images."""

    def __init__(self, metadata: ExportMetadata) -> None:
        super().__init__(metadata.spec, metadata.trained_on)
        self.metadata = metadata
        self.takes_floats = metadata.input == "float32"
        if metadata.batch_size is not None:
            self.batch_size = metadata.batch_size

    @property
    def precision(self) -> Precision:
        """Precision of the file; a runtime that may compute in another overrides this."""
        return self.metadata.precision

    @abstractmethod
    def run(self, images: np.ndarray) -> np.ndarray:
        """Float32 logits of an array such as `metadata.input` says, contiguous, of `metadata.batch_size` images."""

    def infer(self, images: Tensor) -> Tensor:
        array = self._array(images)
        fixed = self.metadata.batch_size
        if fixed is None:
            return torch.from_numpy(self.run(array))
        logits = []
        for start in range(0, len(array), fixed):
            part = array[start : start + fixed]
            # A short last part is filled up with its own last image, and the answers to that are dropped.
            full = np.concatenate([part, np.repeat(part[-1:], fixed - len(part), 0)]) if len(part) < fixed else part
            logits.append(self.run(full)[: len(part)])
        return torch.from_numpy(np.concatenate(logits))

    def _array(self, images: Tensor) -> np.ndarray:
        if self.metadata.input == "float32":
            floats = normalize(images, self.spec.preprocessing) if images.dtype == torch.uint8 else images
            return floats.contiguous().numpy()
        if images.dtype != torch.uint8:
            raise ValueError(f"this model takes uint8 pixels and normalises them itself, got {images.dtype}")
        return images.permute(0, 2, 3, 1).contiguous().numpy()
