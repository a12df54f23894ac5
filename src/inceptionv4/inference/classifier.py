"""A trained model that answers: images in, classes and probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from inceptionv4.data.decode import decode
from inceptionv4.data.layout import is_image
from inceptionv4.data.sources.folder import walk
from inceptionv4.data.transforms import as_batch, evaluation_crop
from inceptionv4.errors import ImageError, UsageError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.runtimes import open_backend


@dataclass(frozen=True)
class Guess:
    """A class and the probability that the model gives it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: the likeliest classes, best first, or why there is none."""

    file: str
    top: tuple[Guess, ...]
    error: str | None = None

    @property
    def label(self) -> str:
        return self.top[0].label

    @property
    def probability(self) -> float:
        return self.top[0].probability


class Classifier:
    """A model in a runtime, with the preprocessing and class names that belong to it.

    >>> classifier = Classifier.load("runs/digits/1")
    >>> classifier(["seven.png"])[0].label
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, self.spec = backend, backend.spec

    @classmethod
    def load(cls, model: str | Path, *, device: str = "auto") -> Classifier:
        """Any model that can be read: a run folder, weights, a file that `inceptionv4 export` wrote.

        Raises:
            UsageError: no such model or device, or its runtime is not installed.
            CheckpointError: the model is damaged.
        """
        return cls(open_backend(model, device=device))

    def __call__(self, files: Iterable[str | Path], *, top: int = 5) -> list[Prediction]:
        """Answer for each file, in order.

        Raises:
            ImageError: a file cannot be read or decoded. `predict` goes on instead.
        """
        predictions = list(self.predict(files, top=top))
        for prediction in predictions:
            if prediction.error is not None:
                raise ImageError(prediction.error)
        return predictions

    def predict(self, files: Iterable[str | Path], *, top: int = 5) -> Iterator[Prediction]:
        """Answer for each file, in order, a batch at a time; one that cannot be decoded says so in `error`."""
        rest = iter(files)
        while names := list(islice(rest, self.backend.batch_size)):
            prepared = [self._prepare(Path(name)) for name in names]
            pixels = [item for item in prepared if not isinstance(item, str)]
            guesses = iter(self._guess(as_batch(pixels, self.spec.preprocessing.size), top) if pixels else [])
            for name, item in zip(names, prepared, strict=True):
                if isinstance(item, str):
                    yield Prediction(str(name), (), error=item)
                else:
                    yield Prediction(str(name), next(guesses))

    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 `(B, 3, size, size)` to float32 probabilities `(B, classes)` on the CPU."""
        return self.backend.infer(images).softmax(dim=1)

    def _guess(self, images: Tensor, top: int) -> list[tuple[Guess, ...]]:
        best = self.probabilities(images).topk(min(top, len(self.spec.classes)))
        return [
            tuple(Guess(self.spec.classes[i], p) for i, p in zip(numbers, values, strict=True))
            for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _prepare(self, file: Path) -> np.ndarray | str:
        try:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise ImageError(f"{file} cannot be read: {error.strerror}") from None
            preprocessing = self.spec.preprocessing
            image = decode(content, str(file), exif_orientation=preprocessing.exif_orientation)
            return evaluation_crop(image, preprocessing)
        except ImageError as error:
            return str(error)


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all images below the folders among them.

    Raises:
        UsageError: a path does not exist, or a folder holds no images.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = [path / folder / name for folder, names in walk(path) for name in names if is_image(name)]
            if not found:
                raise UsageError(f"no images in {path}: no file there has an image's extension")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UsageError(f"no image at {path}; give files, or folders of images")
    return files
