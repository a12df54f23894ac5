"""The members of a .zip, one at a time: Python's own reader holds an object for each, 55 MB for 100,000 of them.

The directory stands at the end of the file, the members before it (APPNOTE.TXT 4.3.6); what was put before a whole
archive, such as a program that unpacks it, shifts all offsets. Sizes beyond 4 GiB are in an extra field (4.5.3).

A name is, in this order: UTF-8, where its flag says so (4.4.4, bit 11); what the Unicode path field says (4.6.9), if
that belongs to the name; UTF-8 without the flag, as Info-ZIP writes it on Linux and macOS; else code page 437.
Backslashes separate folders where a program for Windows or DOS wrote them, as in unzip; elsewhere they are characters.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inceptionv4.errors import DataError, ImageError

END = struct.Struct("<4s4H2LH")
"""Signature, disks and counts, size and offset of the directory, length of the comment (4.3.16)."""
LOCATOR_64 = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
"""Signature, versions, disks and counts, size and offset of the directory (4.3.14)."""
ENTRY = struct.Struct("<4s6H3L5H2L")
"""Signature, flags, method, checksum, sizes, lengths of name, extra field and comment, offset (4.3.12)."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, lengths of name and extra field (4.3.7)."""
LONGEST_COMMENT = 0xFFFF
IN_EXTRA_FIELD = 0xFFFFFFFF
"""Instead of a number that has no place in 32 bits."""
EXTRA_GUESS = 64
"""Bytes read beyond what the directory promises, as a local header may have a longer extra field."""
ZIP_64, UNICODE_PATH = 1, 0x7075
"""Kinds of extra fields."""
DOS_HOSTS = {0, 6, 10, 11, 14}
"""Who made the entry (4.4.2): MS-DOS, OS/2, NTFS by PKWARE's and by Info-ZIP's number, VFAT."""
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
MAX_BYTES = 2**30
"""Above every image file: a member that would unpack to more is a bomb, or no image."""


@dataclass(frozen=True, slots=True)
class Member:
    """What the directory says: where the member's local header is, how many bytes it has packed and unpacked."""

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool = False
    is_link: bool = False

    def obstacle(self) -> str | None:
        """Why it cannot be read in place; None if it can."""
        if self.encrypted:
            return "is encrypted"
        return None if self.method in METHODS else f"is packed by method {self.method}"


def list_members(path: Path) -> Iterator[Member]:
    """The members of an archive that are no folders, each read from its directory when it is asked for.

    Raises:
        DataError: not a complete zip archive.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - END.size - LONGEST_COMMENT - END_64.size - LOCATOR_64.size))
            tail = file.read()
            start, stop, shift = _find_directory(tail, end - len(tail))
            file.seek(start)
            while start < stop:
                entry = ENTRY.unpack(file.read(ENTRY.size))
                rest = file.read(sum(entry[10:13]))
                if entry[0] != b"PK\1\2" or len(rest) != sum(entry[10:13]):
                    raise ValueError("its directory is damaged")
                start += ENTRY.size + len(rest)
                member = _read_entry(entry, rest, shift)
                if not member.name.endswith("/"):
                    yield member
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"{path} is no complete .zip ({error}); pack it again") from None


def _find_directory(tail: bytes, before: int) -> tuple[int, int, int]:
    """Start and stop of the directory, and by how much offsets are shifted; `before` is what precedes `tail`."""
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + END.size:
        raise ValueError("it has no directory at its end")
    *_, size, offset, _ = END.unpack_from(tail, end)
    stop = end
    locator, end_64 = end - LOCATOR_64.size, end - LOCATOR_64.size - END_64.size
    if end_64 >= 0 and tail.startswith(b"PK\6\7", locator) and tail.startswith(b"PK\6\6", end_64):
        *_, size, offset = END_64.unpack_from(tail, end_64)
        stop = end_64
    stop += before
    if stop - size < 0 or stop - size < offset:
        raise ValueError("its directory is damaged")
    return stop - size, stop, stop - size - offset


def _read_entry(entry: tuple[int, ...], rest: bytes, shift: int) -> Member:
    flags, method, crc, packed, size, name_length, extra_length = entry[3], entry[4], *entry[7:12]
    host, mode, offset = entry[1] >> 8, entry[15] >> 16, entry[16]
    extra = dict(_extra_fields(rest[name_length : name_length + extra_length]))
    field = extra.get(ZIP_64, b"")
    numbers = (number for (number,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8]))
    size, packed, offset = (
        next(numbers, value) if value == IN_EXTRA_FIELD else value for value in (size, packed, offset)
    )
    raw = rest[:name_length].partition(b"\0")[0]
    name = _unicode_name(raw, flags, extra.get(UNICODE_PATH, b""))
    # In an unknown code page a backslash may be half of a character, as in Japan's: then slashes alone count.
    if host in DOS_HOSTS and (name is not None or b"/" not in raw):
        raw, name = raw.replace(b"\\", b"/"), name and name.replace("\\", "/")
    return Member(
        raw.decode("cp437") if name is None else name,
        offset + shift,
        packed,
        size,
        crc,
        method,
        bool(flags & 1),
        stat.S_ISLNK(mode),
    )


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        yield kind, extra[4 : 4 + length]
        extra = extra[4 + length :]


def _unicode_name(raw: bytes, flags: int, unicode_path: bytes) -> str | None:
    """The name as the entry says it in Unicode; None if it does not."""
    if flags & 0x800:
        return raw.decode("utf-8")
    # A program that knows no Unicode may have changed the name and kept the field: then the checksum differs.
    if unicode_path[:1] == b"\1" and unicode_path[1:5] == struct.pack("<L", zlib.crc32(raw)):
        return unicode_path[5:].decode("utf-8").partition("\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def read_member(member: Member, name: str, read: Callable[[int, int], bytes]) -> bytes:
    """The content of a member, unpacked. `read` gives bytes of the archive, by offset and number; fewer where it ends.
    `name` is what errors call the member.

    Raises:
        ImageError: it is packed in a way that cannot be read, damaged, or has more than `MAX_BYTES` bytes.
    """
    if obstacle := member.obstacle():
        raise ImageError(f"{name} {obstacle}; pack it again, stored or deflated")
    if (size := max(member.size, member.packed)) > MAX_BYTES:
        raise ImageError(f"{name} cannot be read: it would unpack to {size:,} bytes; the limit is {MAX_BYTES:,}")
    guess = LOCAL_HEADER.size + len(member.name.encode("utf-8", "surrogateescape")) + EXTRA_GUESS + member.packed
    content = read(member.offset, guess)
    if len(content) < LOCAL_HEADER.size or not content.startswith(b"PK\3\4"):
        raise ImageError(f"{name} cannot be read: its header is damaged")
    _, name_length, extra_length = LOCAL_HEADER.unpack_from(content)
    start = LOCAL_HEADER.size + name_length + extra_length
    packed = content[start : start + member.packed]
    if len(packed) < member.packed:
        packed = read(member.offset + start, member.packed)
    try:
        unpacked = _unpack(packed, member.size, member.method)
    except zlib.error as error:
        raise ImageError(f"{name} cannot be read: {error}") from None
    if len(unpacked) != member.size or zlib.crc32(unpacked) != member.crc:
        raise ImageError(f"{name} cannot be read: it does not match its checksum")
    return unpacked


def _unpack(packed: bytes, size: int, method: int) -> bytes:
    """At most one byte more than the directory says: a member that lies about its size is no bomb."""
    if method == zipfile.ZIP_STORED:
        return packed
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
