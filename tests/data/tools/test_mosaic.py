"""Mosaics: each picture where it belongs, in its own shape, whatever its caption."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from inceptionv4.data.tools.mosaic import GAP, LINE, TILE, mosaic


def tile(picture: Image.Image, number: int, columns: int) -> np.ndarray:
    left = GAP + number % columns * (TILE + GAP)
    top = GAP + number // columns * (TILE + LINE + GAP)
    return np.asarray(picture.crop((left, top, left + TILE, top + TILE)))


def test_pictures_lie_in_order_and_keep_their_shape() -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sizes = [(300, 100), (100, 300), (8, 8)]
    pictures = [Image.new("RGB", size, color) for size, color in zip(sizes, colors, strict=True)]
    canvas = mosaic([(picture, "it") for picture in pictures], columns=2)
    assert canvas.size == (2 * (TILE + GAP) + GAP, 2 * (TILE + LINE + GAP) + GAP)
    for number, (color, (width, height)) in enumerate(zip(colors, sizes, strict=True)):
        rows, columns = np.nonzero((tile(canvas, number, 2) == color).all(axis=2))
        shown = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert shown == pytest.approx((TILE * width / max(width, height), TILE * height / max(width, height)), abs=1)


@pytest.mark.parametrize("caption", ["", "a" * 500, "日本", "caf\udce9", "two\nlines", "\x00"])
def test_any_caption_is_drawn_below_its_own_tile(caption: str) -> None:
    canvas = np.asarray(mosaic([(None, ""), (Image.new("RGB", (9, 9)), caption), (None, "")], columns=3))
    nothing = np.asarray(mosaic([(None, ""), (Image.new("RGB", (9, 9)), ""), (None, "")], columns=3))
    changed = np.nonzero((canvas != nothing).any(axis=(0, 2)))[0]
    own = range(GAP + TILE + GAP - 2, GAP + 2 * TILE + GAP + 2)
    assert set(changed.tolist()) <= set(own)


def test_what_cannot_be_decoded_says_so() -> None:
    blank = tile(mosaic([(Image.new("RGB", (1, 1), "#e9e9ec"), "")]), 0, 1)
    assert (tile(mosaic([(None, "")]), 0, 1) != blank).sum() > 200
