"""A CSV file of images and classes, with paths relative to it; a column `split` may name the parts of the data.

Commas, semicolons or tabs, with or without a byte order mark, as spreadsheets and pandas write them. Blanks around a
cell do not count. A picture that is listed twice counts once; with two classes or in two parts it is refused.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from inceptionv4.data.formats.columns import Columns, NoColumnError, choose_columns, number_groups, read_classes
from inceptionv4.data.formats.folder import walk
from inceptionv4.data.formats.source import Source
from inceptionv4.data.layout import EXTENSIONS, is_image
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.splits import split_listed, split_values
from inceptionv4.data.table import StringArray, Table, counted
from inceptionv4.errors import DataError, ImageError

NAMES = ("labels.csv", "metadata.csv")
"""The names of tables that say more about the images of their folder than its folders do."""
DELIMITERS = ",;\t"


class CsvSource(Source):
    """Image files that a CSV file lists. The container is that file."""

    layout_name = "csv"

    @staticmethod
    def find(folder: Path, options: ReadOptions = AS_FOUND) -> tuple[list[Path], str]:
        """The list in `folder`, one of `NAMES`; none if there is none, or none that has classes, and then why."""
        reason = ""
        for path in (folder / name for name in NAMES):
            if path.is_file():
                sheet = _read(path)
                try:
                    _columns(sheet, options, path)
                except NoColumnError as error:
                    if path.name == NAMES[0] and error.role == "label":
                        raise  # a list of labels without labels
                    reason = reason or str(error)  # captions, say: the folders are read, and name what is not used
                else:
                    return [path], ""
        return [], reason

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the one list, and see that every file is there.

        Raises:
            DataError: columns are missing, a line is incomplete, contradicts another or names a file that is not there.
        """
        (path,) = files
        sheet = _read(path)
        columns = _columns(sheet, options, path)
        lines = _lines(sheet, columns, path)
        if columns.split is not None:
            parts = split_values(
                [line.split for line in lines],
                options,
                str(path),
                lambda row: f"{path}:{lines[row].number}",
                [not line.label for line in lines],
            )
        else:
            parts = split_listed([line.name.strip().replace("\\", "/") for line in lines], options, str(path))
        kept: dict[str, tuple[_Line, int]] = {}
        spelt: dict[str, str] = {}
        repeats = 0
        for line, split in zip(lines, parts.splits, strict=True):
            where = f"{path}:{line.number}"
            if split is None:
                continue  # a test beside a validation may have no labels
            if not line.name.strip() or not line.label:
                raise DataError(f"{where} has no {columns.image} or no {columns.label}")
            name = _find_file(path, line.name, where)
            same = spelt.setdefault(os.path.normpath(path.parent / name), name)  # `./1.jpg` and `a/../1.jpg`
            other, other_split = kept.setdefault(same, (line, split))
            if other is not line:
                if other.label != line.label:
                    raise DataError(f"{where} says that {name} is {line.label!r}, line {other.number} {other.label!r}")
                if other_split != split:
                    raise DataError(f"{where} has {name} in another part of the data than line {other.number}")
                repeats += 1
        if not kept:
            raise DataError(f"{path} lists no images")
        used = [line for line, _ in kept.values()]
        classes, labels = read_classes([line.label for line in used], lambda row: f"{path}:{used[row].number}")
        left_out = Counter(reason for reason in parts.reasons if reason)
        return Table(
            containers=(str(path),),
            container=np.zeros(len(kept), np.int32),
            names=StringArray.of(kept),
            labels=labels,
            splits=np.array([split for _, split in kept.values()], np.int8),
            classes=classes,
            layout=f"listed in {path.name}",
            left_out=(
                *(f"{counted(count, 'line')}: {reason}" for reason, count in left_out.items()),
                *([f"{counted(repeats, 'line')}: a picture that another line lists"] if repeats else []),
                *_unlisted(path, lines),
            ),
            groups=number_groups([line.group for line in used]) if columns.group else None,
        )

    def describe(self, row: int) -> str:
        return str(Path(self.table.containers[0]).parent / self.path(row))

    def read(self, row: int) -> bytes:
        try:
            return Path(self.describe(row)).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.describe(row)} cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class _Sheet:
    columns: list[str]
    header: int
    """Number of the header's line."""
    rows: list[tuple[int, list[str]]]


