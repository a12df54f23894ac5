"""Batches of samples: the same, in the same order, whatever the number of workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inceptionv4.config import Config
from inceptionv4.data.augment import AugmentedImage, color_jitter, sample_generator, training_view
from inceptionv4.data.crops import Crops, evaluation_views
from inceptionv4.data.decode import decode
from inceptionv4.data.order import epoch_order, repeat
from inceptionv4.data.prefetch import prefetch_batches
from inceptionv4.data.samples import Samples
from inceptionv4.data.transforms import as_batch, normalize
from inceptionv4.errors import ConfigError, DataError, ImageError
from inceptionv4.spec import Preprocessing

MAX_BAD_SHARE = 0.01
"""Largest share of the training images that may be skipped because they cannot be decoded."""


@dataclass(frozen=True)
class Batch:
    """uint8 images `(B, 3, size, size)`, int64 labels and sample numbers `(B,)`."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    color_factors: Tensor | None = None
    """Factors of colour jitter that are still to be applied, float32 `(B, 3)`; None: none."""
    bad: dict[int, str] = field(default_factory=dict)
    """Sample numbers that have no image here, and why."""
    number: int = 0
    """Its place in the epoch."""

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: slice) -> Batch:
        """Some of its images."""
        color_factors = None if self.color_factors is None else self.color_factors[rows]
        return Batch(self.images[rows], self.labels[rows], self.indices[rows], color_factors, self.bad, self.number)

    def to_input(self, device: torch.device, preprocessing: Preprocessing) -> Tensor:
        """The network's input on `device`: float32 `(B, 3, size, size)`."""
        images = self.images.to(device, non_blocking=True)
        if self.color_factors is None:
            return normalize(images, preprocessing)
        return color_jitter(images, self.color_factors.to(device, non_blocking=True), preprocessing)


