"""Parquet files as Hugging Face and pandas write them: an image (a struct of `bytes` and `path`, or bytes) and a class.

The file's unit of reading is the row group; the last few that were read are kept. For training in random order over
many groups, pack the data into shards first (`inceptionv4 data pack`).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.sources.columns import number_groups
from inceptionv4.data.sources.parquet_rows import join_classes, open_parquet, read_rows
from inceptionv4.data.sources.source import Source
from inceptionv4.data.splits import split_files, split_name
from inceptionv4.data.table import Table, Texts, counted
from inceptionv4.errors import DataError, ImageError

KEPT_GROUPS = 8
DEEPEST = 4
LOOKED_AT = 64
"""Levels of folders, and folders of a level and entries of a folder, in which parquet files are looked for."""
SAMPLED_GROUPS = 4
"""Of which rows are looked at for a fingerprint."""


class ParquetSource(Source):
    """Rows of parquet files. `place`: `group` and `row`, the row group and the row in it, and `column`, the number of
    the column that holds the image.
    """

    layout_name = "parquet"

    def __init__(self, location: str, table: Table) -> None:
        super().__init__(location, table)
        self._files = [open_parquet(Path(path)) for path in table.containers]
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def find(folder: Path) -> list[Path]:
        """The parquet files in `folder`, or else in its `data`, or else in folders of it, such as `default/train`.

        Tables of metadata beside images are none: they hold no images.
        """
        for place in (folder, folder / "data"):
            if files := _parquet_files(place):
                return files
        return sorted(file for place in _folders_of_parquet(folder) for file in _parquet_files(place))

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the labels of `files`; split by their names, as `train-00000-of-00002.parquet`, or by their folders.

        Raises:
            DataError: a file is damaged, has other columns or rows without a class, or the files are no one data set.
            UsageError: pyarrow is not installed.
        """
        top = _common_folder(files)
        paths = [path.relative_to(top).as_posix() for path in files]
        parts = split_files(paths, options, str(top))
        kept = [path for path, split in zip(files, parts.splits, strict=True) if split is not None]
        if not kept:
            raise DataError(f"no parquet file in {top} is left to read")
        _require_one_data_set(top, kept)
        found = [read_rows(path, options) for path in kept]
        counts = [len(part.labels) for part in found]
        if not sum(counts):
            raise DataError(f"no rows in {top}")
        classes, labels = join_classes(found, kept)
        values = [group for part in found for group in part.groups]
        splits = [split for split in parts.splits if split is not None]
        left_out = Counter(reason for reason in parts.reasons if reason)
        return Table(
            containers=tuple(map(str, kept)),
            container=np.repeat(np.arange(len(kept), dtype=np.int32), counts),
            names=Texts.of(f"{group}.{row}" for part in found for group, row in part.places),
            labels=labels,
            splits=np.repeat(np.array(splits, np.int8), counts),
            classes=classes,
            layout=f"{len(kept)} parquet files",
            left_out=tuple(f"{counted(count, 'parquet file')}: {reason}" for reason, count in left_out.items()),
            groups=number_groups(values) if options.group_column else None,
            place={
                "group": np.array([group for part in found for group, _ in part.places], np.int32),
                "row": np.array([row for part in found for _, row in part.places], np.int32),
                "bytes": np.concatenate([np.array(part.sizes, np.int64) for part in found]),
                "column": np.repeat(np.array([part.image for part in found], np.int32), counts),
            },
        )

    def sample(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Rows of a few row groups: each costs the reading of its whole group."""
        place = self.table.container[rows].astype(np.int64) << 32 | self.table.place["group"][rows]
        groups = np.unique(place)
        chosen = groups[np.linspace(0, len(groups) - 1, min(SAMPLED_GROUPS, len(groups))).astype(int)]
        return super().sample(rows[np.isin(place, chosen)], most)

    def facts(self) -> dict[str, np.ndarray]:
        """The length of the images' column of each row's group: the index has it for nothing."""
        return {"bytes": self.table.place["bytes"]}

    def describe(self, row: int) -> str:
        return f"{self.table.containers[self.table.container[row]]}:{self.path(row)}"

    def read(self, row: int) -> bytes:
        file, group = int(self.table.container[row]), int(self.table.place["group"][row])
        with self._lock:
            images = self._groups.get((file, group))
            if images is None:
                try:
                    name = self._files[file].schema_arrow.names[int(self.table.place["column"][row])]
                    images = self._files[file].read_row_group(group, [name])[name]
                except (OSError, ValueError) as error:
                    raise ImageError(f"{self.describe(row)} cannot be read: {error}") from None
                self._groups[file, group] = images
                if len(self._groups) > KEPT_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((file, group))
        image = images[int(self.table.place["row"][row])].as_py()
        if image is None:
            raise ImageError(f"{self.describe(row)} cannot be read: it is null")
        content = image["bytes"] if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise ImageError(f"{self.describe(row)} cannot be read: it names a file and holds no image")
        return content


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith((".", "metadata.")))


def _folders_of_parquet(folder: Path) -> Iterator[Path]:
    """The folders below `folder` that hold parquet files, found by a few entries of each of a few folders.

    A folder of millions of images is not listed for it.
    """
    level = [folder]
    for _ in range(DEEPEST):
        below: list[Path] = []
        for place in level:
            try:
                with os.scandir(place) as entries:
                    some = list(itertools.islice(entries, LOOKED_AT))
                folders = [entry.path for entry in some if not entry.name.startswith(".") and entry.is_dir()]
            except OSError:  # a folder that cannot be read, or a link that goes round
                continue
            if any(entry.name.endswith(".parquet") for entry in some) and place != folder:
                yield place
            below += map(Path, folders)
        level = below[:LOOKED_AT]


def _require_one_data_set(top: Path, files: Sequence[Path]) -> None:
    """Refuse folders of several configurations of a data set, which Hugging Face keeps side by side."""
    folders = {
        "/".join(name for name in path.relative_to(top).parent.parts if split_name(name) is None) for path in files
    }
    if len(folders) > 1:
        raise DataError(
            f"{top} has parquet files of several data sets, in {', '.join(sorted(folders)[:5])}; give the folder of one"
        )


def _common_folder(files: Sequence[Path]) -> Path:
    """The folder below which all files lie; parquet files of several data sets are refused."""
    top = files[0].parent
    while not all(path.is_relative_to(top) for path in files):
        top = top.parent
    return top
