"""JPEG files of many scans, of a few bytes each, written marker by marker (ITU-T T.81, annex B and G)."""

from __future__ import annotations

import struct


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def pack_bits(bits: str) -> bytes:
    """Of whole bytes, none of which is FF."""
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def grey_jpeg(side: int, scans: int, *, before: bytes = b"", between: bytes = b"", after: bytes = b"") -> bytes:
    """A picture of one grey, progressive: a scan for its light, and all others say that nothing refines it.

    The other bytes come before the frame, after the first scan and after the end.
    """
    blocks = (-(-side // 8)) ** 2
    return b"".join(
        (
            b"\xff\xd8",
            before,
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"),
            segment(0xC4, b"\x00" + b"\1" + bytes(15) + b"\0"),  # DC: the bit 0 is "as the block before"
            segment(0xC4, b"\x10" + b"\1" + bytes(15) + b"\xe0"),  # AC: the bit 0 is "nothing in 2^14 blocks and more"
            segment(0xDA, b"\1\1\0" + b"\0\0\1"),
            pack_bits("0" * blocks),
            between,
            (segment(0xDA, b"\1\1\0" + b"\1\x3f\x10") + pack_bits("0" + "1" * 14) * (-(-blocks // 32767)))
            * (scans - 1),
            b"\xff\xd9",
            after,
        )
    )
