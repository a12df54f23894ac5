"""A region of a JPEG file, without the work that the rest of the picture would cost.

Two things are saved. Rows below the region are not decoded: the decoder is given the file with a frame header that
ends the picture there. And where the region has many more pixels than are asked for, it is decoded at 1/2, 1/4 or 1/8
of its size, by an inverse transform of fewer coefficients (the scales that libjpeg-turbo has SIMD code for). Unscaled
pixels equal Pillow's to the last bit; how far scaled ones are from them is measured in docs/data.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simplejpeg

from inceptionv4.data.decode import JPEG, MAX_PIXELS
from inceptionv4.data.metadata import read_orientation
from inceptionv4.data.scans import has_too_many_scans

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are the first ones outside."""

APP1 = 0xE1
BASELINE = (0xC0, 0xC1)
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of frame headers (ITU-T T.81, table B.1): the C series without tables."""
START_OF_SCAN = 0xDA
END_OF_IMAGE = b"\xff\xd9"
TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""From stored to upright by EXIF orientation: whether to swap axes, then to mirror left-right, then top-bottom."""

BELOW = 16
"""Rows decoded below a region: chroma is interpolated over the border between blocks, which are up to 16 rows high."""
SCALES = (8, 4, 2)
SPARE = 1.5
"""A region is decoded at 1/s only if that leaves this many times the pixels a side that are asked for.

With fewer, what the inverse transform cuts off at the new Nyquist frequency shows in the result (docs/data.md).
"""
HALVED = ((2, 2), (1, 1), (1, 1))
"""Sampling of luma and chroma in a 4:2:0 file, columns and rows."""


@dataclass(frozen=True)
class Jpeg:
    """What a JPEG file says before its pixels, and where."""

    content: bytes
    width: int
    height: int
    components: int
    baseline: bool
    height_at: int
    """Offset in `content` of the height, two bytes."""
    turn: tuple[bool, bool, bool] = TURNS[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return (self.height, self.width) if self.turn[0] else (self.width, self.height)

    @property
    def scalable(self) -> bool:
        """True if scaled decoding is near enough to full: of grey, 4:4:4 and 4:2:0.

        Where chroma has other resolutions in rows than in columns, as in 4:2:2, 4:4:0 and 4:1:1, libjpeg-turbo enlarges
        it in another way at some scales: a view differs by 0.8 to 2.2 grey levels on average, and by up to 4.
        """
        first = self.height_at + 6
        factors = self.content[first : first + 3 * self.components : 3]
        sampling = tuple((factor >> 4, factor & 15) for factor in factors)
        return len(set(sampling)) == 1 or sampling == HALVED

    def region(self, box: Box, least: int, *, scaled: bool) -> np.ndarray | None:
        """The pixels of `box`, a part of the upright picture: uint8 `(rows, columns, 3)`.

        If `scaled`, they may be fewer than the box has, but not fewer than `SPARE * least` a side. The box is first
        widened to whole blocks of the scale that suits it, `scaled` or not, so that the switch shifts nothing; a part
        of a block at the picture's edge is left out.

        None if the decoder has any complaint, or the colours are neither grey nor YCbCr: let Pillow be the judge.
        """
        if self.components not in (1, 3) or not self.content.endswith(END_OF_IMAGE):
            return None
        left, top, right, bottom = self._stored(box)
        shorter = min(right - left, bottom - top)
        scales = SCALES if self.scalable else ()
        scale = next((scale for scale in scales if shorter >= scale * SPARE * least), 1)
        left, top = left // scale, top // scale
        right, bottom = min(-(-right // scale), self.width // scale), min(-(-bottom // scale), self.height // scale)
        if not scaled:
            left, top, right, bottom = (edge * scale for edge in (left, top, right, bottom))
        pixels = self._decode(bottom, scale if scaled else 1)
        return None if pixels is None else self._upright(pixels[top:bottom, left:right])

    def _stored(self, box: Box) -> Box:
        """The box in the picture as it is stored."""
        swap, mirror, topple = self.turn
        left, top, right, bottom = box
        width, height = self.size
        if mirror:
            left, right = width - right, width - left
        if topple:
            top, bottom = height - bottom, height - top
        return (top, left, bottom, right) if swap else (left, top, right, bottom)

    def _upright(self, pixels: np.ndarray) -> np.ndarray:
        swap, mirror, topple = self.turn
        if swap:
            pixels = pixels.swapaxes(0, 1)
        if mirror:
            pixels = pixels[:, ::-1]
        if topple:
            pixels = pixels[::-1]
        return pixels.copy() if mirror or topple else pixels  # torch has no negative strides, not even of one column

    def _decode(self, rows: int, scale: int) -> np.ndarray | None:
        """The picture at 1/`scale` of its size, of which only the first `rows` rows are to be used."""
        content, height, whole = self.content, self.height, True
        last = rows * scale + BELOW
        if self.baseline and last < height:
            height, whole = last, False
            content = b"".join((content[: self.height_at], height.to_bytes(2, "big"), content[self.height_at + 2 :]))
        try:
            pixels: np.ndarray = simplejpeg.decode_jpeg(
                content,
                min_height=-(-height // scale),
                min_width=-(-self.width // scale),
                # Of a shortened picture libjpeg warns that bytes are left over.
                strict=whole,
            )
        except ValueError:
            return None
        return pixels


def open_jpeg(content: bytes, *, exif_orientation: bool = True) -> Jpeg | None:
    """Read the headers of a JPEG file; None if it is none, or none that can be read in parts."""
    if not content.startswith(JPEG):
        return None
    position, has_metadata = 2, False
    while position + 10 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # any number of these may stand before a marker
            position += 1
            continue
        if marker in FRAMES:
            height = int.from_bytes(content[position + 5 : position + 7], "big")
            width = int.from_bytes(content[position + 7 : position + 9], "big")
            if not 0 < height * width <= MAX_PIXELS or has_too_many_scans(content, height * width):
                return None
            turn = TURNS[read_orientation(content) if has_metadata and exif_orientation else 1]
            return Jpeg(content, width, height, content[position + 9], marker in BASELINE, position + 5, turn)
        if marker == START_OF_SCAN:
            return None
        has_metadata = has_metadata or marker == APP1
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None
