"""What every format offers: so many samples, their labels, and the bytes of each."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from inceptionv4.class_names import spelling
from inceptionv4.config import LayoutName
from inceptionv4.data.layout import is_hidden, is_image, read_layout
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import StringArray, Table, counted, narrow
from inceptionv4.errors import DataError, ImageError
from inceptionv4.runtime.files import stamp

KEPT_OPEN = 256
"""Files that stay open between reads; of more than these, each is opened for its read."""


class Source(ABC):
    """Samples by their row in a table. A format says how a row is read; threads may read at the same time."""

    layout_name: ClassVar[LayoutName]
    """What `data.layout` calls the format."""

    def __init__(self, location: str, table: Table) -> None:
        self.location, self.table = location, table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        """int32 `(n,)`, numbers in `table.classes`."""
        return self.table.labels

    @property
    def io_threads(self) -> int:
        """Reads that should be under way at once, as they wait for a network; 0: let those who decode read."""
        return 0

    @property
    def version(self) -> str:
        """A name of what objects hold the samples, another one when any of them is replaced; empty for local files."""
        return ""

    def path(self, row: int) -> str:
        """The sample's path below the location, or in its archive."""
        return self.table.names[row]

    def describe(self, row: int) -> str:
        """The sample as an error names it."""
        return f"{self.location}:{self.path(row)}"

    def sample(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Up to `most` of `rows`, evenly over them, whose contents stand for those of all."""
        chosen: np.ndarray = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]
        return chosen

    def facts(self) -> dict[str, np.ndarray]:
        """What the index knows of all contents for nothing, a column over the rows each; empty if it knows nothing."""
        return {name: column for name, column in self.table.place.items() if name in ("size", "bytes", "crc")}

    @staticmethod
    @abstractmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """The table of `files`, which are all that it rests on: as long as they stay as they are, so does it.

        Raises:
            DataError: they are no complete data of this format.
            UsageError: the format needs an extra that is not installed.
        """

    @abstractmethod
    def read(self, row: int) -> bytes:
        """The content of the image file.

        Raises:
            ImageError: it cannot be read.
        """


class Files(Protocol):
    """The files that hold samples, by their numbers in `Table.containers`. Threads may read at the same time."""

    @property
    def io_threads(self) -> int:
        """As `Source.io_threads`."""

    @property
    def version(self) -> str:
        """As `Source.version`."""

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of a file; fewer where it ends.

        Raises:
            OSError: it cannot be read.
            DataError, StorageError: it was changed since it was listed.
        """


Stamp = tuple[int, int]
"""Size and time of change of a file, as `runtime.files.stamp` gives them."""


class LocalFiles:
    """Files on a disk, read with `pread`: no lock, and no position to share."""

    io_threads = 0
    version = ""

    def __init__(self, paths: Sequence[str], stamps: Sequence[Stamp] | None = None) -> None:
        """`stamps` are those of the files when they were listed; None: of files that never change."""
        self._paths, self._stamps = paths, stamps
        self._open: dict[int, int] = {}
        """Descriptors of the files that were read first; a process may have only so many."""

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)

    def read(self, number: int, offset: int, size: int) -> bytes:
        if (file := self._open.get(number)) is not None:
            return self._read(file, number, offset, size)
        file = os.open(self._paths[number], os.O_RDONLY)
        try:
            return self._read(file, number, offset, size)
        finally:
            # Two threads may have opened it; the second one's is closed.
            if len(self._open) >= KEPT_OPEN or self._open.setdefault(number, file) != file:
                os.close(file)

    def _read(self, file: int, number: int, offset: int, size: int) -> bytes:
        content = os.pread(file, size, offset)
        # Looked at after the reading: what it says then held before, too.
        if self._stamps is not None and stamp(file) != self._stamps[number]:
            raise was_changed(self._paths[number])
        return content


def was_changed(path: str) -> DataError:
    """The error of a file that was written after it was listed."""
    return DataError(
        f"{path} was changed while it was being read: what is there now is not what was listed; start again when "
        "nothing writes there"
    )


