"""A tar archive of class folders, read in place: its members are indexed once and then read by their offsets."""

from __future__ import annotations

import itertools
import posixpath
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from inceptionv4.data.formats.source import RangeSource, plain_path, table_of_members
from inceptionv4.data.layout import EXTENSIONS
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import Table
from inceptionv4.errors import DataError

LABEL = ".cls"
"""Ending of a member that holds the label of a webdataset's sample."""
FIRST_MEMBERS = 100
"""The number of members that tell whether a file is a shard."""


class TarSource(RangeSource):
    """Plain files in an uncompressed archive, and links to them; sparse files and devices are left out."""

    layout_name = "tar"

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the headers of all members of the one archive.

        Raises:
            DataError: not a complete tar archive, or a compressed one.
        """
        (path,) = files
        names, offsets, sizes = list[str](), array("q"), array("q")
        others: list[str] = []
        for member in list_members(path, others):
            names.append(plain_path(member.name))
            offsets.append(member.offset_data)
            sizes.append(member.size)
        if options.layout != TarSource.layout_name and (label := _sample_label(names)):
            raise DataError(
                f"{path} holds {label}, a label as webdataset's shards have it, beside folders that may be classes; "
                "say --data.layout shards, or --data.layout tar if the folders are"
            )
        place = {"offset": np.array(offsets, np.int64), "size": np.array(sizes, np.int64)}
        return table_of_members(path, names, place, others, options)


def list_members(path: Path, others: list[str] | None = None) -> Iterator[tarfile.TarInfo]:
    """The plain files of an uncompressed tar archive, each read when it is asked for and then forgotten; then the links
    to them, as members of their own with their target's place and size.

    The names of all else but folders are added to `others`: sparse files, devices, and links that lead nowhere in the
    archive.

    Raises:
        DataError: not a complete tar archive, or a compressed one.
    """
    others = [] if others is None else others
    links: list[tarfile.TarInfo] = []
    for member in _all_members(path):
        if member.isreg() and member.sparse is None:
            yield member
        elif member.islnk() or member.issym():
            links.append(member)
        elif not member.isdir():
            others.append(plain_path(member.name))
    if not links:
        return
    names = {_plain(link.name): link for link in links}
    ends = [_end_of(link, names) for link in links]
    # A name that comes twice is, as when it is extracted, the last one.
    targets = dict.fromkeys(ends, (0, -1))
    for member in _all_members(path):
        if member.isreg() and member.sparse is None and (name := _plain(member.name)) in targets:
            targets[name] = member.offset_data, member.size
    for link, end in zip(links, ends, strict=True):
        link.offset_data, link.size = targets[end]
        if link.size < 0:
            others.append(plain_path(link.name))
        else:
            yield link


def _all_members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.isreg() and member.sparse is None and member.offset_data + member.size > size:
                    raise DataError(f"{path} is cut short inside {member.name}; copy it again")
                yield member
    except (tarfile.TarError, OSError) as error:
        if is_compressed(path):
            raise DataError(
                f"{path} is compressed as a whole, so that no image can be read without all before it; "
                f"decompress it, images are compressed themselves"
            ) from None
        raise DataError(f"{path} is no complete .tar ({error}); pack the class folders again") from None


def _end_of(link: tarfile.TarInfo, links: dict[str, tarfile.TarInfo]) -> str:
    """The name to which a link leads, through other links; empty where it leads to itself."""
    for _ in range(40):  # as many as Linux follows
        # A hard link counts from the top of the archive, a symbolic one from its own folder.
        folder = posixpath.dirname(link.name) if link.issym() else ""
        name = _plain(posixpath.join(folder, link.linkname))
        if (following := links.get(name)) is None:
            return name
        link = following
    return ""


def _plain(name: str) -> str:
    return posixpath.normpath(name)


def holds_samples(path: Path) -> bool:
    """True if samples as webdataset has them, `key.cls` and `key.jpg`, are among the first members, or if the file is
    damaged and may have some.
    """
    try:
        members = itertools.islice(list_members(path), FIRST_MEMBERS)
        return _sample_label([member.name for member in members]) is not None
    except DataError:
        return not is_compressed(path)


def _sample_label(names: Sequence[str]) -> str | None:
    """The first label `key.cls` beside an image of that key."""
    labels = [name for name in names if name.lower().endswith(LABEL)]
    if not labels:
        return None
    pictures = {
        name[: -len(extension)] for name in names for extension in EXTENSIONS if name.lower().endswith(extension)
    }
    return next((name for name in labels if name[: -len(LABEL)] in pictures), None)


def is_compressed(path: Path) -> bool:
    """True if the file begins as gzip, bzip2, xz or zstandard."""
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
