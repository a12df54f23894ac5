"""Tar shards in webdataset's convention, each as `data.formats.shard` has it.

    name-{0000..0099}.tar                    one set of shards, without a split
    folder/train-0000.tar folder/val-0000.tar    split by the word before the number, as in imagenet1k-train-0000.tar

Names of classes come from a `classes.txt` beside the shards, a line each; without one, a class is called by its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from inceptionv4.class_names import read_class_names
from inceptionv4.data.formats.shard import Shard, read_shard
from inceptionv4.data.formats.source import RangeSource, common_folder
from inceptionv4.data.layout import is_hidden, is_sidecar
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.split_names import split_name
from inceptionv4.data.splits import split_files
from inceptionv4.data.table import StringArray, Table, counted, narrow
from inceptionv4.errors import DataError

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
CLASSES = "classes.txt"
NUMBERED = re.compile(r"\d\.tar$", re.IGNORECASE)


class ShardSource(RangeSource):
    """Images at their offsets in many tar files."""

    layout_name = "shards"

    @staticmethod
    def find(pattern: str) -> list[Path]:
        """The files that a pattern such as `name-{0000..0099}.tar` names, and the `classes.txt` beside them, if there
        is one.

        Raises:
            DataError: one of the files is missing.
        """
        shards = list(map(Path, expand(pattern)))
        refuse_missing(pattern, len(shards), [str(shard) for shard in shards if not shard.is_file()])
        return [*shards, *class_lists(shards[0].parent, shards)]

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the members of all shards.

        Raises:
            DataError: a shard is damaged, an image has no label, or the shards are no one data set.
        """
        shards = [path for path in files if path.name != CLASSES]
        top = common_folder(shards)
        paths = [shard.relative_to(top).as_posix() for shard in shards]
        chosen, splits, left_out = choose_shards(shards, paths, options, str(top))
        lists = {str(path): path.read_bytes() for path in files if path.name == CLASSES}
        table = table_of_shards(str(top), list(map(str, chosen)), splits, map(read_shard, chosen), lists, left_out)
        sidecars = sum(
            is_sidecar(path.name) for folder in {path.parent for path in shards} for path in folder.glob(".*.tar")
        )
        return replace(table, ignored=table.ignored + sidecars)

    def describe(self, row: int) -> str:
        return f"{self.table.containers[self.table.container[row]]}:{self.path(row)}"


AnyShard = TypeVar("AnyShard")
"""A path or an object."""


def is_shard(path: str) -> bool:
    """True if a file is called as a shard is: `train-000.tar`, `00000.tar` or, by its part alone, `val.tar`."""
    name = path.rpartition("/")[2]
    named = NUMBERED.search(name) or (name.lower().endswith(".tar") and split_name(name[: -len(".tar")]))
    return bool(named) and not is_hidden(path)


def class_lists(folder: Path, shards: Iterable[Path]) -> list[Path]:
    """The `classes.txt` in `folder` and beside the shards."""
    folders = dict.fromkeys([folder, *(shard.parent for shard in shards)])
    return [names for place in folders if (names := place / CLASSES).is_file()]


def choose_shards(
    shards: Sequence[AnyShard], paths: Sequence[str], options: ReadOptions, location: str
) -> tuple[list[AnyShard], list[int], tuple[str, ...]]:
    """The shards that count, the split of each, and in words which do not, as `splits.split_files` has it for `paths`.

    Raises:
        DataError: the shards are of several data sets, or a part that `options` name is not there.
    """
    parts = split_files(paths, options, location)
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
    class_lists: Mapping[str, bytes],
    left_out: tuple[str, ...],
) -> Table:
    """The table of the shards that `choose_shards` chose, of what `read_shard` found in each, and of the contents of
    each `classes.txt` by its path. `left_out` says in words which others there are.

    Raises:
        DataError: no images, a class that has no name, names that `read_class_names` refuses, or two lists of other
            names.
    """
    found = list(contents)
    others = sum((shard.left_out for shard in found), Counter[str]())
    counts = [len(shard.names) for shard in found]
    if not sum(counts):
        raise DataError(f"no images in the shards of {location}")
    numbers, offsets, sizes = (
        np.concatenate([getattr(shard, column) for shard in found]) for column in ("numbers", "offsets", "sizes")
    )
    names, labels = _classes(class_lists, numbers, location)
    return Table(
        containers=tuple(shards),
        container=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        names=StringArray.join([shard.names for shard in found]),
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


def _classes(lists: Mapping[str, bytes], numbers: np.ndarray, location: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of classes and labels: by `classes.txt`, else each number that occurs is a class, in numerical order."""
    if not lists:
        values, labels = np.unique(numbers, return_inverse=True)
        return tuple(map(str, values.tolist())), labels.astype(np.int32)
    found = {path: read_class_names(content, path) for path, content in lists.items()}
    (path, names), *others = found.items()
    if other := next((other for other, more in others if more != names), None):
        raise DataError(f"{path} and {other} name other classes; keep one of them")
    if numbers.max() >= len(names):
        raise DataError(f"{location} has class {numbers.max()}, but {path} names only {len(names)} classes")
    return names, numbers.astype(np.int32)
