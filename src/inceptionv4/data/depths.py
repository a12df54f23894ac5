"""Pixels of any bit depth as 8 bits: round(value * 255 / maxval), with the maxval that the file's header states.

Pillow keeps the upper byte of 16-bit colours, shows a 16-bit TIFF whose white is zero as its negative, and rounds PGM
twice. Of such colours both bytes are decoded here, by two of Pillow's unpackers: the one for the other byte order gives
the lower byte.
"""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile

BITS, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 262, 284, 339
"""TIFF tags."""
WHITE_IS_ZERO, APART, SIGNED = 0, 2, 2
"""Values of the last three that matter here."""
ROWS = 256
"""Rows that are put together at once, so that a large picture is not held three times."""
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
ADVICE = "save it with 8 or 16 bits, unsigned"
COMMENT = re.compile(rb"#[^\r\n]*")
NO_NUMBER = re.compile(rb"[^0-9\s]")


def load(image: Image.Image) -> None:
    """Decode an opened image; what has more than 8 bits a colour then has 8.

    Raises:
        ValueError: its numbers are signed or of 32 bits, and no range is stated; or one is above the stated range; or
            tags are damaged.
        OSError: the file is truncated.
    """
    try:
        _load(image)
    except TypeError as error:
        raise ValueError(f"its tags are damaged ({error})") from error


def _load(image: Image.Image) -> None:
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    if not tiles or not isinstance(image, ImageFile.ImageFile):
        image.load()
        return
    if image.format == "TIFF":
        _refuse_tiff(image)
    raw_mode = _raw_mode(tiles[0])
    if image.format == "PPM" and tiles[0].codec_name in ("ppm", "ppm_plain") and image.mode != "1":
        _replace(image, _portable(image))
    elif image.mode in ("F", "I") and raw_mode != "I;16B":
        what = "floating-point numbers" if image.mode == "F" else "32-bit numbers"
        raise ValueError(f"its pixels are {what}, and it does not state which is white; {ADVICE}")
    elif image.mode.startswith("I"):
        _finish(image, lambda: _grey(image, 4095 if raw_mode == "I;12" else 65535))
    elif ";16" in raw_mode:
        _colours(image, raw_mode)
    image.load()


def eight_bits(maxval: int) -> np.ndarray:
    """What each value from 0 to `maxval` becomes: uint8 `(maxval + 1,)`; halves go to the even number."""
    return np.rint(np.arange(maxval + 1) * 255 / maxval).astype(np.uint8)


def _refuse_tiff(image: Any) -> None:
    tags = image.tag_v2
    bits = tags.get(BITS, (1,))[0]
    if tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED:
        raise ValueError(
            f"its pixels are {bits}-bit numbers with a sign, and it does not state which is black; {ADVICE}"
        )
    if bits > 8 and tags.get(PLANES, 1) == APART and len(image.getbands()) > 1:
        raise ValueError("its 16-bit colours lie in planes of their own; save it with 8 bits, or with them interleaved")


def _raw_mode(tile: Any) -> str:
    """How the decoder is told that pixels lie in the file."""
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_raw_mode(tiles: list[Any], raw_mode: str) -> list[Any]:
    return [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:])) for tile in tiles
    ]


def _replace(image: Any, other: Image.Image) -> None:
    """Give an image the pixels of another, decoded."""
    image.im, image._mode, image.tile = other.im, other.mode, []


def _as_stored(image: Any) -> Image.Image:
    """The pixels that were decoded: the image itself may already have the size of the upright picture."""
    stored: Image.Image = Image.Image()._new(image.im)
    return stored


def _finish(image: Any, make: Any) -> None:
    """Have `make`'s pixels put in when those of the file are decoded, before Pillow turns a TIFF upright."""
    end = image.load_end

    def replace_then_end() -> None:
        del image.load_end
        _replace(image, make())
        end()

    image.load_end = replace_then_end


def _grey(image: Any, maxval: int) -> Image.Image:
    values = np.asarray(_as_stored(image))
    table = eight_bits(maxval)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        table = table[::-1]
    return Image.fromarray(table[values])


def _colours(image: Any, raw_mode: str) -> None:
    kind, order = raw_mode.split(";16")
    upper, lower = raw_mode, f"{kind};16{OTHER_ORDER[order]}"
    if kind == "RGBa":
        # Pillow would divide each byte by itself.
        upper, lower = upper.replace("a", "A"), lower.replace("a", "A")
    if kind == "LA":
        # No other unpacker: the four bytes as they are.
        upper = lower = "RGBA"
    again = image
    if kind != "LA":
        again = type(image)(io.BytesIO(image.fp.getvalue()))
        again.tile = _with_raw_mode(again.tile, lower)
        again.load_end = lambda: None
        again.load()
    image.tile = _with_raw_mode(image.tile, upper)
    _finish(image, lambda: _together(kind, _as_stored(image), _as_stored(again)))


def _together(kind: str, upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Upper and lower bytes as one 8-bit image."""
    width, height = upper.size
    table = eight_bits(65535)
    made = Image.new("L" if kind == "LA" else upper.mode, upper.size)
    for top in range(0, height, ROWS):
        box = (0, top, width, min(top + ROWS, height))
        high = np.asarray(upper.crop(box)).astype(np.uint16) << 8
        if kind == "LA":
            both = high[..., 0] | (high[..., 1] >> 8)
        else:
            both = high | np.asarray(lower.crop(box))
        part = table[both]
        if kind == "RGBa":
            alpha = both[..., 3:].astype(np.float64)
            shown = np.rint(both[..., :3] * 255 / np.maximum(alpha, 1))
            part[..., :3] = np.minimum(shown, 255).astype(np.uint8)
        made.paste(Image.fromarray(part, made.mode), box)
    return made


def _portable(image: Any) -> Image.Image:
    """A PGM or PPM of any maxval: Pillow reads the header."""
    tile = image.tile[0]
    maxval, bands = int(tile.args[1]), len(image.getbands())
    count = image.width * image.height * bands
    content = image.fp.getbuffer()[tile.offset :]
    if tile.codec_name == "ppm":
        kind = np.dtype(np.uint8 if maxval < 256 else ">u2")
        values = np.frombuffer(content, kind, min(count, len(content) // kind.itemsize))
    else:
        text = COMMENT.sub(b"", bytes(content))
        if NO_NUMBER.search(text):
            raise ValueError("it has pixels that are no whole numbers; save it anew")
        # As float32, which is exact up to 2^24: integers would wrap unseen.
        values = np.fromstring(text, np.float32, sep=" ")[:count]
    if len(values) < count:
        raise OSError(f"image file is truncated ({len(values)} of {count} values)")
    if values.min() < 0 or values.max() > maxval:
        raise ValueError(
            f"it has values from {values.min():g} to {values.max():g}, and its maxval is {maxval}; save it anew"
        )
    shape = (image.height, image.width, bands) if bands > 1 else (image.height, image.width)
    return Image.fromarray(
        eight_bits(maxval)[values.astype(np.uint16)].reshape(shape), "L" if bands == 1 else image.mode
    )
