"""Pixels of any depth against the closed form, round(value * 255 / maxval), on files that others than Pillow write."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from inceptionv4.data.decode import decode
from inceptionv4.data.depths import eight_bits
from inceptionv4.errors import ImageError

BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def values_of(bands: int, maxval: int = 65535, height: int = 300, width: int = 257) -> np.ndarray:
    """Random values, in which both ends occur, of more rows than are put together at once."""
    values = np.random.default_rng(bands).integers(0, maxval, (height, width, bands), np.int64, endpoint=True)
    values[0, 0], values[-1, -1] = 0, maxval
    return values.astype(np.uint16)


def closed_form(values: np.ndarray, maxval: int) -> np.ndarray:
    """Python's own arithmetic, exact."""
    table = np.array([round(Fraction(value * 255, maxval)) for value in range(maxval + 1)], np.uint8)
    eight: np.ndarray = table[values]
    return eight


def colours(eight: np.ndarray) -> np.ndarray:
    """Without alpha, and grey as three colours."""
    return eight[..., [0, 0, 0]] if eight.shape[-1] < 3 else eight[..., :3]


def decoded(content: bytes, **options: Any) -> np.ndarray:
    image = decode(content, "it", **options)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("maxval", [1, 2, 10, 15, 100, 255, 1023, 4095, 65535])
def test_values_are_rounded_exactly(maxval: int) -> None:
    assert np.array_equal(eight_bits(maxval), closed_form(np.arange(maxval + 1), maxval))


def png(values: np.ndarray, *, interlaced: bool = False) -> bytes:
    """A 16-bit PNG, whose rows use all five filters."""
    height, width, bands = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    body = bytearray()
    for top, left, down, across in passes:
        rows = np.ascontiguousarray(values[top::down, left::across]).astype(">u2")
        above = np.zeros(rows.shape[1] * bands * 2, np.int64)
        for number, row in enumerate(rows):
            line = np.frombuffer(row.tobytes(), np.uint8).astype(np.int64)
            filter = number % 4  # all but Paeth's, which Pillow's writer uses
            step = bands * 2
            before = np.concatenate([np.zeros(step, np.int64), line[:-step]])
            guess = (0 * line, before, above, (before + above) // 2)[filter]
            body += bytes([filter]) + ((line - guess) & 255).astype(np.uint8).tobytes()
            above = line

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(body))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", BANDS)
def test_png_of_16_bits(mode: str, interlaced: bool) -> None:
    values = values_of(BANDS[mode])
    content = png(values, interlaced=interlaced)
    libpng = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    assert np.array_equal(libpng.permute(1, 2, 0).numpy(), values), "the test writes another picture than it says"
    assert np.array_equal(decoded(content), colours(closed_form(values, 65535)))


def test_png_of_16_bits_that_pillow_writes() -> None:
    values = values_of(1)[..., 0]
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    assert np.array_equal(decoded(content.getvalue())[..., 0], closed_form(values, 65535))


def test_a_damaged_png_of_16_bits_is_an_error() -> None:
    content = png(values_of(3))
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ImageError, match=r"^it "):
            decode(content[: int(len(content) * share)], "it")


