"""From a location to labelled images: which are for training, which are held out, and what they are called.

`data.detect` says in which format they lie; each has its file in `data.formats`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from inceptionv4.class_names import normal
from inceptionv4.data.cache import cached, kind_of, mark_of
from inceptionv4.data.detect import detect
from inceptionv4.data.formats.csv import NAMES
from inceptionv4.data.formats.folder import FolderSource
from inceptionv4.data.formats.source import Source
from inceptionv4.data.formats.zip import ZipSource
from inceptionv4.data.groups import hold_out_groups, require_whole_groups
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.remote import open_remote
from inceptionv4.data.samples import Dataset, subset
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
    found = detect(absolute(text), options)
    options.require_use(found.kind.layout_name, text)
    mark = None if found.kind is FolderSource else mark_of(found.files)
    try:
        table = cached(text, kind_of(found.kind, options), lambda: found.kind.index(found.files, options), mark)
    except DataError as error:
        if not found.beside:
            raise
        raise DataError(f"{error}; and {'; '.join(found.beside)}") from None
    if found.beside:
        others = [words for words in table.left_out if not words.startswith(NAMES)]
        table = replace(table, left_out=(*others, *found.beside))
    source = found.kind(text, table)
    if mark is not None and mark_of(found.files) != mark:
        raise DataError(f"{text} was changed while it was being listed; start again when nothing writes there")
    return source


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
