"""JPEG files of many scans, each of which a decoder takes over the whole picture, however few bytes it has."""

from __future__ import annotations

import re

MAX_SCANNED_PIXELS = 2**32
"""Pixels times scans: 32 scans of the largest picture that is decoded, 358 of 12 megapixels.

A progressive file has 10 scans for the colours of a photograph and 18 for those of print, by libjpeg's own scripts.
A scan without content was seen to take 0.1 to 1 ns a pixel, and one of an arithmetic code 1.5 ns, so that the longest
file takes some 7 s.
"""

SCAN_BYTES = 10
"""The shortest: a header that names one component, without content."""
HEADER_SEGMENTS = 64
"""Before the first scan: more than cameras write."""
OTHER_SEGMENTS = 4096
"""Of metadata, beside each scan with a table of its own: to read through a file of nothing else would take 10 s."""

MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""A segment with a length (ITU-T T.81, table B.1), or the end: restarts, FF 00 and all below are neither."""
FRAMES = {bytes([code]) for code in range(0xC0, 0xD0)} - {b"\xc4", b"\xc8", b"\xcc"}
PROGRESSIVE = {b"\xc2", b"\xc6", b"\xca", b"\xce"}
"""Of the frame headers."""
START_OF_SCAN = b"\xda"
END_OF_IMAGE = b"\xd9"


def has_too_many_scans(content: bytes, pixels: int) -> bool:
    """Whether the first picture in `content`, a JPEG of that many pixels, is above `MAX_SCANNED_PIXELS`."""
    most = MAX_SCANNED_PIXELS // pixels
    if len(content) < SCAN_BYTES * most or _has_one_scan(content):
        return False
    # Few files need be read marker by marker: here, thumbnails and what lies behind the picture count, too.
    if content.count(b"\xff" + START_OF_SCAN) <= most:
        return False
    position, scans = 2, 0
    for _ in range(2 * most + OTHER_SEGMENTS):
        found = MARKER.search(content, position)
        if found is None or found[1] == END_OF_IMAGE:
            return False
        scans += found[1] == START_OF_SCAN
        if scans > most:
            return True
        position = found.end() + max(int.from_bytes(content[found.end() : found.end() + 2], "big"), 2)
    return True


def _has_one_scan(content: bytes) -> bool:
    """Whether the first scan has all of the picture, so that a decoder takes no other: libjpeg refuses a second."""
    position, frame, components = 2, b"", 0
    for _ in range(HEADER_SEGMENTS):
        found = MARKER.search(content, position)
        if found is None or found.end() + 8 > len(content):
            return False
        if found[1] == START_OF_SCAN:
            return frame != b"" and frame not in PROGRESSIVE and content[found.end() + 2] == components
        if found[1] in FRAMES:
            frame, components = found[1], content[found.end() + 7]
        position = found.end() + max(int.from_bytes(content[found.end() : found.end() + 2], "big"), 2)
    return False
