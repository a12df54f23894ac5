"""Parquet files as Hugging Face writes them: an image struct (`bytes`, `path`) and an integer label.

Of several integer columns, the label is the one that the metadata call a ClassLabel, or else the one called `label`.

The file's unit of reading is the row group; the last few that were read are kept. For training in random order over
many groups, pack the data into shards first (`inceptionv4 data pack`).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.data.layout import read_splits
from inceptionv4.data.sources.source import Source
from inceptionv4.data.table import Table, Texts
from inceptionv4.errors import DataError, ImageError, UsageError

KEPT_GROUPS = 8
LABEL = "label"
"""What the label's column is called if no metadata say which one it is."""


class ParquetSource(Source):
    """Rows of parquet files. `place`: `group` and `row`, the row group and the row in it."""

    def __init__(self, location: str, table: Table) -> None:
        super().__init__(location, table)
        self._files = [_open(Path(path)) for path in table.containers]
        self._columns = [_columns(file, path)[0] for file, path in zip(self._files, table.containers, strict=True)]
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def find(folder: Path) -> list[Path]:
        """The parquet files in `folder`, or else in its `data`."""
        return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))

    @staticmethod
    def index(files: Sequence[Path]) -> Table:
        """Read the labels of `files`; split by the names of the files, as `train-00000-of-00002.parquet`.

        Raises:
            DataError: a file is damaged or has other columns.
            UsageError: pyarrow is not installed.
        """
        names: list[str] = []
        labels: list[int] = []
        groups: list[int] = []
        rows: list[int] = []
        container: list[int] = []
        splits: list[int] = []
        classes: tuple[str, ...] = ()
        parts, left_out = read_splits(_part(path) for path in files)
        kept = [path for path in files if _part(path) in parts]
        for number, path in enumerate(kept):
            file = _open(path)
            unlabelled = 0
            _, label_column, class_names = _columns(file, str(path))
            classes = classes or class_names
            for group in range(file.num_row_groups):
                values = file.read_row_group(group, [label_column])[label_column].to_pylist()
                unlabelled += sum(label is None or label < 0 for label in values)
                labels += values
                groups += [group] * len(values)
                rows += range(len(values))
                names += [f"{group}.{row}" for row in range(len(values))]
                container += [number] * len(values)
                splits += [parts[_part(path)]] * len(values)
            if unlabelled:
                raise DataError(f"{path}: {unlabelled} rows have no label; write it without them, or take it away")
        if not labels:
            raise DataError(f"no rows in {files[0].parent}")
        classes = classes or tuple(map(str, range(max(labels) + 1)))
        if max(labels) >= len(classes):
            raise DataError(f"{files[0].parent} has the label {max(labels)} but names {len(classes)} classes")
        return Table(
            containers=tuple(map(str, kept)),
            container=np.array(container, np.int32),
            names=Texts.of(names),
            labels=np.array(labels, np.int32),
            splits=np.array(splits, np.int8),
            classes=classes,
            layout=f"{len(kept)} parquet files{left_out}",
            place={"group": np.array(groups, np.int32), "row": np.array(rows, np.int32)},
        )

    def describe(self, row: int) -> str:
        return f"{self.table.containers[self.table.container[row]]}:{self.path(row)}"

    def read(self, row: int) -> bytes:
        file, group = int(self.table.container[row]), int(self.table.place["group"][row])
        with self._lock:
            images = self._groups.get((file, group))
            if images is None:
                try:
                    images = self._files[file].read_row_group(group, [self._columns[file]])[self._columns[file]]
                except (OSError, ValueError) as error:
                    raise ImageError(f"{self.describe(row)} cannot be read: {error}") from None
                self._groups[file, group] = images
                if len(self._groups) > KEPT_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((file, group))
        image = images[int(self.table.place["row"][row])].as_py()
        if image is None:
            raise ImageError(f"{self.describe(row)} cannot be read: it is null")
        content = image["bytes"]
        if not isinstance(content, bytes):
            raise ImageError(f"{self.describe(row)} cannot be read: it names a file and holds no image")
        return content


def _open(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet  # an extra
    except ImportError:
        raise UsageError("parquet files are read with pyarrow: pip install 'inceptionv4[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} is no complete parquet file ({error}); copy it again") from None


def _columns(file: Any, path: str) -> tuple[str, str, tuple[str, ...]]:
    """The names of the image column and of the label column, and of the classes if the file says them."""
    from pyarrow import types

    schema = file.schema_arrow
    images = [
        column.name
        for column in schema
        if types.is_struct(column.type) and "bytes" in {part.name for part in column.type}
    ]
    numbers = [column.name for column in schema if types.is_integer(column.type)]
    if not images or not numbers:
        raise DataError(f"{path} has the columns {', '.join(schema.names)}; expected an image and a label")
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    named = [name for name in numbers if features.get(name, {}).get("_type") == "ClassLabel"]
    called = [name for name in numbers if name == LABEL]
    label = next((choice[0] for choice in (named, called, numbers) if len(choice) == 1), None)
    if label is None:
        raise DataError(
            f"{path} has several columns that may be the label: {', '.join(named or numbers)}; call the one to train "
            f"on `{LABEL}`, or write the file without the others"
        )
    return images[0], label, tuple(features.get(label, {}).get("names", []))


def _part(path: Path) -> str:
    """The part of the data that a file is of, by its name: `train` of `train-00000-of-00002.parquet`."""
    return path.name.partition("-")[0].partition(".")[0]
