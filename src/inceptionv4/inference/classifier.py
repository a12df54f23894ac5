"""A trained model that answers: images in, classes and probabilities out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from inceptionv4.config import PrecisionOption, RuntimeOption
from inceptionv4.data.crops import Crops, check_crops, count_views, evaluation_views
from inceptionv4.data.decode import decode
from inceptionv4.data.prefetch import prefetch_batches
from inceptionv4.data.transforms import as_batch
from inceptionv4.errors import ImageError, UsageError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.inference.images import NamedImage, find_images
from inceptionv4.inference.runtimes import open_backend

Places = str | Path | NamedImage | Iterable[str | Path | NamedImage]
WORKERS = min(16, max(2, os.cpu_count() or 2))
"""Threads that read and decode while the model answers. Those that only wait for a network cost it nothing."""


@dataclass(frozen=True)
class ClassScore:
    """A class and the probability that the model gives it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: the likeliest classes, best first, or why there is none."""

    file: str
    top: tuple[ClassScore, ...]
    error: str | None = None
    embedding: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Pooled features, float32 `(features,)`, if they were asked for: the mean over the image's views."""

    @property
    def label(self) -> str:
        return self.top[0].label

    @property
    def probability(self) -> float:
        return self.top[0].probability


class Classifier:
    """A model in a runtime, with the preprocessing and class names that belong to it; for one thread at a time.

    >>> classifier = Classifier.load("runs/digits/1")
    >>> classifier(["seven.png"])[0].label
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, self.spec = backend, backend.spec

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        precision: PrecisionOption | None = None,
        runtime: RuntimeOption | None = None,
    ) -> Classifier:
        """Any model that can be read: a run folder, weights, a file that `inceptionv4 export` wrote.

        Weights are answered by PyTorch in fp32 if nothing else is given: the same image and model give equal answers,
        but for rounding, on any processor and in any batch. `auto` is the fastest runtime and the device's own
        precision. An exported file has its own, which `backend.describe()` says.

        Raises:
            UsageError: no such model or device; its runtime is not installed, or does not compute so.
            CheckpointError: the model is damaged.
        """
        return cls(open_backend(model, device=device, precision=precision, runtime=runtime))

    def __call__(self, images: Places, *, top: int = 5, tta: Crops | None = None) -> list[Prediction]:
        """What `predict` gives, in a list.

        Raises:
            UsageError, AnswerError: as `predict` does.
            ImageError: an image cannot be read or decoded. `predict` goes on instead.
        """
        predictions = list(self.predict(images, top=top, tta=tta))
        for prediction in predictions:
            if prediction.error is not None:
                raise ImageError(prediction.error)
        return predictions

    def predict(
        self,
        images: Places,
        *,
        top: int = 5,
        tta: Crops | None = None,
        embed: bool = False,
    ) -> Iterator[Prediction]:
        """Answer for each of `images`, in order, while the next are decoded; one that cannot be says so in `error`.

        `images` are places as `find_images` knows them, folders and archives among them, or images already found; one
        may stand by itself. They are asked for as they are needed, up to three batches ahead, and forgotten. `tta`
        averages the probabilities of several crops; `embed` adds the features.

        Raises:
            UsageError: `embed`, where another runtime than PyTorch answers; no such `tta`; `top` below 1.
            AnswerError: the answer for an image is not finite; those before it were given.
        """
        if top < 1:
            raise UsageError(f"top must be 1 or more, got {top}")
        if tta is not None and tta not in get_args(Crops):
            raise UsageError(f"tta must be one of {', '.join(get_args(Crops))}, or None, got {tta!r}")
        check_crops(tta, self.spec.preprocessing)
        if embed:
            self._embedder()
        return self._predict(_found(images), top, tta, embed)

    def probabilities(self, images: Tensor, views: int = 1, name: Callable[[int], str] | None = None) -> Tensor:
        """uint8 `(B * views, 3, size, size)` to float32 probabilities `(B, classes)` on the CPU.

        The views of an image follow each other; their probabilities are averaged. `name(i)` is what errors call image
        i; its number if not given.

        Raises:
            AnswerError: the logits of an image are not finite.
        """
        logits = self._by_image(torch.cat([self.backend.infer(part) for part in self._parts(images)]), views)
        self.backend.require_finite(logits, name or _number)
        return logits.softmax(dim=2).mean(dim=1)

    def _predict(self, found: Iterator[NamedImage], top: int, tta: Crops | None, embed: bool) -> Iterator[Prediction]:
        views = count_views(tta)
        together = max(1, self.backend.batch_size // views)

        def prepare(image: NamedImage, content: bytes) -> np.ndarray:
            preprocessing = self.spec.preprocessing
            picture = decode(content, image.name, exif_orientation=preprocessing.exif_orientation)
            return evaluation_views(picture, preprocessing, tta)

        batches = iter(lambda: list(islice(found, together)), [])
        for batch, items in prefetch_batches(batches, lambda image: image.read(), prepare, WORKERS):
            pixels = [view for item in items if not isinstance(item, ImageError) for view in item]
            answers = iter(self._answer(as_batch(pixels, self.spec.preprocessing.size), views, embed))
            for image, item in zip(batch, items, strict=True):
                if isinstance(item, ImageError):
                    yield Prediction(image.name, (), error=str(item))
                else:
                    yield self._predict_one(image.name, *next(answers), top)

    @property
    def num_features(self) -> int:
        """Length of an embedding.

        Raises:
            UsageError: the model is in another runtime than PyTorch, which gives logits alone.
        """
        return self._embedder().num_features

    def _embedder(self) -> TorchBackend:
        if not isinstance(self.backend, TorchBackend):
            raise UsageError(
                f"features come from weights in PyTorch, and {self.backend.describe()} gives logits alone; name the "
                "run or the checkpoint, and no other --runtime"
            )
        return self.backend

    def _parts(self, images: Tensor) -> list[Tensor]:
        """As many at once as the backend likes."""
        size = self.backend.batch_size
        return [images[start : start + size] for start in range(0, len(images), size)]

    def _answer(self, images: Tensor, views: int, embed: bool) -> Iterable[tuple[Tensor, Tensor | None]]:
        """Logits `(views, classes)` of each image and its features `(views, features)`, if they are asked for."""
        if not len(images):
            return []
        if not embed:
            logits = torch.cat([self.backend.infer(part) for part in self._parts(images)])
            return [(of_image, None) for of_image in self._by_image(logits, views)]
        backend = self._embedder()
        features = torch.cat([backend.embed(part) for part in self._parts(images)])
        logits = backend.classify(features)
        return zip(self._by_image(logits, views), self._by_image(features, views), strict=True)

    def _predict_one(self, name: str, logits: Tensor, features: Tensor | None, top: int) -> Prediction:
        for answers in (logits, features):
            if answers is not None:
                self.backend.require_finite(answers[None], lambda _: name)
        best = logits.softmax(dim=1).mean(dim=0).topk(min(top, len(self.spec.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        guesses = tuple(ClassScore(self.spec.classes[number], probability) for number, probability in pairs)
        return Prediction(name, guesses, embedding=None if features is None else features.mean(dim=0).numpy())

    @staticmethod
    def _by_image(answers: Tensor, views: int) -> Tensor:
        """Answers `(B * views, n)` as `(B, views, n)`."""
        return answers.reshape(-1, views, answers.shape[1])


def _number(index: int) -> str:
    return f"image {index + 1}"


def _found(images: Places) -> Iterator[NamedImage]:
    for image in [images] if isinstance(images, (str, Path, NamedImage)) else images:
        if isinstance(image, NamedImage):
            yield image
        else:
            yield from find_images([image])
