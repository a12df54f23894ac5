"""Decoding: every mode and format against Pillow, upright photographs, and files that are not what they seem."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scans import grey_jpeg, segment

from inceptionv4.config import AugmentConfig
from inceptionv4.data.augment import sample_generator, training_view
from inceptionv4.data.decode import MAX_PIXELS, decode
from inceptionv4.data.scans import has_too_many_scans
from inceptionv4.errors import ImageError
from inceptionv4.spec import Preprocessing


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea())


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        *[(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        *[(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
        *[(mode, "WEBP") for mode in ("RGB", "RGBA")],
        *[(mode, "TIFF") for mode in ("L", "RGB", "CMYK")],
        *[(mode, "GIF") for mode in ("L", "P")],
        ("RGB", "BMP"),
        ("RGB", "PPM"),
    ],
)
def test_every_mode_becomes_the_rgb_that_pillow_sees(photograph: Image.Image, mode: str, format: str) -> None:
    content = encode(photograph.convert(mode), format)
    image = decode(content, "a")
    assert image.mode == "RGB"
    assert np.array_equal(image, Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_photographs_stand_upright(orientation: int, format: str) -> None:
    """The reference is EXIF's own table: which corner of the picture the first row and column of the file are."""
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[:8] = (250, 0, 0)
    upright[:, :4] = (0, 0, 250)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, quality=95, lossless=True)
    turned = np.asarray(decode(content, "a")).astype(int)
    assert turned.shape == upright.shape
    assert abs(turned - upright).mean() < 12
    as_stored = np.asarray(decode(content, "a", exif_orientation=False)).astype(int)
    assert as_stored.shape == stored.shape
    assert abs(as_stored - stored).mean() < 12


def test_the_content_counts_and_not_the_name(photograph: Image.Image) -> None:
    assert decode(encode(photograph, "PNG"), "n02105855_2933.JPEG").size == photograph.size


def test_an_animation_is_its_first_picture() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content, "a").getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_an_error_wherever_it_ends(photograph: Image.Image, format: str) -> None:
    content = encode(photograph, format)
    for part in range(20):
        with pytest.raises(ImageError, match=r"^cat\.jpg "):
            decode(content[: len(content) * part // 20], "cat.jpg")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello, I am no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_what_is_no_image_is_an_error_that_names_it(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^some/file\.png (is empty|is no image|cannot be decoded)"):
        decode(content, "some/file.png")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (12_000, 20_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
        with pytest.raises(ImageError, match="the limit is"):
            decode(content, "bomb.png")


def test_a_picture_that_is_all_length_is_refused_before_it_is_resized() -> None:
    """By its shorter side: of 60 kB of pixels, 21 GB."""
    for size in ((1, 20_000), (20_000, 1), (3, 3_001)):
        with pytest.raises(ImageError, match=rf"it has {size[0]} x {size[1]} pixels: one side is over 1,000 times"):
            decode(encode(Image.new("RGB", size), "PNG"), "it")
    assert decode(encode(Image.new("RGB", (3, 3_000)), "PNG"), "it").size == (3, 3_000)


def refusal(content: bytes) -> str:
    """What decoding says, which training says, too, of a box down to the last row; empty if both take it."""
    augment = AugmentConfig(area=(1, 1))
    said = []
    for read in (
        lambda: decode(content, "it"),
        lambda: training_view(content, "it", Preprocessing(size=75), augment, sample_generator(0, 0, 0)),
    ):
        try:
            read()
            said.append("")
        except ImageError as error:
            said.append(str(error))
    assert said[0] == said[1]
    return said[0]


def test_a_jpeg_of_more_scans_than_its_size_allows_is_refused_before_they_are_decoded() -> None:
    """Each of ten bytes goes over all of the picture: an hour of them would fit an upload."""
    start = time.perf_counter()
    assert "it has 8000 x 8000 pixels in over 67 scans; the limit is 67 for that size" in refusal(grey_jpeg(8000, 68))
    assert time.perf_counter() - start < 1
    assert refusal(grey_jpeg(1000, 68)) == ""
    assert refusal(grey_jpeg(64, 20_000)) == ""


def test_scans_hidden_where_a_decoder_finds_them_count() -> None:
    many = grey_jpeg(8000, 68)
    reserved = b"\xff\x02\x7f\xff"  # stands alone, says libjpeg where restarts are looked for: no length follows
    for between in (reserved, b"\xff\xff", b"garbage", b"\xff\xd0", segment(0xFE, b"\xff\xd9")):
        assert has_too_many_scans(grey_jpeg(8000, 68, between=between), 8000**2), between
    assert not has_too_many_scans(many, 8000**2 - 8000 * 200)


@pytest.mark.parametrize(("mode", "scans"), [("L", 6), ("RGB", 10), ("CMYK", 18)])
def test_every_progressive_file_has_fewer_scans_than_the_limit(photograph: Image.Image, mode: str, scans: int) -> None:
    content = encode(photograph.convert(mode), "JPEG", progressive=True)
    assert content.count(b"\xff\xda") == scans  # libjpeg's own scripts
    assert not has_too_many_scans(content, MAX_PIXELS)
    assert refusal(content) == ""


def test_previews_and_videos_within_a_photograph_are_none_of_its_scans() -> None:
    """A phone's file may have the thumbnail before the picture and a film behind it."""
    scan = b"\xff\xda" * 1000
    assert not has_too_many_scans(grey_jpeg(8000, 9, before=segment(0xE1, scan), after=scan), 8000**2)
    assert refusal(grey_jpeg(3000, 9, before=segment(0xE1, scan), after=scan)) == ""


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_of_a_picture_in_one_scan_no_second_is_decoded(photograph: Image.Image, mode: str) -> None:
    """So that its bytes need not be searched for any: libjpeg gives up at the second."""
    content = encode(photograph.convert(mode), "JPEG")
    whole = content.index(b"\xff\xda")
    again = content[:-2] + content[whole:-2] * 100 + content[-2:]
    assert not has_too_many_scans(again, MAX_PIXELS)
    assert "broken data stream" in refusal(again)
    progressive = content.replace(b"\xff\xc0", b"\xff\xc2")
    assert has_too_many_scans(progressive[:-2] + progressive[whole:-2] * 100 + progressive[-2:], MAX_PIXELS)
    assert refusal(content) == ""


def test_a_sequential_picture_with_a_scan_for_each_colour_is_searched(photograph: Image.Image) -> None:
    content = encode(photograph.convert("RGB"), "JPEG")
    scan = content.index(b"\xff\xda")
    one = content[:scan] + segment(0xDA, b"\1\1\0" + b"\0\x3f\0") + bytes(100)
    assert has_too_many_scans(one + segment(0xDA, b"\1\2\0" + b"\0\x3f\0") * 100, MAX_PIXELS)


def test_a_file_of_nothing_but_markers_is_not_read_to_its_end() -> None:
    start = time.perf_counter()
    assert has_too_many_scans(
        grey_jpeg(8000, 9, before=segment(0xFE, b"") * 2_000_000, after=b"\xff\xda" * 68), 8000**2
    )
    assert time.perf_counter() - start < 1
