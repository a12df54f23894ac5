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
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from inceptionv4.class_names import normal
from inceptionv4.data.cache import cached, kind_of, mark_of
from inceptionv4.data.groups import hold_out_groups, require_whole_groups
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.remote import open_remote
from inceptionv4.data.samples import Dataset, subset
from inceptionv4.data.sources.cifar import CifarSource
from inceptionv4.data.sources.csv import NAMES, CsvSource
from inceptionv4.data.sources.folder import FolderSource
from inceptionv4.data.sources.imagenet import ImageNetSource
from inceptionv4.data.sources.parquet import ParquetSource
from inceptionv4.data.sources.shards import BRACES, ShardSource
from inceptionv4.data.sources.source import Source
from inceptionv4.data.sources.tar import TarSource
from inceptionv4.data.sources.zip import ZipSource
from inceptionv4.data.splits import split_name
from inceptionv4.data.table import VAL
from inceptionv4.errors import DataError, UsageError
from inceptionv4.runtime.storage import absolute, is_uri, plain

DIGITS = "digits"
"""The name that stands for the archive inside the package. A folder of that name is reached as `./digits`."""


def open_source(location: str | Path, options: ReadOptions = AS_FOUND) -> Source:
    """The images at `location`, in whichever layout they are, or in the one that `options` say.

    Raises:
        DataError: nothing there, or nothing that can be read as labelled images, or only in two ways.
        StorageError: it is in object storage, which cannot be reached, or refuses.
        UsageError: the layout needs an extra that is not installed, or cannot obey the options.
    """
    text = str(plain(location))
    if is_uri(text):
        return open_remote(text, options)
    if text == DIGITS:
        if options.given():
            raise UsageError(f"data.{next(iter(options.given()))} is for data of your own, not for {DIGITS}")
        archive = Path(str(resources.files("inceptionv4.data") / "digits.zip"))
        return ZipSource(DIGITS, ZipSource.index([archive]))
    kind, files, unused = _detect(absolute(text), options)
    options.require_use(kind.layout_name, text)
    mark = None if kind is FolderSource else mark_of(files)
    try:
        table = cached(text, kind_of(kind, options), lambda: kind.index(files, options), mark)
    except DataError as error:
        if not unused:
            raise
        raise DataError(f"{error}; and {unused}") from None
    if unused:
        others = [reason for reason in table.left_out if not reason.startswith(NAMES)]
        table = replace(table, left_out=(*others, f"a table, as the folders are the classes: {unused}"))
    return kind(text, table)


def _detect(text: str, options: ReadOptions) -> tuple[type[Source], list[Path], str]:
    """The format of what lies at `text`, the files that its index rests on, and why a table there is not used."""
    path, wanted = Path(text), options.layout
    if BRACES.search(text):
        return ShardSource, ShardSource.find(text), ""
    if path.is_file():
        kind, files = _detect_file(path)
        if wanted not in (None, kind.layout_name):
            raise DataError(f"{text} is no {wanted}, as data.layout says: it is {kind.layout_name}")
        return kind, files, ""
    if not path.is_dir():
        raise DataError(f"no images at {path}: there is no such folder or file; --data also takes `digits`")
    finders: dict[type[Source], Callable[[], list[Path]]] = {
        ParquetSource: lambda: ParquetSource.find(path),
        CifarSource: lambda: CifarSource.find(path),
        ImageNetSource: lambda: ImageNetSource.find(path),
        ShardSource: lambda: ShardSource.find(text),
    }
    for kind, find in finders.items():
        if wanted in (None, kind.layout_name) and (files := find()):
            return kind, files, ""
    if wanted in (None, CsvSource.layout_name):
        files, reason = CsvSource.find(path, options)
        if files:
            return CsvSource, files, ""
        if wanted is None:
            _refuse_tables_of_parts(path, options)
            return FolderSource, [path], reason
        raise DataError(reason or f"{path} holds no {' or '.join(NAMES)}; give the table's own path")
    if wanted == FolderSource.layout_name:
        return FolderSource, [path], ""
    raise DataError(f"{path} holds nothing that is read as {wanted}, as data.layout says")


def _refuse_tables_of_parts(folder: Path, options: ReadOptions) -> None:
    """Refuse tables with classes inside of the parts, as `train/metadata.csv`: they or the folders may be meant."""
    for part in sorted(part for part in folder.iterdir() if split_name(part.name) and part.is_dir()):
        if files := CsvSource.find(part, options)[0]:
            raise DataError(
                f"{folder}: {files[0].relative_to(folder)} names classes, and folders may be classes, too; say "
                "--data.layout folder, or write one table of all images beside the folders"
            )


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


def read_dataset(location: str | Path, val_fraction: float = 0.2, options: ReadOptions = AS_FOUND) -> Dataset:
    """Index the labelled images at `location`; where they have no split, or one part of one alone, hold out
    `val_fraction` of each class.

    Raises:
        DataError: nothing there, no images, one class only, or a val label that train lacks.
        UsageError: the layout needs an extra that is not installed.
    """
    source = open_source(location, options)
    table = source.table
    held_out = table.splits == VAL
    has_val = bool(held_out.any() and not held_out.all())
    if not has_val:
        held_out = _hold_out(source, val_fraction) if table.groups is None else hold_out_groups(table, val_fraction)
    elif table.groups is not None:
        require_whole_groups(table, held_out, source.location)
    counts = [np.bincount(table.labels[part], minlength=len(table.classes)) for part in (~held_out, held_out)]
    trained = np.flatnonzero(counts[0])
    if len(trained) < 2:
        raise DataError(
            f"only one class in {source.location}, {table.classes[trained[0]]!r}; "
            f"a classifier needs two folders of images or more{_remarks(source)}"
        )
    if unknown := np.flatnonzero((counts[0] == 0) & (counts[1] > 0)).tolist():
        names = ", ".join(f"{table.classes[label]!r} ({counts[1][label]} images)" for label in unknown[:5])
        raise DataError(
            f"{source.location}: the held-out images have {names}, which the training images lack; "
            "add training images of that class or remove it"
        )
    return Dataset(
        source=source,
        train=subset(source, ~held_out),
        val=subset(source, held_out),
        has_val=has_val,
        layout=table.layout if has_val else f"{table.layout}, {val_fraction:.0%} of each class held out",
    )


def _remarks(source: Source) -> str:
    """What else lies there and is not used, which may be what the user meant."""
    return "".join(f"; {remark}" for remark in source.table.left_out)


def _hold_out(source: Source, fraction: float) -> np.ndarray:
    """Which rows to hold out: of each class those whose paths' hashes rank first, the same on every machine.

    Paths count from `root`, so that a folder around the data changes nothing. A class of two images or more has at
    least one in each part; a single image is trained on.
    """
    start = len(source.table.root)
    ranks = np.fromiter((_rank(normal(source.path(row)[start:])) for row in range(len(source))), np.uint64, len(source))
    held_out = np.zeros(len(source), bool)
    for label in range(len(source.table.classes)):
        rows = np.flatnonzero(source.labels == label)
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        held_out[rows[np.argsort(ranks[rows], kind="stable")][: max(count, 0)]] = True
    return held_out


def _rank(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big")
