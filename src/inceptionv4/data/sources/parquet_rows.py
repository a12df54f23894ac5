"""What a parquet file says of its rows: which column is the image, which the class, and the class of each row.

The class is in the column that the metadata call a ClassLabel, or that is called so (`sources.columns`), whatever its
type. The names of a ClassLabel are those of each file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.class_names import class_name
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.sources.columns import IMAGES, Columns, choose_columns, read_classes
from inceptionv4.errors import DataError, UsageError


def open_parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet  # an extra
    except ImportError:
        raise UsageError("parquet files are read with pyarrow: pip install 'inceptionv4[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} is no complete parquet file ({error}); copy it again") from None


@dataclass(frozen=True)
class Rows:
    """The rows of one file: their classes as numbers in `names`, or as texts if it names none."""

    labels: list[Any]
    names: tuple[str, ...]
    places: list[tuple[int, int]]
    groups: list[str | None]
    sizes: list[int]
    """Bytes of the images' column of each row's group."""
    image: int


def read_rows(path: Path, options: ReadOptions) -> Rows:
    file = open_parquet(path)
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
    return Rows(labels, names, places, groups, sizes, schema.names.index(columns.image))


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


def join_classes(found: Sequence[Rows], files: Sequence[Path]) -> tuple[tuple[str, ...], np.ndarray]:
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