@dataclass(frozen=True, eq=False)
class _Line:
    number: int
    name: str
    label: str
    split: str
    group: str


def _columns(sheet: _Sheet, options: ReadOptions, path: Path) -> Columns:
    def cells(name: str) -> set[str]:
        at = sheet.columns.index(name)
        return {row[at].strip() for _, row in sheet.rows if at < len(row)}

    where = f"{path}:{sheet.header}"
    for cell in sheet.columns:
        if PurePosixPath(cell).suffix.lower() in EXTENSIONS and (path.parent / cell).is_file():
            raise DataError(f"{where} lists {cell} where the names of the columns should be; add a first line of these")
    columns = choose_columns(sheet.columns, options, where, cells=lambda name: sorted(cells(name)))
    width = len(sheet.columns)
    if wide := next((number for number, row in sheet.rows if any(cell.strip() for cell in row[width:])), None):
        raise DataError(f"{path}:{wide} has more cells than there are columns; quote cells that have commas in them")
    return columns


def _lines(sheet: _Sheet, columns: Columns, path: Path) -> list[_Line]:
    at = {name: number for number, name in enumerate(sheet.columns)}
    for name in (columns.image, columns.label, columns.split, columns.group):
        if name is not None and sheet.columns.count(name) > 1:
            raise DataError(f"{path}:{sheet.header} has two columns {name!r}; remove one of them")

    def cell(row: list[str], name: str | None) -> str:
        return row[at[name]] if name is not None and at[name] < len(row) else ""

    others = (columns.label, columns.split, columns.group)
    return [
        _Line(number, cell(row, columns.image), *(cell(row, name).strip() for name in others))
        for number, row in sheet.rows
    ]


def _read(path: Path) -> _Sheet:
    """The table, the header without blanks around its cells.

    Raises:
        DataError: it cannot be read, or has no header.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        text = content.decode(encoding)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not written in UTF-8 ({error}); save it as UTF-8") from None
    first, _, rest = text.partition("\n")
    skipped = 0
    delimiter = max(DELIMITERS, key=first.count)
    if first.strip().lower().startswith("sep="):  # a line by which Excel knows the delimiter
        delimiter, text, skipped = first.strip()[4:5] or ",", rest, 1
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except (TypeError, ValueError):
        raise DataError(f"{path}:1 names a delimiter that cannot be one, {delimiter!r}; remove the line") from None
    try:
        rows = [(lines.line_num + skipped, row) for row in lines]
    except csv.Error as error:
        raise DataError(f"cannot read {path}:{lines.line_num + skipped}: {error}") from None
    rows = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
    if not rows:
        raise DataError(f"{path} is empty; expected a header such as file_name,label")
    header, columns = rows[0]
    return _Sheet([name.strip() for name in columns], header, rows[1:])


def _unlisted(path: Path, lines: Sequence[_Line]) -> list[str]:
    """In words, how many images lie below a table that stands for its whole folder and are not listed there."""
    if path.name not in NAMES:
        return []
    listed = {PurePosixPath(form).as_posix() for line in lines for form in _forms(line.name)}
    images = (folder + name for folder, names, _ in walk(path.parent) for name in names if is_image(name))
    count = sum(image not in listed for image in images)
    return [f"{counted(count, 'image')}: not listed in {path.name}"] if count else []


def _forms(name: str) -> tuple[str, ...]:
    """What a cell may mean: the name as it is written, without blanks around it, or with Windows' backslashes."""
    plain = name.strip()
    return name, plain, plain.replace("\\", "/")


def _find_file(table: Path, name: str, where: str) -> str:
    """The name of a file that is there."""
    for candidate in _forms(name):
        try:
            if (table.parent / candidate).is_file():
                return str(Path(candidate))
        except (OSError, ValueError):  # too long for a name, or a null byte in it
            continue
    raise DataError(f"{where} names {name.strip()}, which is not there")
