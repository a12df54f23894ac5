"""Which format lies at a location: what a file is, and which of the formats that a folder may hold.

    digits                          the archive inside the package
    name-{0000..0099}.tar           shards
    file.zip  file.tar  file.csv  file.parquet
    folder                          of CIFAR-10 batches, ImageNet's archives, parquet files or shards, with a
                                    labels.csv, or of class folders

A file is what it holds. A folder that holds labelled images in two formats is refused: `data.layout` decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inceptionv4.data.formats.cifar import CifarSource
from inceptionv4.data.formats.csv import NAMES, CsvSource
from inceptionv4.data.formats.folder import FolderSource, walk
from inceptionv4.data.formats.imagenet import ImageNetSource
from inceptionv4.data.formats.parquet import ParquetSource
from inceptionv4.data.formats.parquet_columns import holds_images
from inceptionv4.data.formats.shards import BRACES, ShardSource, class_lists, is_shard
from inceptionv4.data.formats.source import Source
from inceptionv4.data.formats.tar import TarSource, holds_samples
from inceptionv4.data.formats.zip import ZipSource
from inceptionv4.data.layout import is_image
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.split_names import split_name
from inceptionv4.data.table import counted
from inceptionv4.errors import DataError

CONTAINERS = (".parquet", ".tar")
DEEPEST = 4
LOOKED_AT = 64
"""Levels of folders, folders of a level, and entries of a folder with images, in which such files are looked for."""


@dataclass(frozen=True)
class Reading:
    """A way to read what lies at a location: the format, the files that its index rests on, and in words what else
    lies there.
    """

    kind: type[Source]
    files: list[Path]
    beside: tuple[str, ...] = ()
    certain: bool = True
    """False if only the names of the files say that they hold labelled images."""


def detect(text: str, options: ReadOptions) -> Reading:
    """How to read what lies at `text`.

    Raises:
        DataError: nothing there, nothing of the layout that `options` say, or two formats side by side.
        UsageError: pyarrow is not installed, which knows whether parquet files hold images.
    """
    path = Path(text)
    if BRACES.search(text):
        return Reading(ShardSource, ShardSource.find(text))
    if path.is_file():
        found = _detect_file(path, options)
    elif path.is_dir():
        found = _detect_folder(path, options)
    else:
        raise DataError(f"no images at {path}: there is no such folder or file; --data also takes `digits`")
    if options.layout not in (None, found.kind.layout_name):
        raise DataError(f"{text} is no {options.layout}, as data.layout says: it is {found.kind.layout_name}")
    return found


def _detect_file(path: Path, options: ReadOptions) -> Reading:
    with path.open("rb") as file:
        head = file.read(512)
    ending = path.suffix.lower()
    if ending == ".csv":
        return Reading(CsvSource, [path])
    if ending == ".parquet":
        return Reading(ParquetSource, [path])
    if files := ImageNetSource.find(path):
        return Reading(ImageNetSource, files)
    if head[257:262] == b"ustar" or ending in (".tar", ".tgz") or path.name.lower().endswith(".tar.gz"):
        if options.layout == ShardSource.layout_name or (options.layout is None and holds_samples(path)):
            return Reading(ShardSource, [path, *class_lists(path.parent, [path])])
        return Reading(TarSource, [path])
    if head.startswith((b"PK\3\4", b"PK\5\6")) or ending == ".zip":
        return Reading(ZipSource, [path])
    raise DataError(f"{path} is no folder, .zip, .tar, .csv or .parquet; pack the class folders as a .zip")


def _detect_folder(folder: Path, options: ReadOptions) -> Reading:
    wanted = options.layout
    if wanted == FolderSource.layout_name:
        return Reading(FolderSource, [folder])
    found = [Reading(kind, files) for kind in (CifarSource, ImageNetSource) if (files := kind.find(folder))]
    contents = _list(folder) if found or _may_hold(folder, CONTAINERS) else Contents()
    if wanted in (None, ParquetSource.layout_name):
        found += contents.as_parquet()
    if wanted in (None, ShardSource.layout_name):
        found += contents.as_shards(folder)
    table, reason = CsvSource.find(folder, options) if wanted in (None, CsvSource.layout_name) else ([], "")
    if table:
        found.append(Reading(CsvSource, table))
    if wanted is not None:
        if chosen := next((reading for reading in found if reading.kind.layout_name == wanted), None):
            return chosen
        if wanted == CsvSource.layout_name:
            raise DataError(reason or f"{folder} holds no {' or '.join(NAMES)}; give the table's own path")
        raise DataError(f"{folder} holds nothing that is read as {wanted}, as data.layout says")
    if not table and len(contents.image_folders) > 1:
        found.append(Reading(FolderSource, [folder]))
    certain = [reading for reading in found if reading.certain]
    if len(certain) > 1:
        kinds = [reading.kind.layout_name for reading in certain]
        shown = " and ".join(_show(reading, folder, contents) for reading in certain)
        raise DataError(
            f"{folder} holds labelled images in several layouts, {shown}; say which with --data.layout "
            f"{' or '.join(kinds)}, or give them folders of their own"
        )
    if certain:
        return certain[0]
    if found and not contents.image_folders:
        return found[0]  # its reader says what is wrong
    _refuse_tables_of_parts(folder, options)
    return Reading(FolderSource, [folder], (f"a table, as the folders are the classes: {reason}",) if reason else ())


@dataclass
class Contents:
    """The files of a folder that may hold labelled images, and how many images its folders have."""

    parquet: list[Path] = field(default_factory=list)
    tars: list[Path] = field(default_factory=list)
    image_folders: dict[str, int] = field(default_factory=dict)

    def as_parquet(self) -> list[Reading]:
        """The reading as parquet files, if there are any."""
        if not self.parquet:
            return []
        certain = any(map(holds_images, self.parquet))
        return [Reading(ParquetSource, self.parquet, self._beside("parquet files", self.tars), certain)]

    def as_shards(self, folder: Path) -> list[Reading]:
        """The reading as shards, if there are any."""
        shards = [path for path in self.tars if is_shard(path.relative_to(folder).as_posix())]
        if not shards:
            return []
        beside = self._beside("shards", [*self.parquet, *sorted(set(self.tars) - set(shards))])
        certain = any(map(holds_samples, shards))
        return [Reading(ShardSource, [*shards, *class_lists(folder, shards)], beside, certain)]

    def _beside(self, read: str, others: Sequence[Path]) -> tuple[str, ...]:
        images = sum(self.image_folders.values())
        shown = ", ".join(path.name for path in others[:3]) + (", ..." if len(others) > 3 else "")
        words = [counted(images, "image")] if images else []
        words += [f"{counted(len(others), 'file')} ({shown})"] if others else []
        return tuple(f"{word}: the {read} are the data" for word in words)


def _show(reading: Reading, folder: Path, contents: Contents) -> str:
    """What a message names of a reading."""
    if reading.kind is FolderSource:
        return "class folders such as " + ", ".join(sorted(contents.image_folders)[:2])
    return reading.files[0].relative_to(folder).as_posix()


def _list(folder: Path) -> Contents:
    """What lies in `folder` and below, however deep, but for what is hidden."""
    contents = Contents()
    for prefix, names, _ in walk(folder):
        shown = [name for name in names if not name.startswith(".")]
        contents.parquet += [folder / (prefix + name) for name in shown if name.lower().endswith(".parquet")]
        contents.tars += [folder / (prefix + name) for name in shown if name.lower().endswith(".tar")]
        if count := sum(map(is_image, shown)):
            contents.image_folders[prefix] = count
    return contents


def _may_hold(folder: Path, endings: tuple[str, ...]) -> bool:
    """True if files with one of `endings` lie in `folder`, or in folders of it that are looked into.

    A folder of millions of images is not listed for it: a reading as class folders names what it missed.
    """
    level = [str(folder)]
    for depth in range(DEEPEST):
        below: list[str] = []
        for place in level:
            images = 0
            for number, entry in enumerate(_entries(place)):
                if images and depth and number >= LOOKED_AT:
                    break
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(endings) and entry.is_file():
                    return True
                images += is_image(entry.name)
                if _is_folder(entry):
                    below.append(entry.path)
        level = sorted(below)[:LOOKED_AT]
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that goes round
        return False


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:  # a folder that cannot be read is named where it is listed
        return


def _refuse_tables_of_parts(folder: Path, options: ReadOptions) -> None:
    """Refuse tables with classes inside of the parts, as `train/metadata.csv`: they or the folders may be meant."""
    for part in sorted(part for part in folder.iterdir() if split_name(part.name) and part.is_dir()):
        if files := CsvSource.find(part, options)[0]:
            raise DataError(
                f"{folder}: {files[0].relative_to(folder)} names classes, and folders may be classes, too; say "
                "--data.layout folder, or write one table of all images beside the folders"
            )
