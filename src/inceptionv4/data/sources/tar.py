"""A tar archive of class folders, read in place: its members are indexed once and then read by their offsets."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.sources.source import RangeSource, table_of_members
from inceptionv4.data.table import Table
from inceptionv4.errors import DataError


class TarSource(RangeSource):
    """Plain files in an uncompressed archive; links and devices are left out."""

    layout_name = "tar"

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the headers of all members of the one archive.

        Raises:
            DataError: not a complete tar archive, or a compressed one.
        """
        (path,) = files
        members = list(list_members(path))
        place = {
            "offset": np.array([member.offset_data for member in members], np.int64),
            "size": np.array([member.size for member in members], np.int64),
        }
        return table_of_members(path, [member.name.removeprefix("./") for member in members], place, options)


def list_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The plain files of an uncompressed tar archive, each read when it is asked for and then forgotten.

    Raises:
        DataError: not a complete tar archive, or a compressed one.
    """
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.isreg() and member.sparse is None:
                    if member.offset_data + member.size > size:
                        raise DataError(f"{path} is cut short inside {member.name}; copy it again")
                    yield member
    except (tarfile.TarError, OSError) as error:
        if is_compressed(path):
            raise DataError(
                f"{path} is compressed as a whole, so that no image can be read without all before it; "
                f"decompress it, images are compressed themselves"
            ) from None
        raise DataError(f"{path} is no complete .tar ({error}); pack the class folders again") from None


def is_compressed(path: Path) -> bool:
    """Whether the file begins as gzip, bzip2, xz or zstandard."""
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
