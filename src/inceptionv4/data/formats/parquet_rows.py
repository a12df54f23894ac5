"""Which rows of parquet files count, for which part of the data, and of which class.

The parts are those of the files' names or folders, or else those of a column of the rows; both may speak, but not
against each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.data.formats.columns import NO_COLUMN, read_classes
from inceptionv4.data.formats.parquet_columns import cell_texts, image_columns, open_parquet, read_columns, undamaged
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.split_names import kind_of_word, split_path, split_word
from inceptionv4.data.splits import NO_LABELS, Parts, is_below, split_files, split_values
from inceptionv4.data.table import NONE, counted
from inceptionv4.errors import DataError

Label = int | str | None
"""A number in the names of its file, a text, or None where a row says no class."""


@dataclass
class Rows:
    """Rows of one file, in lists of one length but for `names`, the classes that the file names."""

    path: Path
    image: int
    """Number of the column of the images."""
    split_column: str | None
    names: tuple[str, ...]
    labels: list[Label]
    groups: list[str]
    values: list[str]
    """What the column of the split says, if there is one."""
    places: list[tuple[int, int]]
    """Row group, and row in it."""
    sizes: list[int]
    """Bytes of the images' column of each row's group."""
    splits: list[int]

    def keep(self, kept: Sequence[bool]) -> None:
        for name in ("labels", "groups", "values", "places", "sizes", "splits"):
            column = getattr(self, name)
            setattr(self, name, [cell for cell, keep in zip(column, kept, strict=True) if keep])

    def where(self, row: int) -> str:
        group, number = self.places[row]
        return f"{self.path}:{group}.{number}"


def read_files(top: Path, files: Sequence[Path], options: ReadOptions) -> tuple[list[Rows], tuple[str, ...]]:
    """The rows of `files`, which lie below `top`, that count; and in words how many files and rows do not.

    Raises:
        DataError: a file is damaged, has other columns, or rows without a class; names and rows say different parts;
            or the files tell several data sets.
        UsageError: pyarrow is not installed.
    """
    paths = {path.relative_to(top).as_posix(): path for path in files}
    apart = {name: "no column of images" for name, path in paths.items() if not image_columns(open_parquet(path))}
    if len(apart) == len(paths):
        apart = {}  # reading says which columns they have
    if _rows_decide(list(paths), options):
        found = [read_rows(path, options) for name, path in paths.items() if name not in apart]
        reasons = Counter(apart.values())
        left_out = _split_rows(found, options, top)
    else:
        parts, found = _split_files(top, paths, apart, options)
        reasons = Counter(reason for reason in parts.reasons if reason)
        left_out = Counter()
        if options.train is None and options.split_column != NO_COLUMN:
            left_out = _hear_rows(found, options, top)
    for rows in found:
        if bare := sum(label is None for label in rows.labels):
            raise DataError(f"{rows.path} has {counted(bare, 'row')} without a label; write it without them")
    words = [f"{counted(count, 'parquet file')}: {reason}" for reason, count in reasons.items()]
    words += [f"{counted(count, 'row')}: {reason}" for reason, count in left_out.items()]
    return [rows for rows in found if rows.labels], tuple(words)


def _rows_decide(paths: Sequence[str], options: ReadOptions) -> bool:
    """True if the user says that a column has the parts, and not the files' names."""
    if options.split_column is not None:
        return options.split_column != NO_COLUMN
    named = [part for part in (options.train, options.val) if part is not None]
    return bool(named) and not all(any(is_below(path, part) for path in paths) for part in named)


def _split_files(
    top: Path, paths: dict[str, Path], apart: dict[str, str], options: ReadOptions
) -> tuple[Parts, list[Rows]]:
    """The parts of the files by their names, and the rows of those that count. A test without labels does not."""

    def split() -> Parts:
        return split_files(paths, options, str(top), apart)

    parts = split()
    kept = {
        name: read_rows(path, options)
        for (name, path), part in zip(paths.items(), parts.splits, strict=True)
        if part is not None
    }
    if options.train is None:
        bare = [
            name for name, rows in kept.items()
            if (found := split_path(name)) and kind_of_word(found.word) == "test" and not any(_labelled(rows))
        ]  # fmt: skip
        if bare and len(bare) < len(kept):
            apart.update(dict.fromkeys(bare, NO_LABELS))
            parts = split()
    found_rows = []
    for (name, path), part in zip(paths.items(), parts.splits, strict=True):
        if part is not None:
            rows = kept.get(name) or read_rows(path, options)
            rows.splits = [part] * len(rows.labels)
            found_rows.append(rows)
    return parts, found_rows


def _labelled(rows: Rows) -> list[bool]:
    return [label is not None for label in rows.labels]


