"""Tar shards in webdataset's convention, each as `data.sources.shard` has it.

    name-{0000..0099}.tar                    one set of shards, without a split
    folder/train-0000.tar folder/val-0000.tar    split by the word before the number, as in imagenet1k-train-0000.tar

Names of classes come from a `classes.txt` beside the shards, a line each; without one, a class is called by its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from inceptionv4.class_names import read_class_names
from inceptionv4.data.layout import is_sidecar
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.sources.shard import Shard, read_shard
from inceptionv4.data.sources.source import RangeSource
from inceptionv4.data.splits import split_files
from inceptionv4.data.table import Table, Texts, counted, narrow
from inceptionv4.errors import DataError

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
CLASSES = "classes.txt"
NUMBERED = re.compile(r"(?P<name>[^.].*)-\d+\.tar")


class ShardSource(RangeSource):
    """Images at their offsets in many tar files."""

    layout_name = "shards"

    @staticmethod
    def find(location: str) -> list[Path]:
        """The files that a pattern such as `name-{0000..0099}.tar` names, or the numbered tar files of a folder, and
        then the `classes.txt` beside them, if there is one.

        Raises:
            DataError: one of the pattern's files is missing.
        """
        if BRACES.search(location):
            shards = list(map(Path, expand(location)))
            refuse_missing(location, len(shards), [str(shard) for shard in shards if not shard.is_file()])
        else:
            shards = sorted(path for path in Path(location).glob("*.tar") if NUMBERED.fullmatch(path.name))
        return shards + [names for shard in shards[:1] if (names := shard.parent / CLASSES).is_file()]

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the members of all shards.

        Raises:
            DataError: a shard is damaged, or an image has no label.
        """
        shards, splits, left_out = choose_shards([path for path in files if path.name != CLASSES], options)
        classes = next((path.read_bytes() for path in files if path.name == CLASSES), None)
        folder, contents = shards[0].parent, map(read_shard, shards)
        table = table_of_shards(str(folder), list(map(str, shards)), splits, contents, classes, left_out)
        return replace(table, ignored=table.ignored + sum(is_sidecar(path.name) for path in folder.glob(".*.tar")))

    def describe(self, row: int) -> str:
        return f"{self.table.containers[self.table.container[row]]}:{self.path(row)}"


class Named(Protocol):
    """A path or an object."""

    @property
    def name(self) -> str:
        """The last part of where it lies."""


AnyShard = TypeVar("AnyShard", bound=Named)


def choose_shards(
    shards: Sequence[AnyShard], options: ReadOptions = AS_FOUND
) -> tuple[list[AnyShard], list[int], tuple[str, ...]]:
    """The shards that count, the split of each, and in words which do not, as `splits.split_files` has it."""
    parts = split_files([shard.name for shard in shards], options, "the shards")
    reasons = Counter(reason for reason in parts.reasons if reason)
    return (
        [shard for shard, split in zip(shards, parts.splits, strict=True) if split is not None],
        [split for split in parts.splits if split is not None],
        tuple(f"{counted(count, 'shard')}: {reason}" for reason, count in reasons.items()),
    )


def table_of_shards(
    location: str,
    shards: Sequence[str],
    splits: Sequence[int],
    contents: Iterable[Shard],
    classes: bytes | None,
    left_out: tuple[str, ...],
) -> Table:
    """The table of the shards that `choose_shards` chose, of what `read_shard` found in each, and of the content of
    `classes.txt`, if there is one. `left_out` says in words which others there are.

    Raises:
        DataError: no images, a class that has no name, or names that `read_class_names` refuses.
    """
    found = list(contents)
    others = sum((shard.left_out for shard in found), Counter[str]())
    counts = [len(shard.names) for shard in found]
    if not sum(counts):
        raise DataError(f"no images in the shards of {location}")
    numbers, offsets, sizes = (
        np.concatenate([getattr(shard, column) for shard in found]) for column in ("numbers", "offsets", "sizes")
    )
    names, labels = _classes(classes, numbers, shards[0].rpartition("/")[0])
    return Table(
        containers=tuple(shards),
        container=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        names=Texts.join([shard.names for shard in found]),
        labels=labels,
        splits=np.repeat(np.array(splits, np.int8), counts),
        classes=names,
        layout=f"{len(shards)} tar shards",
        ignored=others.total(),
        left_out=(*left_out, *_words(others)),
        place={"offset": narrow(offsets), "size": narrow(sizes)},
    )


def expand(pattern: str) -> list[str]:
    """The names that a pattern such as `name-{0000..0099}.tar` stands for."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [pattern[: match.start()] + number + pattern[match.end() :] for number in numbers]


def refuse_missing(pattern: str, count: int, missing: list[str]) -> None:
    """Raises:
    DataError: some of the `count` shards of a pattern are missing, or it stands for none.
    """
    if missing or not count:
        raise DataError(f"{len(missing)} of the {count} shards of {pattern} are missing: {', '.join(missing[:3])}")


def _words(others: Counter[str]) -> list[str]:
    """How many members are neither a sample's picture nor its class, by their commonest fields."""
    if not others:
        return []
    listed = [f"{count:,} {field}" for field, count in others.most_common(3)]
    if rest := others.total() - sum(count for _, count in others.most_common(3)):
        listed.append(f"{rest:,} others")
    return [f"{counted(others.total(), 'member')}: neither picture nor class of a sample ({', '.join(listed)})"]


def _classes(content: bytes | None, numbers: np.ndarray, folder: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of classes and labels: by `classes.txt`, else each number that occurs is a class, in numerical order."""
    if content is None:
        values, labels = np.unique(numbers, return_inverse=True)
        return tuple(map(str, values.tolist())), labels.astype(np.int32)
    names = read_class_names(content, f"{folder}/{CLASSES}")
    if numbers.max() >= len(names):
        raise DataError(f"{folder} has class {numbers.max()}, but its {CLASSES} names only {len(names)} classes")
    return names, numbers.astype(np.int32)
