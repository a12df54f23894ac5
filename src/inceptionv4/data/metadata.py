"""What stands beside the pixels of an image file: the orientation is read, and nothing else has a say.

A camera's EXIF, a profile, a comment or a preview may be odd or damaged in a file whose picture every viewer shows. So
the orientation tag is read here, by one function for training, evaluation and answers, and whatever the decoder does
not need for the pixels is taken away before it sees the file. Nothing is inflated, and no length is trusted.

Sources: EXIF 2.32 (JEITA CP-3451), TIFF 6.0 section 2, PNG (third edition) section 5, WebP's container (RFC 9649).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
EXIF = b"Exif\0\0"
ORIENTATION = 0x0112
XMP = 0x02BC
SHORT, UNDEFINED = 3, 7
UPRIGHT = 1
INTEGERS = {1: "B", 3: "H", 4: "L", 8: "h", 9: "l"}
"""TIFF's types of whole numbers, and how `struct` calls them: BYTE, SHORT, LONG, SSHORT, SLONG."""
MOST_ENTRIES = 0xFFFF
"""The number of entries of a TIFF directory that are read: as many as a classic one has at most."""
NEEDED = frozenset([0xE0, 0xEE])
"""The application segments of a JPEG that are kept: JFIF's and Adobe's, which say how colours are stored."""
START_OF_SCAN, COMMENT = 0xDA, 0xFE
SIDE_CHUNKS = (b"ICCP", b"EXIF", b"XMP ")
SIDE_FLAGS = 0x20 | 0x08 | 0x04
"""WebP's announcements of these three."""


def read_orientation(content: bytes) -> int:
    """How the picture is to be turned, 1 to 8 (EXIF 2.32, tag 0x0112); 1, upright, where no file says so.

    It counts if it is one whole number in this range. XMP and texts of other programs do not count.
    """
    exif = next(_exif_blocks(content), b"")
    tiff = exif.removeprefix(EXIF).removeprefix(EXIF)  # some programs write it twice
    for kind, count, place, order in _entries(tiff, (ORIENTATION,)):
        if kind in INTEGERS and count == 1:
            (value,) = struct.unpack_from(order + INTEGERS[kind], tiff, place)
            return int(value) if 1 <= value <= 8 else UPRIGHT
        break
    return UPRIGHT


def without_side_data(content: bytes) -> bytes:
    """The file without what the pixels do not depend on.

    Pillow turns a TIFF by itself, so what its tags and its XMP say of the orientation becomes upright.
    """
    if content.startswith(JPEG):
        return _plain_jpeg(content)
    if content.startswith(PNG):
        return _plain_png(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _plain_webp(content)
    if content.startswith(TIFFS):
        return _upright_tiff(content)
    return content


def _exif_blocks(content: bytes) -> Iterator[bytes]:
    if content.startswith(JPEG):
        yield from (content[start + 4 : end] for start, end in _segments(content) if _is_exif(content, start))
    elif content.startswith(PNG):
        for kind, start, end in _png_chunks(content):
            if kind == b"eXIf" and _is_sound(content, start, end):
                yield content[start + 8 : end - 4]
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        yield from (content[start + 8 : end] for kind, start, end in _riff_chunks(content) if kind == b"EXIF")
    elif content.startswith(TIFFS):
        yield content


def _is_exif(content: bytes, start: int) -> bool:
    return content[start + 1] == 0xE1 and content.startswith(EXIF, start + 4)


def _entries(tiff: bytes, tags: tuple[int, ...]) -> Iterator[tuple[int, int, int, str]]:
    """The entries of some tags in the first directory of a TIFF: type, number of values, where the value stands, and
    the order of bytes as `struct` calls it.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "")
    if not order or len(tiff) < 16:
        return
    is_big = tiff[2:4] in (b"+\0", b"\0+")
    entry = struct.Struct(f"{order}HHQ" if is_big else f"{order}HHL")
    size = 20 if is_big else 12
    (start,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}L", tiff, 8 if is_big else 4)
    if start + 8 > len(tiff):
        return
    (count,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}H", tiff, start)
    start += 8 if is_big else 2
    for position in range(start, min(start + size * min(count, MOST_ENTRIES), len(tiff) - size + 1), size):
        tag, kind, values = entry.unpack_from(tiff, position)
        if tag in tags:
            yield kind, values, position + entry.size, order


def _upright_tiff(content: bytes) -> bytes:
    """With one SHORT, upright, or one byte in each entry by which Pillow might turn the picture."""
    changed = bytearray(content)
    number = "Q" if content[2:4] in (b"+\0", b"\0+") else "L"
    for tag, kind in ((ORIENTATION, SHORT), (XMP, UNDEFINED)):
        for _, _, place, order in _entries(content, (tag,)):
            before = struct.calcsize(f"{order}H{number}")
            value = UPRIGHT if tag == ORIENTATION else 0
            struct.pack_into(f"{order}H{number}HH", changed, place - before, kind, 1, value, 0)
    return bytes(changed)


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """The start and the end of each segment of a JPEG's header, up to its first scan (ITU-T T.81, B.1.1)."""
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF and content[start + 1] != START_OF_SCAN:
        if content[start + 1] == 0xFF:  # any number of these may stand before a marker (B.1.1.2)
            start += 1
            continue
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if end < start + 4 or end > len(content):
            return
        yield start, end
        start = end


def _plain_jpeg(content: bytes) -> bytes:
    parts, kept = [], 0
    for start, end in _segments(content):
        marker = content[start + 1]
        if marker == COMMENT or (0xE0 <= marker <= 0xEF and marker not in NEEDED):
            parts.append(content[kept:start])
            kept = end
    return b"".join([*parts, content[kept:]]) if parts else content


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, where it starts, and where it ends with its checksum."""
    start = len(PNG)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            return
        yield content[start + 4 : start + 8], start, end
        start = end


def _is_sound(content: bytes, start: int, end: int) -> bool:
    """True if a chunk of a PNG has the checksum that it says."""
    return zlib.crc32(content[start + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")


def _plain_png(content: bytes) -> bytes:
    """Without ancillary chunks, whose names begin with a small letter, but a sound tRNS, which says what is clear."""
    parts, kept = [], 0
    for kind, start, end in _png_chunks(content):
        if kind[0] & 0x20 and not (kind == b"tRNS" and _is_sound(content, start, end)):
            parts.append(content[kept:start])
            kept = end
    return b"".join([*parts, content[kept:]]) if parts else content


def _riff_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk of a WebP, where it starts, and where it ends without the byte that makes it even."""
    start = 12
    while start + 8 <= len(content):
        end = start + 8 + int.from_bytes(content[start + 4 : start + 8], "little")
        if end > len(content):
            return
        yield content[start : start + 4], start, end
        start = end + (end & 1)


def _plain_webp(content: bytes) -> bytes:
    parts, kept = [], 12
    for kind, start, end in _riff_chunks(content):
        if kind == b"VP8X" and end > start + 8:
            flags = content[start + 8] & ~SIDE_FLAGS
            parts += [content[kept : start + 8], bytes([flags])]
            kept = start + 9
        elif kind in SIDE_CHUNKS:
            parts.append(content[kept:start])
            kept = end + (end & 1)
    if not parts:
        return content
    body = b"".join([*parts, content[kept:]])
    return b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body
