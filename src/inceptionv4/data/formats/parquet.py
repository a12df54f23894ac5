"""Parquet files as Hugging Face and pandas write them: an image (a struct of `bytes` and `path`, or bytes) and a class.

The file's unit of reading is the row group; the last few that were read are kept. For training in random order over
many groups, pack the data into shards first (`inceptionv4 data pack`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.data.formats.columns import number_groups
from inceptionv4.data.formats.parquet_columns import damages, open_parquet
from inceptionv4.data.formats.parquet_rows import join_classes, read_files
from inceptionv4.data.formats.source import Source, common_folder, stamps_of, was_changed
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import StringArray, Table
from inceptionv4.errors import DataError, ImageError

KEPT_GROUPS = 8
SAMPLED_GROUPS = 4
"""The number of row groups of which a fingerprint hashes rows."""


class ParquetSource(Source):
    """Rows of parquet files. `place`: `group` and `row`, the row group and the row in it, and `column`, the number of
    the column that holds the image.
    """

    layout_name = "parquet"

    def __init__(self, location: str, table: Table) -> None:
        super().__init__(location, table)
        self._files = [open_parquet(Path(path)) for path in table.containers]
        self._stamps = stamps_of(table.containers)
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the labels of `files`, and their parts (`sources.parquet_rows`).

        Raises:
            DataError: a file is damaged, has other columns or rows without a class, or the files are no one data set.
            UsageError: pyarrow is not installed.
        """
        top = common_folder(files)
        found, left_out = read_files(top, files, options)
        counts = [len(rows.labels) for rows in found]
        if not found:
            raise DataError(f"no rows in {top} are left to read{''.join(f'; {words}' for words in left_out)}")
        classes, labels = join_classes(found)
        return Table(
            containers=tuple(str(rows.path) for rows in found),
            container=np.repeat(np.arange(len(found), dtype=np.int32), counts),
            names=StringArray.of(f"{group}.{row}" for rows in found for group, row in rows.places),
            labels=labels,
            splits=np.concatenate([np.array(rows.splits, np.int8) for rows in found]),
            classes=classes,
            layout=f"{len(found)} parquet files",
            left_out=left_out,
            groups=number_groups([group for rows in found for group in rows.groups]) if options.group_column else None,
            place={
                "group": np.array([group for rows in found for group, _ in rows.places], np.int32),
                "row": np.array([row for rows in found for _, row in rows.places], np.int32),
                "bytes": np.concatenate([np.array(rows.sizes, np.int64) for rows in found]),
                "column": np.repeat(np.array([rows.image for rows in found], np.int32), counts),
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
                except damages() as error:
                    self._require_unchanged(file)
                    raise ImageError(f"{self.describe(row)} cannot be read: {error}") from None
                self._require_unchanged(file)
                self._groups[file, group] = images
                if len(self._groups) > KEPT_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((file, group))
        try:
            image = images[int(self.table.place["row"][row])].as_py()
        except damages() as error:
            raise ImageError(f"{self.describe(row)} cannot be read: {error}") from None
        if image is None:
            raise ImageError(f"{self.describe(row)} cannot be read: it is null")
        content = image["bytes"] if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise ImageError(f"{self.describe(row)} cannot be read: it names a file and holds no image")
        return content

    def _require_unchanged(self, file: int) -> None:
        path = self.table.containers[file]
        if stamps_of([path]) != [self._stamps[file]]:
            raise was_changed(path)