def tiff(values: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(content, values, **options)
    return content.getvalue()


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("layout", ["rows", "strips", "tiles"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_tiff_of_16_bits(mode: str, layout: str, byteorder: Any, compression: str | None) -> None:
    values = values_of(BANDS[mode])
    kinds: dict[str, dict[str, Any]] = {"rows": {}, "strips": {"rowsperstrip": 7}, "tiles": {"tile": (64, 64)}}
    kind = kinds[layout]
    if mode == "RGBA":
        kind["extrasamples"] = ["unassalpha"]
    content = tiff(
        values[..., 0] if mode == "L" else values,
        photometric="minisblack" if mode == "L" else "rgb",
        byteorder=byteorder,
        compression=compression,
        **kind,
    )
    assert np.array_equal(decoded(content), colours(closed_form(values, 65535)))


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_four_inks_and_16_bits(byteorder: Any) -> None:
    values = values_of(4)
    content = tiff(values, photometric="separated", byteorder=byteorder)
    inks = Image.fromarray(closed_form(values, 65535), "CMYK")
    assert np.array_equal(decoded(content), np.asarray(inks.convert("RGB")))


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_16_bits_with_a_fourth_value_that_is_no_alpha(byteorder: Any) -> None:
    values = values_of(4)
    content = tiff(values, photometric="rgb", extrasamples=["unspecified"], byteorder=byteorder)
    assert np.array_equal(decoded(content), closed_form(values, 65535)[..., :3])


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_imagej(byteorder: Any) -> None:
    values = values_of(1)[..., 0]
    content = tiff(values, imagej=True, byteorder=byteorder)
    assert np.array_equal(decoded(content)[..., 0], closed_form(values, 65535))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_white_is_zero_is_no_negative(bits: int) -> None:
    values = values_of(1, 2**bits - 1)[..., 0]
    content = tiff(values.astype(f"<u{bits // 8}"), photometric="miniswhite")
    assert np.array_equal(decoded(content)[..., 0], 255 - closed_form(values, 2**bits - 1))


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_colours_that_were_multiplied_with_their_alpha_are_divided_by_it(byteorder: Any) -> None:
    values = values_of(4)
    alpha = np.maximum(values[..., 3:], 1).astype(float)
    multiplied = values.copy()
    multiplied[..., :3] = values[..., :3] * (alpha / 65535)
    content = tiff(multiplied, photometric="rgb", extrasamples=["assocalpha"], byteorder=byteorder)
    expected = np.minimum(np.rint(multiplied[..., :3] * 255 / alpha), 255)
    assert np.array_equal(decoded(content), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_tiff_of_16_bits_is_turned_once(orientation: int, mode: str) -> None:
    values = values_of(BANDS[mode], height=20, width=30)
    content = tiff(
        values[..., 0] if mode == "L" else values,
        photometric="minisblack" if mode == "L" else "rgb",
        extratags=[(274, "H", 1, orientation, True)],
    )
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    assert np.array_equal(decoded(content), colours(np.rot90(closed_form(values, 65535), turns)))


def test_tiff_of_12_bits() -> None:
    values = values_of(1, 4095, height=40, width=64)[..., 0]
    first, second = values.reshape(-1, 2).astype(np.int64).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    tags = {256: 64, 257: 40, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 40, 279: len(packed)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + packed
    assert np.array_equal(decoded(content)[..., 0], closed_form(values, 4095))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("maxval", [1, 2, 15, 100, 254, 255, 256, 1023, 4095, 65535])
def test_pgm_and_ppm_of_any_maxval(maxval: int, bands: int, plain: bool) -> None:
    values = values_of(bands, maxval, height=20, width=301)
    name = {(1, False): "P5", (3, False): "P6", (1, True): "P2", (3, True): "P3"}[bands, plain]
    head = f"{name}\n# of a camera\n301 20\n{maxval}\n".encode()
    if plain:
        lines = [" ".join(map(str, row)) for row in values.reshape(20, -1).tolist()]
        body = "\n# a comment, 1 2 3\n".join(lines).encode()
    else:
        body = values.astype(np.uint8 if maxval < 256 else ">u2").tobytes()
    assert np.array_equal(decoded(head + body), colours(closed_form(values, maxval)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"P5 2 1 1023\n\x04\x00\x00\x00", "values from 0 to 1024, and its maxval is 1023"),
        (b"P5 2 1 100\n\x65\x00", "values from 0 to 101, and its maxval is 100"),
        (b"P2 2 1 100\n7 101", "values from 7 to 101, and its maxval is 100"),
        (b"P2 2 1 100\n-1 4", "no whole numbers"),
        (b"P2 2 1 100\n7 4294967297", "its maxval is 100"),
        (b"P2 2 1 100\n7 1.5", "no whole numbers"),
        (b"P2 2 1 100\nnan 1", "no whole numbers"),
        (b"P2 2 1 100\n7 cat", "no whole numbers"),
        (b"P2 2 1 100\n7", "truncated"),
        (b"P6 2 1 1023\n" + bytes(11), "truncated"),
        (b"P5 2 1 65536\n" + bytes(11), "maxval"),
        (b"P5 2 1 0\n" + bytes(11), "maxval"),
        (b"Pf 2 1 -1.0\n" + bytes(8), "floating-point numbers"),
    ],
)
def test_a_pgm_that_is_not_what_its_header_says_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=rf"^it cannot be decoded: .*{said}|^it is no image"):
        decode(content, "it")


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("i1", "8-bit numbers with a sign"),
        ("i2", "16-bit numbers with a sign"),
        ("i4", "32-bit numbers with a sign"),
        ("u4", "32-bit numbers"),
        ("f4", "floating-point numbers"),
    ],
)
def test_numbers_of_no_stated_range_are_refused_with_advice(kind: str, said: str, byteorder: Any) -> None:
    content = tiff(np.arange(600).reshape(20, 30).astype(kind), byteorder=byteorder, photometric="minisblack")
    if kind == "u4" and byteorder == ">":
        said = "TIFF"  # of a kind that Pillow does not know
    with pytest.raises(ImageError, match=rf"^it .*{said}.*save it with 8 or 16 bits, unsigned"):
        decode(content, "it")


@pytest.mark.parametrize("kind", ["i2", "u4", "f4", "f8"])
def test_colours_of_no_stated_range_are_refused_with_advice(kind: str) -> None:
    with pytest.raises(ImageError, match=r"^it is a TIFF .*; save it with 8 or 16 bits, unsigned"):
        decode(tiff(values_of(3).astype(kind), photometric="rgb"), "it")


def test_tags_of_another_type_are_refused() -> None:
    content = bytearray(tiff(values_of(3, height=12, width=17), photometric="rgb", byteorder=">"))
    count = int.from_bytes(content[8:10], "big")
    [offsets] = [at for at in range(10, 10 + 12 * count, 12) if content[at : at + 2] == b"\x01\x11"]
    content[offsets + 2 : offsets + 4] = (2).to_bytes(2, "big")  # text, where the pixels are
    with pytest.raises(ImageError, match=r"^it cannot be decoded: its tags are damaged"):
        decode(bytes(content), "it")


def test_colours_in_planes_of_their_own_are_refused() -> None:
    for compression in (None, "zlib"):
        content = tiff(
            values_of(3).transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression=compression
        )
        with pytest.raises(ImageError, match="planes of their own; save it with 8 bits"):
            decode(content, "it")
