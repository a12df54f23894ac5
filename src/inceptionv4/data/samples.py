"""Labelled images, split in two, and the fingerprint by which they are known again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inceptionv4.class_names import normal
from inceptionv4.data.formats.source import Source
from inceptionv4.data.table import narrow
from inceptionv4.errors import DataError, ImageError
from inceptionv4.imagenet import canonical

SAMPLED = 256
"""Images whose contents count for a fingerprint, of the training ones and of the held-out ones each."""


@dataclass(frozen=True)
class Samples:
    """Labelled images: `rows` of a source, and their `labels` (int32), which are numbers in `classes`."""

    source: Source
    rows: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> np.ndarray:
        """Images of each class, int64 `(classes,)`."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def read(self, index: int) -> bytes:
        return self.source.read(int(self.rows[index]))

    def path(self, index: int) -> str:
        return self.source.path(int(self.rows[index]))

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.rows[index]))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the classes, paths, labels' order and contents, by which a model knows its training images again.

        Of the contents it takes up to `SAMPLED` images, evenly over all and whole: the same ones of a folder and of
        an archive of it. Paths count from the table's root, and in the composed spelling.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        start = len(self.source.table.root)
        for row in self.rows.tolist():
            digest.update(f"\n{normal(self.source.path(row)[start:])}".encode(errors="surrogateescape"))
        for content in self._sampled_contents():
            digest.update(content)
        return digest.hexdigest()[:16]

    @cached_property
    def exact_fingerprint(self) -> str:
        """The layout, and a hash of the fingerprint and of what the index knows of each image's bytes: lengths, and a
        .zip's checksums.

        It notices more changes than `fingerprint`, but differs between a folder and an archive of it.
        """
        facts = [column[self.rows] for _, column in sorted(self.source.facts().items())]
        digest = hashlib.sha256(self.fingerprint.encode())
        for column in facts:
            digest.update(column.astype("<i8").tobytes())
        return f"{self.source.layout_name}:{digest.hexdigest()[:16]}"

    def _sampled_contents(self) -> Iterator[bytes]:
        """The hash of each sampled image's content; of one that cannot be read, nothing."""

        def digest(row: int) -> bytes:
            try:
                return hashlib.sha256(self.source.read(row)).digest()
            except ImageError:
                return b""

        chosen = self.source.sample(self.rows, SAMPLED).tolist()
        with ThreadPoolExecutor(max(self.source.io_threads, 1), thread_name_prefix="sample") as pool:
            yield from pool.map(digest, chosen)


@dataclass(frozen=True)
class Dataset:
    """All labelled images of a place, split in two."""

    source: Source
    train: Samples
    val: Samples
    has_val: bool
    """True if the data themselves say which images are held out, and which are not."""
    layout: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def all(self) -> Samples:
        table = self.source.table
        return Samples(self.source, np.arange(len(table)), table.labels, table.classes)


def subset(source: Source, chosen: np.ndarray) -> Samples:
    """The chosen rows, class by class, in the order of their paths."""
    rows = narrow(np.flatnonzero(chosen))
    labels = source.labels[rows]
    if (labels[1:] < labels[:-1]).any():
        order = np.argsort(narrow(labels), kind="stable")  # 16 bits are sorted by radix
        rows, labels = rows[order], labels[order]
    return Samples(source, rows, labels, source.table.classes)


def relabel(samples: Samples, classes: tuple[str, ...]) -> Samples:
    """The same images labelled by `classes`, a model's: its order counts, not that of the data. ImageNet's classes may
    be called by their wnids or by their names.

    Raises:
        DataError: images of a class that is not among `classes`.
    """
    numbers = {normal(name): number for number, name in enumerate(canonical(classes))}
    order = np.array([numbers.get(normal(name), -1) for name in canonical(samples.classes)], np.int32)
    labels = order[samples.labels]
    if (labels < 0).any():
        counts = Counter(samples.labels[labels < 0].tolist())
        strangers = ", ".join(repr(samples.classes[label]) for label in sorted(counts)[:5])
        raise DataError(
            f"{samples.source.location} has classes that the model was not trained on: {strangers}; "
            f"it knows {', '.join(map(repr, classes[:10]))}{', ...' if len(classes) > 10 else ''}; "
            "rename them, or train on them"
        )
    return Samples(samples.source, samples.rows, labels, classes)
