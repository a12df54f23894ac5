"""What a place holds, at a glance: the layout that was found, classes, counts, formats, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from inceptionv4.data.decode import DAMAGE, decode, open_image
from inceptionv4.data.index import read_dataset
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.samples import Dataset, Samples
from inceptionv4.data.tools.mosaic import mosaic
from inceptionv4.errors import ImageError

SAMPLE = 2000
"""Images whose headers are read."""
TILES, COLUMNS = 48, 8


@dataclass(frozen=True)
class Overview:
    """The facts about some data; sizes are of `sampled` images, evenly over all."""

    location: str
    layout: str
    classes: tuple[str, ...]
    train: tuple[int, ...]
    """Images of each class to train on."""
    val: tuple[int, ...]
    """Images of each class that are held out."""
    ignored: int
    left_out: tuple[str, ...]
    """How many images are left out, and by which rule."""
    sampled: int
    formats: dict[str, int]
    width: tuple[int, int, int]
    """Smallest, median and largest, px."""
    height: tuple[int, int, int]
    bytes_each: float
    """Mean length of a file."""

    @property
    def images(self) -> int:
        return sum(self.train) + sum(self.val)


def overview(dataset: Dataset) -> Overview:
    """Look at the index, and into the headers of up to `SAMPLE` images."""
    samples = dataset.all()
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(SAMPLE, len(samples))).astype(int)).tolist()
    formats: Counter[str] = Counter()
    sizes, lengths = [], []
    for index in chosen:
        try:
            content = samples.read(index)
            lengths.append(len(content))
            with open_image(content) as image:
                formats[str(image.format)] += 1
                sizes.append(image.size)
        except (ImageError, *DAMAGE):
            formats["unreadable"] += 1
    smallest, median, largest = (np.quantile(np.array(sizes or [(0, 0)]), share, axis=0) for share in (0, 0.5, 1))
    return Overview(
        location=dataset.source.location,
        layout=dataset.layout,
        classes=dataset.classes,
        train=tuple(dataset.train.counts.tolist()),
        val=tuple(dataset.val.counts.tolist()),
        ignored=dataset.source.table.ignored,
        left_out=dataset.source.table.left_out,
        sampled=len(chosen),
        formats=dict(formats.most_common()),
        width=(int(smallest[0]), int(median[0]), int(largest[0])),
        height=(int(smallest[1]), int(median[1]), int(largest[1])),
        bytes_each=float(np.mean(lengths)) if lengths else 0.0,
    )


def first_images(dataset: Dataset) -> Image.Image:
    """A mosaic of the first training images of each class, up to `TILES` in all, with as many of each."""
    samples = dataset.train
    occurring = np.unique(samples.labels)
    each = next(count for count in (8, 4, 2, 1) if count * min(len(occurring), TILES) <= TILES)
    tiles = []
    for label in occurring[:TILES].tolist():
        numbers = np.flatnonzero(samples.labels == label)[:each].tolist()
        tiles += [(_picture(samples, index), samples.classes[label]) for index in numbers]
        # A class of fewer images ends its part of the row; the next one begins where it would have.
        tiles += [(Image.new("RGB", (1, 1), "#e9e9ec"), "")] * (each - len(numbers))
    return mosaic(tiles, COLUMNS)


def _picture(samples: Samples, index: int) -> Image.Image | None:
    try:
        return decode(samples.read(index), samples.describe(index))
    except ImageError:
        return None


def inspect(location: str | Path, options: ReadOptions = AS_FOUND) -> tuple[Overview, Image.Image]:
    """The facts about the data at `location`, and a mosaic of their first images.

    Raises:
        DataError: the data cannot be used.
        UsageError: the layout needs an extra that is not installed.
    """
    dataset = read_dataset(location, options=options)
    return overview(dataset), first_images(dataset)


def extremes(names: Sequence[str], counts: Sequence[int], most: int) -> list[tuple[str, int] | None]:
    """Classes with their counts; of more than `most`, the largest and the smallest, with None for those between."""
    pairs = list(zip(names, counts, strict=True))
    if len(pairs) <= most:
        return list(pairs)
    ranked = sorted(pairs, key=lambda pair: -pair[1])
    return [*ranked[: most - most // 2], None, *ranked[-(most // 2) :]]
