"""Bytes to an RGB picture, whatever the file: by its content, never by its name."""

from __future__ import annotations

import io
import struct
import warnings

from PIL import Image, UnidentifiedImageError

from inceptionv4.data.depths import ADVICE, load
from inceptionv4.data.metadata import PNG, TIFFS, read_orientation, without_side_data
from inceptionv4.data.scans import MAX_SCANNED_PIXELS, has_too_many_scans
from inceptionv4.errors import ImageError

# Our own limit of pixels is checked; damaged metadata and palettes with transparency are no news to a user. The filter
# stands for the whole process: `catch_warnings` around each image would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Decoders that are tried. Pillow knows more, some of which start other programs."""

DAMAGE = (
    OSError, SyntaxError, ValueError, LookupError, EOFError, ArithmeticError, AttributeError, TypeError,
    RuntimeError, MemoryError, struct.error,
)  # fmt: skip
"""What Pillow raises on damaged files, each decoder its own."""

JPEG = b"\xff\xd8\xff"
"""How such a file begins."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From stored to upright, by EXIF orientation."""

SIGNATURES = (JPEG, PNG, b"RIFF", b"GIF8")
"""How files of formats that are read begin, as far as nothing else begins so."""

MAX_PIXELS = 2**27
"""134 million, 400 MB of RGB: above every camera, below what exhausts a small machine."""
MAX_ASPECT = 1000
"""Longer side over the shorter one. Resized by its shorter side, a file of a few bytes would become gigabytes."""


def decode(content: bytes, name: str, *, exif_orientation: bool = True) -> Image.Image:
    """The first picture in `content`, in mode RGB, upright if `exif_orientation`; `name` is what errors call it.

    Transparency is dropped, as everywhere in the field: what lies under it counts. Colours of more than 8 bits are
    scaled to 8 (`depths.py`).

    Raises:
        ImageError: empty, of no known format, truncated, damaged, or above `MAX_PIXELS`, `MAX_ASPECT` or
            `MAX_SCANNED_PIXELS`.
    """
    if not content:
        raise ImageError(f"{name} is empty")
    try:
        image = open_image(content)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"{name} has {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ImageError(f"{name} has {width} x {height} pixels: one side is over {MAX_ASPECT:,} times the other")
        if content.startswith(JPEG) and has_too_many_scans(content, width * height):
            most = MAX_SCANNED_PIXELS // (width * height)
            raise ImageError(
                f"{name} has {width} x {height} pixels in over {most:,} scans; the limit is {most:,} for that size; "
                "save it anew, not progressive"
            )
        load(image)
        picture = _to_rgb(image)
        turn = TURNS.get(read_orientation(content)) if exif_orientation else None
        return picture if turn is None else picture.transpose(turn)
    except UnidentifiedImageError:
        raise ImageError(f"{name} {_unknown(content)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has too many pixels; the limit is {MAX_PIXELS:,}") from None
    except DAMAGE as error:
        raise ImageError(f"{name} cannot be decoded: {error}") from None


def open_image(content: bytes) -> Image.Image:
    """The first picture in `content`, not decoded yet, as Pillow opens it without what stands beside the pixels.

    Raises:
        UnidentifiedImageError: its format is none of `FORMATS`.
        Exception: one of `DAMAGE`.
    """
    return Image.open(io.BytesIO(without_side_data(content)), formats=FORMATS)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _unknown(content: bytes) -> str:
    """What to say of a file that no decoder takes."""
    if content.startswith(TIFFS):
        return f"is a TIFF with damaged tags, or of pixels that cannot be read here; {ADVICE}"
    if content.startswith(SIGNATURES):
        return "cannot be decoded: its header is damaged or cut short"
    return f"is no image: its content is none of {', '.join(FORMATS)}"
