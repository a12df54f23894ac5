"""Samples as flat arrays: no Python object a sample, so that millions of them cost megabytes and no garbage collection.

A list of fourteen million paths takes gigabytes of small objects, and every one is touched when a process forks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

NONE, TRAIN, VAL = 0, 1, 2
"""Values of `Table.splits`: none given, to train on, held out."""


def counted(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def narrow(values: np.ndarray) -> np.ndarray:
    """The same numbers, none negative, in the smallest unsigned type that holds them all."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


@dataclass(frozen=True)
class StringArray:
    """Many short strings as one array of UTF-8 bytes and the position after each."""

    content: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> StringArray:
        content, ends = bytearray(), []
        for text in texts:
            content += text.encode("utf-8", "surrogateescape")
            ends.append(len(content))
        return cls(np.frombuffer(bytes(content), np.uint8), narrow(np.array(ends, np.int64)))

    @classmethod
    def join(cls, parts: Sequence[StringArray]) -> StringArray:
        """All strings of `parts`, in order."""
        ends, start = [np.empty(0, np.int64)], 0
        for part in parts:
            ends.append(part.ends.astype(np.int64) + start)
            start += len(part.content)
        content = np.concatenate([np.empty(0, np.uint8), *(part.content for part in parts)])
        return cls(content, narrow(np.concatenate(ends)))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return bytes(self.content[start : int(self.ends[index])]).decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Table:
    """Location, label and name of each of n samples.

    `containers` are the folders or files that hold samples, `container` (int32) says which one holds a sample, and
    `names` what it is called in there. `place` has further columns that a format needs, such as the offset in an
    archive. `labels` (int32) are numbers in `classes`, `splits` (int8) one of `TRAIN`, `VAL` and `NONE`. `root` is
    what all paths begin with before their class folder. `ignored` counts other files; `left_out` says of which images
    and for which reason they are not in the table. `groups` (int32) are numbers of groups that stay on one side of a
    split, if there are any. `stamps` (int64) are the times of change of the containers, taken before each was listed.
    """

    containers: tuple[str, ...]
    container: np.ndarray
    names: StringArray
    labels: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    layout: str
    root: str = ""
    ignored: int = 0
    left_out: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    stamps: np.ndarray | None = None
    place: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)