def stamps_of(paths: Sequence[str]) -> list[Stamp]:
    """The stamps of files that have just been listed.

    Raises:
        DataError: one of them is gone.
    """
    try:
        return [stamp(path) for path in paths]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None


class RangeSource(Source):
    """Samples that are ranges of bytes in large `files`, which lie on a disk if nothing else is said.

    `place` has the columns `offset` and `size`.
    """

    def __init__(self, location: str, table: Table, files: Files | None = None) -> None:
        super().__init__(location, table)
        self._files = LocalFiles(table.containers, stamps_of(table.containers)) if files is None else files

    @property
    def io_threads(self) -> int:
        return self._files.io_threads

    @property
    def version(self) -> str:
        return self._files.version

    def read_range(self, row: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the file that holds the sample; fewer where the file ends."""
        try:
            return self._files.read(int(self.table.container[row]), offset, size)
        except OSError as error:
            raise ImageError(f"{self.describe(row)} cannot be read: {error.strerror}") from None

    def read(self, row: int) -> bytes:
        offset, size = (int(self.table.place[column][row]) for column in ("offset", "size"))
        content = self.read_range(row, offset, size)
        if len(content) != size:
            raise ImageError(f"{self.describe(row)} cannot be read: the file ends before it")
        return content


def common_folder(files: Sequence[Path]) -> Path:
    """The folder below which all files lie."""
    top = files[0].parent
    while not all(path.is_relative_to(top) for path in files):
        top = top.parent
    return top


def plain_path(name: str) -> str:
    """A member's path without `/` at its beginning and without parts that are empty or `.`, as `tar` restores it."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def table_of_members(
    archive: Path,
    paths: Sequence[str],
    place: dict[str, np.ndarray],
    others: Sequence[str] = (),
    options: ReadOptions = AS_FOUND,
) -> Table:
    """The table of an archive's members, labelled by the folders that they lie in.

    `place` has a row for each of `paths`; members that are no images are left out, as are `others`, which are no
    plain files. Rows are in the order in which `folder.walk` lists the same files on a disk.

    Raises:
        DataError: no images, images outside of class folders, or two images of one path.
    """
    rows_of: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        folder, slash, name = path.rpartition("/")
        if is_image(name) and not is_hidden(path):
            rows_of.setdefault(folder + slash, []).append(row)
    folders = sorted(rows_of, key=spelling)  # one before those in it, as each ends in a slash
    counts = [len(rows_of[folder]) for folder in folders]
    ignored = len(paths) - sum(counts) + len(others)
    if not folders:
        raise no_images(str(archive), ignored)
    layout = read_layout(folders, counts, str(archive), options)
    for folder in folders:
        rows_of[folder].sort(key=lambda row: spelling(paths[row]))
        for row, following in itertools.pairwise(rows_of[folder]):
            if paths[row] == paths[following]:
                raise DataError(f"{archive} holds {paths[row]} twice; pack the class folders again")
    kept = np.repeat(layout.labels >= 0, counts)
    chosen = np.fromiter(itertools.chain.from_iterable(rows_of[folder] for folder in folders), np.int64)[kept]
    links = sum(is_image(path.rpartition("/")[2]) and not is_hidden(path) for path in others)
    return Table(
        containers=(str(archive),),
        container=np.zeros(len(chosen), np.int32),
        names=StringArray.of(paths[row] for row in chosen),
        labels=np.repeat(layout.labels, counts)[kept],
        splits=np.repeat(layout.splits, counts)[kept],
        classes=layout.classes,
        layout=layout.words,
        root=layout.root,
        ignored=ignored,
        left_out=(*layout.left_out, *([f"{counted(links, 'link')}: no image inside"] if links else [])),
        place={name: narrow(column[chosen]) for name, column in place.items()},
    )


def no_images(location: str, ignored: int) -> DataError:
    """The error of a place that holds no images, only `ignored` other files."""
    other = f", only {ignored} other files" if ignored else ""
    return DataError(f"no images in {location}{other}; expected class folders such as cat/1.jpg, dog/2.jpg")