def _hear_rows(found: Sequence[Rows], options: ReadOptions, top: Path) -> Counter[str]:
    """Take the parts from the rows where the files' names say none; refuse rows that speak against the names."""
    speaking = [rows for rows in found if any(rows.values)]
    if not speaking:
        return Counter()
    if all(split == NONE for rows in found for split in rows.splits):
        return _split_rows(found, options, top)
    for rows in speaking:
        name = split_path(rows.path.relative_to(top).as_posix())
        said = {word and kind_of_word(word) for word in map(split_word, set(rows.values))}
        if name is not None and said != {kind_of_word(name.word)}:
            raise DataError(
                f"{rows.path} is of {name.word} by its name, but its column {rows.split_column!r} has "
                f"{', '.join(sorted(set(rows.values))[:5])}; say --data.split-column {rows.split_column} if the column "
                f"is right, or --data.split-column {NO_COLUMN} if the name is"
            )
    return Counter()


def _split_rows(found: Sequence[Rows], options: ReadOptions, top: Path) -> Counter[str]:
    """Give each row the part that its column says, and drop those of none; why, and how many, is returned."""
    if silent := [rows for rows in found if rows.split_column is None]:
        raise DataError(
            f"{silent[0].path} has no column that says the part of its rows, as "
            f"{'data.train asks for' if options.train else 'other files here have'}; write it, or say "
            "with --data.train and --data.val how the names of the files begin"
        )
    parts = split_values(
        [value for rows in found for value in rows.values],
        options,
        str(top),
        lambda number: _where(found, number),
        [not labelled for rows in found for labelled in _labelled(rows)],
    )
    splits = iter(parts.splits)
    for rows in found:
        own = [next(splits) for _ in rows.labels]
        rows.splits = [NONE if split is None else split for split in own]
        rows.keep([split is not None for split in own])
    return Counter(reason for reason in parts.reasons if reason)


def read_rows(path: Path, options: ReadOptions) -> Rows:
    """All rows of a file, without their images.

    Raises:
        DataError: it is damaged, has other columns, or a cell that is no class.
    """
    file = open_parquet(path)
    chosen = read_columns(file, path, options)
    columns = chosen.columns
    wanted = [columns.label, *(name for name in (columns.split, columns.group) if name)]
    image = file.schema_arrow.names.index(columns.image)
    rows = Rows(path, image, columns.split, chosen.names.get(columns.label, ()), [], [], [], [], [], [])
    for group in range(file.num_row_groups):
        with undamaged(path):
            table = file.read_row_group(group, wanted)
            cells = {name: table[name].to_pylist() for name in wanted}
            size = _column_bytes(file.metadata.row_group(group), columns.image)
        labels = [_label(value) for value in cells[columns.label]]
        rows.labels += labels
        for texts, name in ((rows.groups, columns.group), (rows.values, columns.split)):
            texts += cell_texts(cells[name], chosen.names.get(name, ())) if name else [""] * len(labels)
        rows.places += [(group, row) for row in range(len(labels))]
        rows.sizes += [size] * len(labels)
        rows.splits += [NONE] * len(labels)
    for label in rows.labels:
        if label is not None and not isinstance(label, (int, str)):
            raise DataError(
                f"{path}: the column {columns.label!r} has {str(label)[:40]!r}, which is no class; "
                "say with --data.label-column which column has"
            )
        if rows.names and isinstance(label, int) and label >= len(rows.names):
            raise DataError(f"{path} has the label {label} but names {len(rows.names)} classes")
    return rows


def _where(found: Sequence[Rows], number: int) -> str:
    """The place of the row that has this number over all of `found`, as a message names it."""
    for rows in found:
        if number < len(rows.labels):
            return rows.where(number)
        number -= len(rows.labels)
    raise IndexError(number)


def _column_bytes(group: Any, name: str) -> int:
    chunks = (group.column(number) for number in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.partition(".")[0] == name)


def _label(value: Any) -> Any:
    """A class as a whole number or as text without blanks around it; None if the cell is empty, or a number below 0,
    as Hugging Face marks rows without a label.
    """
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        value = None if value != value else int(value) if value.is_integer() else value
    if isinstance(value, int) and value < 0:
        return None
    return value.strip() or None if isinstance(value, str) else value


def join_classes(found: Sequence[Rows]) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes of all files and the labels of all rows. Numbers count in the names of their own file.

    Where one file names all classes, its order counts; else names are sorted, and numbers by their value.
    """
    named = [rows.names for rows in found if rows.names]
    bare = [rows for rows in found if not rows.names and any(isinstance(label, int) for label in rows.labels)]
    if named and bare:
        raise DataError(
            f"{bare[0].path} has numbers of classes but not their names, which other files have; write them in all"
        )
    values = [
        rows.names[label] if rows.names and isinstance(label, int) else label for rows in found for label in rows.labels
    ]
    if not named and all(isinstance(value, int) for value in values):
        numbers, labels = np.unique(np.array(values, np.int64), return_inverse=True)
        return tuple(map(str, numbers.tolist())), labels.astype(np.int32)
    if not named:
        return read_classes([str(value) for value in values], lambda number: _where(found, number))
    every = {name for names in named for name in names} | {str(value) for value in values}
    order = next((names for names in named if set(names) == every), tuple(sorted(every)))
    numbers_of = {name: number for number, name in enumerate(order)}
    return order, np.array([numbers_of[str(value)] for value in values], np.int32)
