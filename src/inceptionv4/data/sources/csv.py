"""A CSV file of `file_name,label`, with paths relative to it; a column `split` may say train or val."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inceptionv4.data.layout import TRAIN_FOLDERS, VAL_FOLDERS, read_splits
from inceptionv4.data.sources.source import Source
from inceptionv4.data.table import Table, Texts
from inceptionv4.errors import DataError, ImageError

NAMES = ("labels.csv", "metadata.csv")
"""Of files that, lying in a folder, say more about its images than the folders do."""


class CsvSource(Source):
    """Image files that a CSV file lists. The container is that file."""

    @staticmethod
    def find(folder: Path) -> list[Path]:
        """The list in `folder`, one of `NAMES`; none if there is none."""
        return [path for path in (folder / name for name in NAMES) if path.is_file()][:1]

    @staticmethod
    def index(files: Sequence[Path]) -> Table:
        """Read the one list, and see that every file is there.

        Raises:
            DataError: columns are missing, a line is incomplete, a file is not there, or no images.
        """
        (path,) = files
        lines = _read_lines(path)
        parts, left_out = read_splits(split for *_, split in lines)
        if "" in parts and len(parts) > 1:
            raise DataError(f"{path}: some lines have a split and some have none; fill the column or remove it")
        names: list[str] = []
        labels: list[str] = []
        splits: list[int] = []
        for number, name, label, split in lines:
            if split and split not in TRAIN_FOLDERS + VAL_FOLDERS:
                known = ", ".join(TRAIN_FOLDERS + VAL_FOLDERS)
                raise DataError(f"{path}:{number} has the split {split!r}; expected {known}")
            if split not in parts:
                continue  # a test beside a validation may have no labels
            if not name or not label:
                raise DataError(f"{path}:{number} has no file_name or no label")
            if not (path.parent / name).is_file():
                raise DataError(f"{path}:{number} names {name}, which is not there")
            names.append(name)
            labels.append(label)
            splits.append(parts[split])
        if not names:
            raise DataError(f"{path} lists no images")
        classes = tuple(sorted(set(labels)))
        numbers = {name: number for number, name in enumerate(classes)}
        return Table(
            containers=(str(path),),
            container=np.zeros(len(names), np.int32),
            names=Texts.of(names),
            labels=np.array([numbers[label] for label in labels], np.int32),
            splits=np.array(splits, np.int8),
            classes=classes,
            layout=f"listed in {path.name}{left_out}",
        )

    def describe(self, row: int) -> str:
        return str(Path(self.table.containers[0]).parent / self.path(row))

    def read(self, row: int) -> bytes:
        try:
            return Path(self.describe(row)).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.describe(row)} cannot be read: {error.strerror}") from None


def _read_lines(path: Path) -> list[tuple[int, str, str, str]]:
    """Number, file, label and split of each line; what a line lacks is empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            columns = lines.fieldnames or []
            if not {"file_name", "label"} <= set(columns):
                raise DataError(f"{path}:1 has the columns {', '.join(columns)}; expected file_name,label")
            return [
                (lines.line_num, line["file_name"] or "", line["label"] or "", line.get("split") or "")
                for line in lines
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
