"""Batches of samples: the same ones in the same order with the same pixels, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from inceptionv4.config import AugmentConfig
from inceptionv4.data.decode import decode
from inceptionv4.data.index import Samples
from inceptionv4.data.transforms import evaluation_crop, sample_generator, training_crop
from inceptionv4.errors import DataError, ImageError
from inceptionv4.spec import Preprocessing

MAX_BAD_SHARE = 0.01
"""Of the training images that may be skipped because they cannot be decoded."""


@dataclass(frozen=True)
class Batch:
    """uint8 images `(B, size, size, 3)`, int64 labels and sample numbers `(B,)`, and why others have no pixels."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: dict[int, str]

    def __len__(self) -> int:
        return len(self.labels)


Key = tuple[int, int]
"""Epoch and sample number: all that a training sample depends on, apart from the seed."""


class Prepared(Dataset[Any]):
    """Sample by key: its number, and its pixels or the reason why there are none."""

    def __init__(
        self, samples: Samples, crop: Callable[[Image.Image, Key], np.ndarray], exif_orientation: bool
    ) -> None:
        self.samples, self.crop, self.exif_orientation = samples, crop, exif_orientation

    def __getitem__(self, key: Key) -> tuple[int, np.ndarray | str]:
        index = key[1]
        try:
            name = self.samples.describe(index)
            image = decode(self.samples.read(index), name, exif_orientation=self.exif_orientation)
        except ImageError as error:
            return index, str(error)
        return index, self.crop(image, key)

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class TrainingCrop:
    """`training_crop` with the settings bound; a class and not a closure, so that workers can be spawned."""

    preprocessing: Preprocessing
    augment: AugmentConfig
    seed: int

    def __call__(self, image: Image.Image, key: Key) -> np.ndarray:
        return training_crop(image, self.preprocessing, self.augment, sample_generator(self.seed, *key))


@dataclass(frozen=True)
class EvaluationCrop:
    """`evaluation_crop` with the settings bound."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image, key: Key) -> np.ndarray:
        return evaluation_crop(image, self.preprocessing)


@dataclass(frozen=True)
class Collate:
    """Samples to a `Batch`; those without pixels are set aside."""

    labels: np.ndarray
    size: int

    def __call__(self, prepared: Sequence[tuple[int, np.ndarray | str]]) -> Batch:
        bad = {index: reason for index, reason in prepared if isinstance(reason, str)}
        good = [(index, pixels) for index, pixels in prepared if not isinstance(pixels, str)]
        indices = np.array([index for index, _ in good], dtype=np.int64)
        images = np.stack([pixels for _, pixels in good]) if good else np.empty((0, self.size, self.size, 3), np.uint8)
        return Batch(torch.from_numpy(images), torch.from_numpy(self.labels[indices]), torch.from_numpy(indices), bad)


class Keys:
    """The keys of each batch. Setting `epoch` between two passes is all that a loader needs to go on."""

    def __init__(self, batches: Callable[[int], list[list[int]]]) -> None:
        self.batches, self.epoch = batches, 0

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches(self.epoch):
            yield [(self.epoch, index) for index in batch]

    def __len__(self) -> int:
        return len(self.batches(self.epoch))


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `size` samples in one epoch: a permutation that depends on these three numbers alone."""
    return np.random.default_rng((seed, epoch)).permutation(size)


class TrainingLoader:
    """Endless epochs of full batches, each image at most once an epoch.

    The images of a last, incomplete batch sit that epoch out; the next epoch's order is another one. Images that
    cannot be decoded are skipped and collected in `bad`.
    """

    def __init__(
        self,
        samples: Samples,
        preprocessing: Preprocessing,
        augment: AugmentConfig,
        *,
        batch_size: int,
        seed: int,
        workers: int,
    ) -> None:
        self.samples = samples
        self.batch_size = min(batch_size, len(samples))
        self.seed = seed
        self.bad: dict[int, str] = {}
        self._keys = Keys(self._batches)
        dataset = Prepared(samples, TrainingCrop(preprocessing, augment, seed), preprocessing.exif_orientation)
        self._loader = _data_loader(dataset, self._keys, Collate(samples.labels, preprocessing.size), workers)

    def _batches(self, epoch: int) -> list[list[int]]:
        order = epoch_order(len(self.samples), self.seed, epoch).tolist()
        return [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.samples) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`, from 0; each holds two images or more.

        Raises:
            DataError: more than 1 % of the images cannot be decoded.
        """
        self._keys.epoch = number
        for batch in self._loader:
            self.bad |= batch.bad
            if len(self.bad) > MAX_BAD_SHARE * len(self.samples):
                raise DataError(
                    f"{len(self.bad)} of {len(self.samples)} training images cannot be decoded, more than "
                    f"{MAX_BAD_SHARE:.0%}; repair or remove them: {'; '.join(list(self.bad.values())[:5])}"
                )
            if len(batch) > 1:  # a batch norm needs two
                yield batch


def evaluation_batches(
    samples: Samples, preprocessing: Preprocessing, *, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Every sample exactly once, in order, the last batch as small as it comes.

    Raises:
        ImageError: an image cannot be decoded; the message names it.
    """
    keys = Keys(
        lambda _: [list(range(i, min(i + batch_size, len(samples)))) for i in range(0, len(samples), batch_size)]
    )
    dataset = Prepared(samples, EvaluationCrop(preprocessing), preprocessing.exif_orientation)
    for batch in _data_loader(dataset, keys, Collate(samples.labels, preprocessing.size), workers):
        for reason in batch.bad.values():
            raise ImageError(f"{reason}; an evaluation counts every image, so repair it or remove it")
        yield batch


def _data_loader(dataset: Prepared, keys: Keys, collate: Collate, workers: int) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
