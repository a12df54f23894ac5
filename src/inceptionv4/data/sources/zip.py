"""A zip archive of class folders, read in place. Nothing is extracted, so no member can land outside."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from inceptionv4.data.sources.source import RangeSource, table_of_members
from inceptionv4.data.table import Table
from inceptionv4.errors import DataError, ImageError

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, lengths of name and extra field (APPNOTE.TXT 4.3.7)."""
EXTRA_GUESS = 64
"""Bytes read beyond what the directory promises, as a local header may have a longer extra field."""
MAX_BYTES = 2**30
"""Above every image file: a member that would unpack to more is a bomb, or no image."""
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class ZipSource(RangeSource):
    """Stored and deflated members. `place`: `offset` of the local header, `size` in there, `bytes`, `crc`, `method`."""

    @staticmethod
    def index(path: Path) -> Table:
        """Read the archive's directory.

        Raises:
            DataError: not a complete zip archive, encrypted, or packed by a method that cannot be read in place.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise DataError(f"{path} is no complete .zip ({error}); pack the class folders again") from None
        for member in members:
            if member.flag_bits & 1 or member.compress_type not in METHODS:
                reason = "is encrypted" if member.flag_bits & 1 else f"is packed by method {member.compress_type}"
                raise DataError(f"{path}: {member.filename} {reason}; pack the class folders stored or deflated")
        place: dict[str, np.ndarray] = {
            "offset": np.array([member.header_offset for member in members], np.int64),
            "size": np.array([member.compress_size for member in members], np.int64),
            "bytes": np.array([member.file_size for member in members], np.int64),
            "crc": np.array([member.CRC for member in members], np.uint32),
            "method": np.array([member.compress_type for member in members], np.uint8),
        }
        return table_of_members(path, [member.filename for member in members], place)

    def read(self, row: int) -> bytes:
        place = self.table.place
        offset, size = int(place["offset"][row]), int(place["size"][row])
        if (unpacked_size := int(place["bytes"][row])) > MAX_BYTES:
            raise ImageError(
                f"{self.describe(row)} cannot be read: it would unpack to {unpacked_size:,} bytes; "
                f"the limit is {MAX_BYTES:,}"
            )
        guess = LOCAL_HEADER.size + len(self.path(row).encode("utf-8", "surrogateescape")) + EXTRA_GUESS + size
        content = self.read_range(row, offset, guess)
        if len(content) < LOCAL_HEADER.size or not content.startswith(b"PK\3\4"):
            raise ImageError(f"{self.describe(row)} cannot be read: its header is damaged")
        _, name_length, extra_length = LOCAL_HEADER.unpack_from(content)
        start = LOCAL_HEADER.size + name_length + extra_length
        packed = content[start : start + size]
        if len(packed) < size:
            packed = self.read_range(row, offset + start, size)
        try:
            unpacked = self._unpack(packed, unpacked_size, int(place["method"][row]))
        except zlib.error as error:
            raise ImageError(f"{self.describe(row)} cannot be read: {error}") from None
        if len(unpacked) != place["bytes"][row] or zlib.crc32(unpacked) != place["crc"][row]:
            raise ImageError(f"{self.describe(row)} cannot be read: it does not match its checksum")
        return unpacked

    @staticmethod
    def _unpack(packed: bytes, size: int, method: int) -> bytes:
        """At most one byte more than the directory says: a member that lies about its size is no bomb."""
        if method == zipfile.ZIP_STORED:
            return packed
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
