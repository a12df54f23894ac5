"""Indexes of large data, kept between runs beside a mark of the data, so that a change is noticed.

The mark is what a fresh look finds: name, size and time of change of every file that the index rests on, or a listing
of object storage, which the caller has made. Only folders of images are not listed again, which is what the cache
saves: their mark is the time of change of every folder that the kept table knows. It changes when a file or a folder
is added, removed or renamed in it.

A mark is taken before the data are listed, so that what arrives meanwhile is noticed the next time. Data that have
changed just now are not kept, as file systems count time in steps. The cache lies in `$XDG_CACHE_HOME/inceptionv4`,
never in the data.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.data.formats.source import Source
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.table import StringArray, Table
from inceptionv4.errors import RunError
from inceptionv4.runtime.files import cache_folder, write_whole
from inceptionv4.runtime.storage import absolute
from inceptionv4.strict_json import from_json, to_json

VERSION = 3
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Header of a member of a .zip; its name and extra field follow."""
SETTLED = 2 * 10**9
"""Nanoseconds since the last change after which the next one has another time for sure: FAT counts in two seconds."""
WORTHWHILE = 20_000
"""Samples below which listing is faster than it would be worth keeping."""


Mark = list[list[Any]]
"""What a table rests on looked like when it was made: numbers and words, a row each."""


def mark_of(files: Sequence[Path]) -> Mark:
    """Name, size and time of change of each of `files`; of one that is gone its name alone."""
    mark: Mark = []
    for file in files:
        try:
            found = file.stat()
            mark.append([str(file), found.st_size, found.st_mtime_ns])
        except OSError:
            mark.append([str(file)])  # to index it will say what is wrong
    return mark


def cached(
    location: str, kind: str, index: Callable[[], Table], mark: Mark | None = None, *, costly: bool = False
) -> Table:
    """The table of `location`: from the cache if the data have not changed, else from `index`, kept if it is large.

    `mark` is that of the data now; None: they are folders, whose mark the table tells. A `costly` one is kept in any
    case: to make it means to fetch all the data.
    """
    name = hashlib.sha256(f"{kind}\n{absolute(location)}".encode(errors="surrogateescape")).hexdigest()[:32]
    file = cache_folder() / f"{name}.npz"
    table = load(file, location, mark)
    if table is None:
        now = time.time_ns()
        table = index()
        if table.stamps is not None:
            mark = [[stamp] for stamp in table.stamps.tolist()]
        if costly or (len(table) >= WORTHWHILE and mark is not None and _is_settled(mark, now)):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                save(file, table, mark or [])
            except (RunError, OSError):
                # A cache that cannot be written costs the next run some seconds, and this one nothing.
                return table
    return table


def kind_of(kind: type[Source], options: ReadOptions) -> str:
    """What a kept index is of, beside the location: the format, and what the user says of the data."""
    return "\n".join([kind.__name__, *(f"{name}={value}" for name, value in sorted(options.given().items()))])


def _is_settled(mark: Mark, now: int) -> bool:
    """True if nothing has changed just before `now`; the last entry of a row is a time, or a version's name."""
    return all(not isinstance(row[-1], int) or row[-1] < now - SETTLED for row in mark if len(row) != 2)


def mark_of_folders(table: Table, location: str) -> Mark | None:
    """The time of change of every folder of a table; None if one is gone."""
    try:
        return [[(Path(location) / folder).stat().st_mtime_ns] for folder in table.containers]
    except OSError:
        return None


def save(file: Path, table: Table, mark: Mark) -> None:
    """Keep `table`, with the mark that its data had before they were listed.

    Raises:
        RunError: the file cannot be written.
    """
    facts = {
        "version": VERSION,
        "mark": mark,
        "containers": table.containers,
        "classes": table.classes,
        "layout": table.layout,
        "root": table.root,
        "ignored": table.ignored,
        "left_out": table.left_out,
    }
    arrays = {
        "facts": np.frombuffer(to_json(facts).encode(), np.uint8),
        "container": table.container,
        "content": table.names.content,
        "ends": table.names.ends,
        "labels": table.labels,
        "splits": table.splits,
        **({} if table.groups is None else {"groups": table.groups}),
        **{f"place.{name}": column for name, column in table.place.items()},
    }

    def write(path: Path) -> None:
        with path.open("wb") as output:
            np.savez(output, allow_pickle=False, **arrays)

    write_whole(file, write)


def load(file: Path, location: str, mark: Mark | None = None) -> Table | None:
    """The kept table, or None: nothing kept, kept by another version, damaged, or of data that have changed since."""
    try:
        arrays = _map(file)
        facts = from_json(bytes(arrays["facts"]))
        if facts["version"] != VERSION:
            return None
        table = Table(
            containers=tuple(facts["containers"]),
            container=arrays["container"],
            names=StringArray(arrays["content"], arrays["ends"]),
            labels=arrays["labels"],
            splits=arrays["splits"],
            classes=tuple(facts["classes"]),
            layout=facts["layout"],
            root=facts["root"],
            ignored=facts["ignored"],
            left_out=tuple(facts["left_out"]),
            groups=arrays.get("groups"),
            place={name.removeprefix("place."): arrays[name] for name in arrays if name.startswith("place.")},
        )
    except (OSError, ValueError, LookupError, TypeError, EOFError, struct.error, zipfile.BadZipFile):
        return None
    current = mark_of_folders(table, location) if mark is None else mark
    return table if current is not None and current == facts["mark"] else None


def _map(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed .npz, mapped into memory: what is never looked at is never read."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive, file.open("rb") as opened:
        for member in archive.infolist():
            opened.seek(member.header_offset)
            header = opened.read(LOCAL_HEADER.size)
            *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
            opened.seek(name_length + extra_length, os.SEEK_CUR)
            version = np.lib.format.read_magic(opened)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(opened)
            name = member.filename.removesuffix(".npy")
            if math.prod(shape):
                arrays[name] = np.asarray(np.memmap(file, dtype, "r", opened.tell(), shape))
            else:
                arrays[name] = np.empty(shape, dtype)  # nothing cannot be mapped
    return arrays
