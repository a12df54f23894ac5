"""Parquet files as Hugging Face and pandas write them: an image (a struct of `bytes` and `path`, or bytes) and a class.

The class is in the column that the metadata call a ClassLabel, or that is called so (`sources.columns`), whatever its
type. The names of a ClassLabel are those of each file.

The file's unit of reading is the row group; the last few that were read are kept. For training in random order over
many groups, pack the data into shards first (`inceptionv4 data pack`).
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.data.class_names import class_name
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.sources.columns import IMAGES, Columns, choose_columns, number_groups, read_classes
from inceptionv4.data.sources.source import Source
from inceptionv4.data.splits import split_files, split_name
from inceptionv4.data.table import Table, Texts
from inceptionv4.errors import DataError, ImageError, UsageError

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
        self._files = [_open(Path(path)) for path in table.containers]
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
        found = [_read_rows(path, options) for path in kept]
        counts = [len(part.labels) for part in found]
        if not sum(counts):
            raise DataError(f"no rows in {top}")
        classes, labels = _join_classes(found, kept)
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
            left_out=tuple(f"{count:,} parquet files: {reason}" for reason, count in left_out.items()),
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
            except OSError:
                continue
            if any(entry.name.endswith(".parquet") for entry in some) and place != folder:
                yield place
            below += [Path(entry.path) for entry in some if not entry.name.startswith(".") and entry.is_dir()]
        level = below[:LOOKED_AT]


def _open(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet  # an extra
    except ImportError:
        raise UsageError("parquet files are read with pyarrow: pip install 'inceptionv4[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} is no complete parquet file ({error}); copy it again") from None


@dataclass(frozen=True)
class _Rows:
    """The rows of one file: their classes as numbers in `names`, or as texts if it names none."""

    labels: list[Any]
    names: tuple[str, ...]
    places: list[tuple[int, int]]
    groups: list[str | None]
    sizes: list[int]
    """Bytes of the images' column of each row's group."""
    image: int


def _read_rows(path: Path, options: ReadOptions) -> _Rows:
    file = _open(path)
    schema = file.schema_arrow
    columns, names = _columns(schema, str(path), options)
    wanted = [columns.label] + ([columns.group] if columns.group else [])
    labels: list[Any] = []
    groups: list[str | None] = []
    places: list[tuple[int, int]] = []
    sizes: list[int] = []
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, wanted)
        labels += [_cell(value) for value in rows[columns.label].to_pylist()]
        if columns.group:
            groups += [None if value is None else str(value) for value in rows[columns.group].to_pylist()]
        places += [(group, row) for row in range(rows.num_rows)]
        sizes += [_column_bytes(file.metadata.row_group(group), columns.image)] * rows.num_rows
    unlabelled = sum(label is None or (isinstance(label, int) and label < 0) for label in labels)
    if unlabelled:
        raise DataError(f"{path}: {unlabelled} rows have no label; write it without them, or take it away")
    if strange := next((label for label in labels if not isinstance(label, (int, str))), None):
        raise DataError(
            f"{path}: the column {columns.label!r} has {str(strange)[:40]!r}, which is no class; "
            "say with --data.label-column which column has"
        )
    if names and (beyond := [label for label in labels if isinstance(label, int) and label >= len(names)]):
        raise DataError(f"{path} has the label {max(beyond)} but names {len(names)} classes")
    return _Rows(labels, names, places, groups, sizes, schema.names.index(columns.image))


def _column_bytes(group: Any, name: str) -> int:
    chunks = (group.column(number) for number in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.partition(".")[0] == name)


def _cell(value: Any) -> Any:
    """A class as a whole number or as text without blanks around it; None if the cell is empty."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value.strip() if isinstance(value, str) else value


def _join_classes(found: Sequence[_Rows], files: Sequence[Path]) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes of all files and the labels of all rows. Numbers count in the names of their own file.

    Where one file names all classes, its order counts; else names are sorted, and numbers by their value.
    """
    named = [part.names for part in found if part.names]
    if named and any(not part.names and any(isinstance(x, int) for x in part.labels) for part in found):
        bare = next(path for path, part in zip(files, found, strict=True) if not part.names)
        raise DataError(f"{bare} has numbers of classes but not their names, which other files have; write them in all")
    values = [
        part.names[label] if part.names and isinstance(label, int) else label for part in found for label in part.labels
    ]
    if not named and all(isinstance(value, int) for value in values):
        numbers, labels = np.unique(np.array(values, np.int64), return_inverse=True)
        return tuple(map(str, numbers.tolist())), labels.astype(np.int32)
    rows = [(path, place) for path, part in zip(files, found, strict=True) for place in part.places]

    def where(row: int) -> str:
        path, (group, number) = rows[row]
        return f"{path}:{group}.{number}"

    if not named:
        return read_classes([str(value) for value in values], where)
    every = {name for names in named for name in names} | {str(value) for value in values}
    order = next((names for names in named if set(names) == every), tuple(sorted(every)))
    numbers_of = {name: number for number, name in enumerate(order)}
    return order, np.array([numbers_of[str(value)] for value in values], np.int32)


def _columns(schema: Any, path: str, options: ReadOptions) -> tuple[Columns, tuple[str, ...]]:
    """The columns that are read, and the names of the classes if the file says them."""
    from pyarrow import types

    def holds_images(name: str) -> bool:
        kind = schema.field(name).type
        if types.is_struct(kind):
            return "bytes" in {part.name for part in kind}
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{path} has two columns of one name: {', '.join(schema.names)}; write it with others")
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    images = [name for name in schema.names if holds_images(name)]
    if not images:
        raise DataError(f"{path} has the columns {', '.join(schema.names)}; expected an image and a label")
    sure = [
        name for name in schema.names if isinstance(features.get(name), dict)
        and features[name].get("_type") == "ClassLabel"
    ]  # fmt: skip
    columns = choose_columns(
        [name for name in schema.names if not name.startswith("__index_level_")],
        options, path, images=lambda name: name in images, image_names=IMAGES, labels=sure,
    )  # fmt: skip
    names = features.get(columns.label, {}).get("names") or [] if columns.label in sure else []
    classes = tuple(class_name(str(name)) for name in names)
    if len(set(classes)) < len(classes):
        twice = next(name for name, count in Counter(classes).items() if count > 1)
        raise DataError(f"{path} names the class {twice!r} twice; name each class once")
    return columns, classes


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
