"""Many pictures as one, for people: tiles of equal size, each with a line of words below it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

TILE, GAP, LINE = 144, 10, 20
FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf")
BACKGROUND, FRAME, INK = "#ffffff", "#e9e9ec", "#26262b"


def mosaic(tiles: Sequence[tuple[Image.Image | None, str]], columns: int = 8) -> Image.Image:
    """Lay out pictures with their captions, row by row; None stands for one that cannot be shown.

    A picture keeps its shape inside of its square tile. Small ones are enlarged pixel by pixel.
    """
    columns = max(min(columns, len(tiles)), 1)
    rows = -(-len(tiles) // columns)
    width, height = TILE + GAP, TILE + LINE + GAP
    canvas = Image.new("RGB", (columns * width + GAP, rows * height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = _font(13)
    for number, (picture, caption) in enumerate(tiles):
        left, top = GAP + number % columns * width, GAP + number // columns * height
        draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), FRAME)
        if picture is None:
            words, middle = "cannot be decoded", top + TILE // 2
            draw.text((left + TILE // 2, middle), words, INK, font, anchor="mm")
        else:
            enlarged = max(picture.size) <= TILE // 2
            method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            fitted = ImageOps.contain(picture, (TILE, TILE), method)
            canvas.paste(fitted, (left + (TILE - fitted.width) // 2, top + (TILE - fitted.height) // 2))
        draw.text((left + TILE // 2, top + TILE + LINE // 2 + 2), _shorten(caption, font), INK, font, anchor="mm")
    return canvas


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The first font here that has more than English letters."""
    fonts = list(FONTS)
    if (plots := find_spec("matplotlib")) is not None and plots.origin is not None:
        fonts.append(str(Path(plots.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"))
    for font in fonts:
        try:
            return ImageFont.truetype(font, size)
        except OSError:  # not installed
            continue
    return ImageFont.load_default(size)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or as much of its beginning as fits below a tile."""
    # The bytes of a file name may be no text, and what is printed may be no letter.
    text = "".join(letter if letter.isprintable() else "?" for letter in text.encode("utf-8", "replace").decode())
    if font.getlength(text) <= TILE:
        return text
    while font.getlength(text + "...") > TILE:
        text = text[:-1]
    return text + "..."
