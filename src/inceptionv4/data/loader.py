"""Batches of samples: the same ones in the same order with the same pixels, whatever the number of workers.

Workers are threads: reading, decoding and resizing release Python's lock, the index is there once however many they
are, and a thread cannot be killed from under the training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inceptionv4.config import AugmentConfig
from inceptionv4.data.decode import decode
from inceptionv4.data.index import Samples
from inceptionv4.data.transforms import evaluation_crop, sample_generator, training_crop
from inceptionv4.errors import DataError, ImageError
from inceptionv4.spec import Preprocessing

MAX_BAD_SHARE = 0.01
"""Of the training images that may be skipped because they cannot be decoded."""
BATCHES_AHEAD = 2
"""Batches that are prepared while one is used."""


@dataclass(frozen=True)
class Batch:
    """uint8 images `(B, size, size, 3)`, int64 labels and sample numbers `(B,)`, and why others have no pixels."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: dict[int, str]

    def __len__(self) -> int:
        return len(self.labels)


Crop = Callable[[Image.Image, int], np.ndarray]
"""A decoded image and its sample number to uint8 `(size, size, 3)`."""


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `size` samples in one epoch: a permutation that depends on these three numbers alone."""
    return np.random.default_rng((seed, epoch)).permutation(size)


class TrainingLoader:
    """Epochs of full batches, each image at most once an epoch.

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
        self.samples, self.preprocessing, self.augment = samples, preprocessing, augment
        self.batch_size = min(batch_size, len(samples))
        self.seed, self.workers = seed, workers
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.samples) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`, from 0; each holds two images or more.

        Raises:
            DataError: more than 1 % of the images cannot be decoded.
        """

        def crop(image: Image.Image, index: int) -> np.ndarray:
            generator = sample_generator(self.seed, number, index)
            return training_crop(image, self.preprocessing, self.augment, generator)

        order = epoch_order(len(self.samples), self.seed, number)[: len(self) * self.batch_size]
        for batch in _batches(self.samples, order.reshape(len(self), -1), crop, self.preprocessing, self.workers):
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

    def crop(image: Image.Image, index: int) -> np.ndarray:
        return evaluation_crop(image, preprocessing)

    numbers = np.arange(len(samples))
    batches = (numbers[start : start + batch_size] for start in range(0, len(samples), batch_size))
    for batch in _batches(samples, batches, crop, preprocessing, workers):
        for reason in batch.bad.values():
            raise ImageError(f"{reason}; an evaluation counts every image, so repair it or remove it")
        yield batch


def _batches(
    samples: Samples, batches: Iterable[np.ndarray], crop: Crop, preprocessing: Preprocessing, workers: int
) -> Iterator[Batch]:
    """The samples of each of `batches`, prepared by `workers` threads ahead of their use, or by the caller's if 0."""

    def prepare(index: int) -> np.ndarray | str:
        """The sample's pixels, or the reason why there are none."""
        try:
            image = decode(
                samples.read(index), samples.describe(index), exif_orientation=preprocessing.exif_orientation
            )
        except ImageError as error:
            return str(error)
        return crop(image, index)

    def collate(indices: Sequence[int], prepared: Iterable[np.ndarray | str]) -> Batch:
        bad: dict[int, str] = {}
        good: dict[int, np.ndarray] = {}
        for index, item in zip(indices, prepared, strict=True):
            if isinstance(item, str):
                bad[index] = item
            else:
                good[index] = item
        size = preprocessing.size
        images = np.stack(list(good.values())) if good else np.empty((0, size, size, 3), np.uint8)
        numbers = np.array(list(good), dtype=np.int64)
        return Batch(
            torch.from_numpy(images),
            torch.from_numpy(samples.labels[numbers].astype(np.int64)),
            torch.from_numpy(numbers),
            bad,
        )

    if workers == 0:
        for batch in batches:
            yield collate(batch.tolist(), map(prepare, batch.tolist()))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead: deque[tuple[list[int], list[Future[np.ndarray | str]]]] = deque()
        for batch in batches:
            ahead.append((batch.tolist(), [pool.submit(prepare, index) for index in batch.tolist()]))
            if len(ahead) > BATCHES_AHEAD:
                indices, futures = ahead.popleft()
                yield collate(indices, (future.result() for future in futures))
        for indices, futures in ahead:
            yield collate(indices, (future.result() for future in futures))
    finally:
        pool.shutdown(cancel_futures=True)
