"""A folder of class folders; symbolic links are followed, but not round and round."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from inceptionv4.class_names import spelling
from inceptionv4.data.formats.source import Source, no_images
from inceptionv4.data.layout import is_image, read_layout
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import StringArray, Table
from inceptionv4.errors import DataError, ImageError

TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
"""The endings of files beside class folders that a user may take for labels."""
MOST_LINKS = 256
"""The links that may lead to one folder: links to folders of links multiply."""


class FolderSource(Source):
    """Files below a folder. The table's containers are folders, as `cat/` relative to the location."""

    layout_name = "folder"

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """List the images below the one folder in `files`. What this rests on are the table's containers.

        Raises:
            DataError: a folder cannot be listed, no images, or images outside of class folders.
        """
        (root,) = files
        folders: list[str] = []
        names: list[StringArray] = []
        stamps: list[int] = []
        tables: list[str] = []
        ignored = 0
        for folder, found, stamp in walk(root):
            images = [name for name in found if is_image(name)]
            tables += [folder + name for name in found if name.lower().endswith(TABLES)]
            ignored += len(found) - len(images)
            folders.append(folder)
            stamps.append(stamp)
            names.append(StringArray.of(images))
        holding = [number for number, part in enumerate(names) if len(part)]
        if not holding:
            raise no_images(str(root), ignored)
        images_in = [len(names[number]) for number in holding]
        layout = read_layout([folders[number] for number in holding], images_in, str(root), options)
        order = [number for number, label in zip(holding, layout.labels, strict=True) if label >= 0]
        counts = [len(names[number]) for number in order]
        kept = layout.labels >= 0
        return Table(
            containers=tuple(folders),
            container=np.repeat(np.array(order, np.int32), counts),
            names=StringArray.join([names[number] for number in order]),
            labels=np.repeat(layout.labels[kept], counts),
            splits=np.repeat(layout.splits[kept], counts),
            classes=layout.classes,
            layout=layout.words,
            root=layout.root,
            ignored=ignored,
            left_out=(*layout.left_out, *_unused(tables)),
            stamps=np.array(stamps, np.int64),
        )

    def path(self, row: int) -> str:
        folder: str = self.table.containers[self.table.container[row]]
        return folder + self.table.names[row]

    def describe(self, row: int) -> str:
        return str(Path(self.location) / self.path(row))

    def read(self, row: int) -> bytes:
        try:
            # A Path would cost as much as the reading.
            with open(f"{self.location}/{self.path(row)}", "rb", buffering=0) as file:  # noqa: PTH123
                return file.read()
        except OSError as error:
            raise ImageError(f"{self.describe(row)} cannot be read: {error.strerror}") from None


def walk(root: Path) -> Iterator[tuple[str, list[str], int]]:
    """All folders below `root` that are not hidden, as `cat/`, sorted, each with the sorted names of its files and the
    time of its last change, in ns, which is taken before the files are listed. Hidden folders and links that lead
    nowhere count as hidden files. A folder to which links lead is there once for each.

    Raises:
        DataError: a folder cannot be listed.
    """
    visits: Counter[tuple[int, int]] = Counter()

    def visit(folder: Path, prefix: str, around: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[str], int]]:
        status = folder.stat()
        identity = status.st_dev, status.st_ino
        if identity in around:
            return  # a link that goes round
        visits[identity] += 1
        if visits[identity] > MOST_LINKS:
            raise DataError(f"more than {MOST_LINKS} links lead to {folder}; remove those that are not meant")
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if _leads_nowhere(entry):
                    files.append(f".{entry.name}")  # counted as what is hidden
                elif entry.is_dir():
                    (files if entry.name.startswith(".") else folders).append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
        yield prefix, sorted(files, key=spelling), status.st_mtime_ns
        for name in sorted(folders, key=lambda name: spelling(f"{name}/")):  # as their paths are sorted: a-b/ before a/
            yield from visit(folder / name, f"{prefix}{name}/", around | {identity})

    try:
        yield from visit(root, "", frozenset())
    except OSError as error:
        raise DataError(f"cannot list {error.filename}: {error.strerror}") from None


def _unused(tables: Sequence[str]) -> list[str]:
    """In words, the tables that lie among the images and are not read."""
    if not tables:
        return []
    more = f" and {len(tables) - 3:,} more" if len(tables) > 3 else ""
    return [f"{', '.join(tables[:3])}{more}: the folders are the classes"]


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """True for a link to nothing, or to itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110  # Path.exists raises on a loop