def used_batch_size(config: Config, images: int, ranks: int = 1) -> int:
    """Images in a batch of all ranks: `training.batch_size`, or all the images there are, the same number a rank."""
    return min(config.training.batch_size, images // ranks * ranks)


def describe_batch(config: Config, batch_size: int) -> list[str]:
    """What is to be said of a batch that is smaller than the settings ask for; nothing if it is not."""
    asked, reference = config.training.batch_size, config.optimizer.reference_batch
    if batch_size == asked:
        return []
    scaled = f"; the learning rate is for {batch_size:,}, too" if reference is not None else ""
    return [f"a batch has {batch_size:,} images, not training.batch_size {asked:,}: there are no more{scaled}"]


class TrainingLoader:
    """Epochs of full batches, in an order that depends on the seed, the epoch and the data alone.

    A batch is that of all ranks together; each rank gets an equal part of it, so that any number of ranks, and any
    number of workers, sees the same batches. The images of a last, incomplete batch sit that epoch out; the next
    epoch's order is another one. Training images that cannot be decoded are skipped and collected in `bad`, or raise,
    as `data.on_error` says.
    """

    def __init__(self, samples: Samples, config: Config, *, workers: int, rank: int = 0, ranks: int = 1) -> None:
        """Raises:
        ConfigError: the batch cannot be divided among the ranks, or into repeats.
        """
        self.samples, self.config = samples, config
        self.workers, self.rank, self.ranks = workers, rank, ranks
        self.batch_size = used_batch_size(config, len(samples), ranks)
        if self.batch_size < 2 * ranks or self.batch_size % ranks:
            raise ConfigError(
                f"training.batch_size must be a multiple of the {ranks} processes with two images for each or more, "
                f"got {config.training.batch_size} for {len(samples)} images"
            )
        if self.batch_size % config.data.repeats:
            raise ConfigError(
                f"data.repeats must divide the batch of {self.batch_size} images, got {config.data.repeats}"
            )
        self.bad: dict[int, str] = {}
        self.remarks = describe_batch(config, self.batch_size)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.samples) // self.batch_size

    def epoch(self, number: int, start: int = 0, size: int | None = None) -> Iterator[Batch]:
        """The batches of epoch `number` from batch `start` on, both from 0, of images of `size` (`image.size`).

        Raises:
            ImageError: an image cannot be decoded, and `data.on_error` is `raise`.
            DataError: more than 1 % of the images cannot be decoded.
        """
        config = self.config
        image = config.image if size is None else replace(config.image, size=size)

        def read(draw: int) -> bytes:
            return self.samples.read(draw % len(self.samples))

        def prepare(draw: int, content: bytes) -> AugmentedImage:
            return training_view(
                content,
                self.samples.describe(draw % len(self.samples)),
                image,
                config.augment,
                sample_generator(config.seed, number, draw),
                scaled_decoding=config.data.scaled_decoding,
            )

        draws = (part.tolist() for part in self.draws(number)[start:, self.rank])
        parts = prefetch_batches(draws, read, prepare, self.workers, self.samples.source.io_threads)
        for place, (part, views) in enumerate(parts, start):
            batch = self._collate(place, np.array(part) % len(self.samples), views, image.size)
            self._count(batch.bad)
            yield batch

    def draws(self, number: int) -> np.ndarray:
        """What all ranks read in epoch `number`: draws (`data.order`), int64 `(batches, ranks, images of a rank)`."""
        data = self.config.data
        draws = epoch_order(self.samples.labels, self.config.seed, number, data.sampling)
        draws = repeat(draws[: len(self) * self.batch_size], len(self), data.repeats, len(self.samples))
        return draws.reshape(len(self), self.ranks, -1)

    def _collate(self, place: int, indices: np.ndarray, views: list[AugmentedImage | ImageError], size: int) -> Batch:
        good = [row for row, view in enumerate(views) if isinstance(view, AugmentedImage)]
        images = np.empty((len(good), 3, size, size), np.uint8)
        color_factors = np.empty((len(good), 3), np.float32)
        for row, view in enumerate(view for view in views if isinstance(view, AugmentedImage)):
            images[row], color_factors[row] = view.pixels, view.color_factors
        numbers = indices[good]
        return Batch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(self.samples.labels[numbers].astype(np.int64)),
            indices=torch.from_numpy(numbers),
            color_factors=torch.from_numpy(color_factors) if self.config.augment.color else None,
            bad=_reasons(indices.tolist(), views),
            number=place,
        )

    def _count(self, bad: dict[int, str]) -> None:
        self.bad |= bad
        if bad and self.config.data.on_error == "raise":
            raise ImageError(f"{next(iter(bad.values()))}; --data.on_error skip leaves up to {MAX_BAD_SHARE:.0%} out")
        if len(self.bad) > MAX_BAD_SHARE * len(self.samples):
            raise DataError(
                f"{len(self.bad)} of {len(self.samples)} training images cannot be decoded, more than "
                f"{MAX_BAD_SHARE:.0%}; repair or remove them (`inceptionv4 data doctor` lists all): "
                f"{'; '.join(list(self.bad.values())[:5])}"
            )


def evaluation_batches(
    samples: Samples,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    ranks: int = 1,
    crops: Crops | None = None,
) -> Iterator[Batch]:
    """Every sample exactly once on one of the ranks, in order, the last batch as small as it comes.

    With `crops`, a batch of B samples has the views of each one after the other in its `images`.

    Raises:
        ImageError: an image cannot be decoded; the message names it.
    """

    def prepare(index: int, content: bytes) -> np.ndarray:
        image = decode(content, samples.describe(index), exif_orientation=preprocessing.exif_orientation)
        return evaluation_views(image, preprocessing, crops)

    numbers = range(rank, len(samples), ranks)
    batches = (numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size))
    for indices, items in prefetch_batches(batches, samples.read, prepare, workers, samples.source.io_threads):
        for reason in _reasons(indices, items).values():
            raise ImageError(f"{reason}; an evaluation counts every image, so repair it or remove it")
        images = [view for item in items if isinstance(item, np.ndarray) for view in item]
        labels = torch.from_numpy(samples.labels[np.array(indices)].astype(np.int64))
        yield Batch(as_batch(images, preprocessing.size), labels, torch.tensor(indices))


def _reasons(indices: Sequence[int], items: list[Any]) -> dict[int, str]:
    return {index: str(item) for index, item in zip(indices, items, strict=True) if isinstance(item, ImageError)}
