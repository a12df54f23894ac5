"""A zip archive of class folders, read in place. Nothing is extracted, so no member can land outside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from inceptionv4.data.formats.source import RangeSource, plain_path, table_of_members
from inceptionv4.data.formats.zip_members import Member, list_members, read_member
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import Table
from inceptionv4.errors import DataError

COLUMNS = {"offset": np.int64, "size": np.int64, "bytes": np.int64, "crc": np.uint32, "method": np.uint8}
"""The columns of `place`, in the order of a `Member`'s: `size` is the packed one, `bytes` the other."""


class ZipSource(RangeSource):
    """Stored and deflated members; symbolic links are left out."""

    layout_name = "zip"

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the directory of the one archive.

        Raises:
            DataError: not a complete zip archive, encrypted, or packed by a method that cannot be read in place.
        """
        (path,) = files
        members, others = list[Member](), list[str]()
        for member in list_members(path):
            if member.is_link:
                others.append(plain_path(member.name))
                continue
            members.append(member)
            if obstacle := member.obstacle():
                raise DataError(f"{path}: {member.name} {obstacle}; pack the class folders stored or deflated")
        values = ((member.offset, member.packed, member.size, member.crc, member.method) for member in members)
        columns = list(zip(*values, strict=True)) or [()] * len(COLUMNS)
        place = {name: np.array(column, kind) for (name, kind), column in zip(COLUMNS.items(), columns, strict=True)}
        return table_of_members(path, [plain_path(member.name) for member in members], place, others, options)

    def read(self, row: int) -> bytes:
        offset, packed, size, crc, method = (int(self.table.place[column][row]) for column in COLUMNS)
        member = Member(self.path(row), offset, packed, size, crc, method)
        return read_member(member, self.describe(row), partial(self.read_range, row))
