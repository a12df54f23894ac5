"""From a place to labelled images: which layout it is, which images are for training, and what they are called.

Formats in the order in which they are looked for, each in `data.sources`:

    digits                          the archive inside the package
    name-{0000..0099}.tar           shards, or a folder of numbered ones
    file.zip  file.tar  file.csv  file.parquet
    folder    of parquet files, CIFAR-10 batches, ImageNet's archives, with a labels.csv, or of class folders
    s3://...                        shards, a .tar or a .zip in object storage (`data.remote`)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np

from inceptionv4.data.cache import cached, mark_of
from inceptionv4.data.remote import open_remote
from inceptionv4.data.sources.cifar import CifarSource
from inceptionv4.data.sources.csv import CsvSource
from inceptionv4.data.sources.folder import FolderSource
from inceptionv4.data.sources.imagenet import ImageNetSource
from inceptionv4.data.sources.parquet import ParquetSource
from inceptionv4.data.sources.shards import BRACES, ShardSource
from inceptionv4.data.sources.source import Source
from inceptionv4.data.sources.tar import TarSource
from inceptionv4.data.sources.zip import ZipSource
from inceptionv4.data.table import VAL, narrow
from inceptionv4.errors import DataError
from inceptionv4.imagenet import canonical
from inceptionv4.runtime.storage import absolute, is_uri, plain

DIGITS = "digits"
"""The name that stands for the archive inside the package. A folder of that name is reached as `./digits`."""


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
        """A hash of the classes and paths, by which a model knows the images that it was trained on."""
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        for row in self.rows.tolist():
            digest.update(f"\n{self.source.path(row)}".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """All labelled images of a place, split in two."""

    source: Source
    train: Samples
    val: Samples
    has_val: bool
    """Whether the data say themselves which images are held out, and which are not."""
    layout: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def all(self) -> Samples:
        table = self.source.table
        return Samples(self.source, np.arange(len(table)), table.labels, table.classes)


def open_source(location: str | Path) -> Source:
    """The images at `location`, in whichever layout they are.

    Raises:
        DataError: nothing there, or nothing that can be read as labelled images.
        StorageError: it is in object storage, which cannot be reached, or refuses.
        UsageError: the layout needs an extra that is not installed.
    """
    text = str(plain(location))
    if is_uri(text):
        return open_remote(text)
    if text == DIGITS:
        archive = Path(str(resources.files("inceptionv4.data") / "digits.zip"))
        return ZipSource(DIGITS, ZipSource.index([archive]))
    kind, files = _detect(absolute(text))
    mark = None if kind is FolderSource else mark_of(files)
    return kind(text, cached(text, kind.__name__, lambda: kind.index(files), mark))


def _detect(text: str) -> tuple[type[Source], list[Path]]:
    """The format of what lies at `text`, and the files that its index rests on."""
    path = Path(text)
    if BRACES.search(text):
        return ShardSource, ShardSource.find(text)
    if path.is_file():
        return _detect_file(path)
    if not path.is_dir():
        raise DataError(f"no images at {path}: there is no such folder or file; --data also takes `digits`")
    if files := ParquetSource.find(path):
        return ParquetSource, files
    if files := CifarSource.find(path):
        return CifarSource, files
    if files := ImageNetSource.find(path):
        return ImageNetSource, files
    if files := ShardSource.find(text):
        return ShardSource, files
    if files := CsvSource.find(path):
        return CsvSource, files
    return FolderSource, [path]


def _detect_file(path: Path) -> tuple[type[Source], list[Path]]:
    with path.open("rb") as file:
        head = file.read(512)
    if path.suffix.lower() == ".csv":
        return CsvSource, [path]
    if path.suffix.lower() == ".parquet":
        return ParquetSource, [path]
    if files := ImageNetSource.find(path):
        return ImageNetSource, files
    if head[257:262] == b"ustar" or path.suffix.lower() in (".tar", ".tgz") or path.name.lower().endswith(".tar.gz"):
        return TarSource, [path]
    if head.startswith((b"PK\3\4", b"PK\5\6")) or path.suffix.lower() == ".zip":
        return ZipSource, [path]
    raise DataError(f"{path} is no folder, .zip, .tar, .csv or .parquet; pack the class folders as a .zip")


def read_dataset(location: str | Path, val_fraction: float = 0.2) -> Dataset:
    """Index the labelled images at `location`; where they have no split, or one part of one alone, hold out
    `val_fraction` of each class.

    Raises:
        DataError: nothing there, no images, one class only, or a val label that train lacks.
        UsageError: the layout needs an extra that is not installed.
    """
    source = open_source(location)
    table = source.table
    held_out = table.splits == VAL
    has_val = bool(held_out.any() and not held_out.all())
    if not has_val:
        held_out = _hold_out(source, val_fraction)
    counts = [np.bincount(table.labels[part], minlength=len(table.classes)) for part in (~held_out, held_out)]
    trained = np.flatnonzero(counts[0])
    if len(trained) < 2:
        raise DataError(
            f"only one class in {source.location}, {table.classes[trained[0]]!r}; "
            "a classifier needs two folders of images or more"
        )
    if unknown := np.flatnonzero((counts[0] == 0) & (counts[1] > 0)).tolist():
        names = ", ".join(f"{table.classes[label]!r} ({counts[1][label]} images)" for label in unknown[:5])
        raise DataError(
            f"{source.location}: the held-out images have {names}, which the training images lack; "
            "add training images of that class or remove it"
        )
    return Dataset(
        source=source,
        train=_subset(source, ~held_out),
        val=_subset(source, held_out),
        has_val=has_val,
        layout=table.layout if has_val else f"{table.layout}, {val_fraction:.0%} of each class held out",
    )


def _subset(source: Source, chosen: np.ndarray) -> Samples:
    """The chosen rows, class by class, in the order of their paths."""
    rows = narrow(np.flatnonzero(chosen))
    labels = source.labels[rows]
    if (labels[1:] < labels[:-1]).any():
        order = np.argsort(narrow(labels), kind="stable")  # 16 bits are sorted by radix
        rows, labels = rows[order], labels[order]
    return Samples(source, rows, labels, source.table.classes)


def _hold_out(source: Source, fraction: float) -> np.ndarray:
    """Which rows to hold out: of each class those whose paths' hashes rank first, the same on every machine.

    Paths count from `root`, so that a folder around the data changes nothing. A class of two images or more has at
    least one in each part; a single image is trained on.
    """
    start = len(source.table.root)
    hashes = (
        hashlib.sha256(source.path(row)[start:].encode(errors="surrogateescape")).digest()[:8]
        for row in range(len(source))
    )
    ranks = np.fromiter((int.from_bytes(hash, "big") for hash in hashes), np.uint64, len(source))
    held_out = np.zeros(len(source), bool)
    for label in range(len(source.table.classes)):
        rows = np.flatnonzero(source.labels == label)
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        held_out[rows[np.argsort(ranks[rows], kind="stable")][: max(count, 0)]] = True
    return held_out


def relabel(samples: Samples, classes: tuple[str, ...]) -> Samples:
    """The same images labelled by `classes`, a model's: its order counts, not that of the data. ImageNet's classes may
    be called by their wnids or by their names.

    Raises:
        DataError: images of a class that is not among `classes`.
    """
    numbers = {name: number for number, name in enumerate(canonical(classes))}
    order = np.array([numbers.get(name, -1) for name in canonical(samples.classes)], np.int32)
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
