"""What stands beside the pixels never decides whether a picture is read; its orientation is applied once."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from torchvision.io import decode_png

from inceptionv4.config import AugmentConfig
from inceptionv4.data.augment import sample_generator, training_view
from inceptionv4.data.decode import decode
from inceptionv4.data.index import read_dataset
from inceptionv4.data.jpeg import open_jpeg
from inceptionv4.data.metadata import read_orientation
from inceptionv4.data.tools.doctor import examine
from inceptionv4.data.tools.pack import pack, shrink
from inceptionv4.spec import Preprocessing

PIXELS = np.add.outer(np.arange(60), 2 * np.arange(90)).astype(np.uint8)[..., None] * np.array([1, 0, 1], np.uint8)
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF"]


def photograph(format: str, tag: int | None, pixels: np.ndarray = PIXELS) -> bytes:
    exif = Image.Exif()
    if tag is not None:
        exif[0x0112] = tag
    output = io.BytesIO()
    options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    Image.fromarray(pixels).save(output, format, exif=exif, **options)
    return output.getvalue()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tag", range(1, 9))
def test_the_orientation_is_applied_once(format: str, tag: int) -> None:
    """Pillow is asked: it turns by its own reading of the tag."""
    content, plain = photograph(format, tag), photograph(format, None)
    assert read_orientation(content) == tag
    with Image.open(io.BytesIO(plain)) as image:
        stored = image.convert("RGB")
    marked = stored.copy()
    marked.getexif()[0x0112] = tag
    upright = np.asarray(ImageOps.exif_transpose(marked))
    assert np.array_equal(np.asarray(decode(content, "x")), upright)
    assert np.array_equal(np.asarray(decode(content, "x", exif_orientation=False)), np.asarray(stored))
    view = training_view(
        content,
        "x",
        Preprocessing(size=75),
        AugmentConfig(area=(1, 1), aspect=(1, 1), flip=0),
        sample_generator(0, 0, 0),
    )
    assert view.pixels.shape == (3, 75, 75)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tag", range(1, 9))
def test_what_is_packed_smaller_shows_what_the_source_shows(tmp_path: Path, format: str, tag: int) -> None:
    content = photograph(format, tag)
    smaller = shrink(content, "x", 30)
    assert smaller is not None
    ours, theirs = decode(smaller, "x"), decode(content, "x")
    assert ours.size == ((30, 45) if tag > 4 else (45, 30))
    assert (
        np.abs(np.asarray(ours, float) - np.asarray(theirs.resize(ours.size, Image.Resampling.BOX), float)).mean() < 3
    )
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "data" / label / f"{number}.x.{format.lower()}").write_bytes(content)
    pack(str(tmp_path / "data"), tmp_path / "shards", short_side=30, workers=1)
    samples = read_dataset(tmp_path / "shards").all()
    assert {decode(samples.read(row), "x").size for row in range(4)} == {ours.size}


@pytest.mark.parametrize(("mode", "kept"), [("RGB", True), ("CMYK", False), ("L", False)])
def test_a_profile_of_other_colours_is_not_kept(mode: str, kept: bool) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = {"RGB": b"RGB ", "CMYK": b"CMYK", "L": b"GRAY"}[mode]
    output = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(output, "JPEG", icc_profile=bytes(profile))
    smaller = shrink(output.getvalue(), "x", 30)
    assert smaller is not None
    with Image.open(io.BytesIO(smaller)) as image:
        assert image.mode == "RGB"
        assert ("icc_profile" in image.info) == kept


def tiff(entries: list[tuple[int, int, int, bytes]], order: str = "<", tail: bytes = b"") -> bytes:
    """A TIFF of one directory; values are four bytes each."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    return head + struct.pack(order + "H", len(entries)) + b"".join(
        struct.pack(order + "HHL", tag, kind, count) + value for tag, kind, count, value in entries
    ) + struct.pack(order + "L", 0) + tail  # fmt: skip


def with_segment(marker: int, body: bytes) -> bytes:
    content = photograph("JPEG", None)
    return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + content[2:]


SIX = (0x0112, 3, 1, b"\6\0\0\0")
ODD: dict[str, tuple[bytes, int]] = {
    "plain": (tiff([SIX]), 6),
    "big-endian": (tiff([(0x0112, 3, 1, b"\0\6\0\0")], ">"), 6),
    "long": (tiff([(0x0112, 4, 1, b"\6\0\0\0")]), 6),
    "rational beyond": (tiff([SIX, (0x011A, 5, 1, b"\xff\xff\xff\x7f")]), 6),
    "over zero": (tiff([SIX, (0x011A, 10, 1, struct.pack("<L", 38))], tail=struct.pack("<ll", -1, 0)), 6),
    "unknown type": (tiff([SIX, (0x9999, 99, 1, b"    ")]), 6),
    "loop": (tiff([SIX, (0x8769, 4, 1, b"\10\0\0\0")]), 6),
    "many promised": (tiff([SIX])[:8] + b"\xff\xff" + tiff([SIX])[10:], 6),
    "twice": (b"Exif\0\0" + tiff([SIX]), 6),
    "nine": (tiff([(0x0112, 3, 1, b"\t\0\0\0")]), 1),
    "none": (tiff([(0x0112, 3, 0, b"\6\0\0\0")]), 1),
    "two": (tiff([(0x0112, 3, 2, b"\6\0\6\0")]), 1),
    "text": (tiff([(0x0112, 2, 2, b"6\0\0\0")]), 1),
    "garbage": (b"garbage", 1),
    "cut": (tiff([SIX])[:12], 1),
    "directory beyond": (b"II*\0\xff\xff\xff\xff" + bytes(20), 1),
    "empty": (b"", 1),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_exif_turns_or_does_not_and_never_raises(case: str) -> None:
    exif, expected = ODD[case]
    chunk = struct.pack(">L", len(exif)) + b"eXIf" + exif + struct.pack(">L", zlib.crc32(b"eXIf" + exif))
    png = photograph("PNG", None)
    for content in (with_segment(0xE1, b"Exif\0\0" + exif), png[:33] + chunk + png[33:]):
        assert read_orientation(content) == expected
        assert decode(content, "x").size == ((60, 90) if expected == 6 else (90, 60))
    jpeg = open_jpeg(with_segment(0xE1, b"Exif\0\0" + exif))
    assert jpeg is not None
    assert jpeg.size == ((60, 90) if expected == 6 else (90, 60))


def chunk(kind: bytes, body: bytes, sound: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) ^ (not sound)
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", checksum)


SIDE_CHUNKS = [
    chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(4 << 20))),
    chunk(b"iCCP", b"p\0\0no deflate"),
    chunk(b"zTXt", b"w\0\0" + zlib.compress(b"node " * 10**6)),
    chunk(b"iTXt", b"w\0\1\0\0\0" + zlib.compress(b"node " * 10**6)),
    chunk(b"tEXt", b"w\0" + b"x" * (2 << 20)) * 40,
    chunk(b"tEXt", b"no separator"),
    chunk(b"tIME", bytes(7), sound=False),
    chunk(b"tRNS", b"\0\1", sound=False),
    chunk(b"eXIf", b"garbage!"),
    chunk(b"pHYs", b"\0"),
    chunk(b"gAMA", b""),
    chunk(b"sRGB", b""),
    chunk(b"prVt", bytes(1000)),
    chunk(b"acTL", bytes(8)) + chunk(b"fcTL", bytes(26)),
]


@pytest.mark.filterwarnings("ignore:The image decoding and encoding")  # of torchvision, which names another package
@pytest.mark.parametrize("number", range(len(SIDE_CHUNKS)))
def test_side_chunks_of_a_png_change_nothing(number: int) -> None:
    png = photograph("PNG", None)
    content = png[:33] + SIDE_CHUNKS[number] + png[33:]
    ours = np.asarray(decode(content, "x"))
    assert np.array_equal(ours, PIXELS)
    if number not in (6, 13):  # torchvision's reader refuses a wrong checksum, and an animation without frames
        theirs = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()
        assert np.array_equal(ours, theirs[..., :3])


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xEC, 0xFE])
@pytest.mark.parametrize("body", [b"", b"MPF\0garbage", b"ICC_PROFILE\0\1\1garbage", b"Photoshop 3.0\0" + b"8BIM" * 5])
def test_side_segments_of_a_jpeg_change_nothing(marker: int, body: bytes) -> None:
    plain = np.asarray(decode(photograph("JPEG", None), "x"))
    assert np.array_equal(np.asarray(decode(with_segment(marker, body), "x")), plain)


@pytest.mark.parametrize("kind", [b"ICCP", b"EXIF", b"XMP "])
def test_side_chunks_of_a_webp_change_nothing(kind: bytes) -> None:
    output = io.BytesIO()
    Image.fromarray(PIXELS).save(output, "WEBP", lossless=True, exif=b"Exif\0\0" + tiff([SIX]), icc_profile=b"x" * 200)
    content = output.getvalue()
    assert decode(content, "x").size == (60, 90)
    place = content.find(kind) + 8
    broken = content[:place] + b"\xff" * 20 + content[place + 20 :] if place > 8 else content
    assert decode(broken, "x").size == ((90, 60) if kind == b"EXIF" else (60, 90))


def with_tags(tags: list[tuple[int, int, int, bytes]]) -> bytes:
    """An uncompressed TIFF of `PIXELS` with further tags, in the order given."""
    height, width, _ = PIXELS.shape
    count = 9 + len(tags)
    start = 8 + 2 + 12 * count + 4
    extra, entries = b"", []
    for tag, kind, values, value in tags:
        if len(value) > 4:
            extra, value = extra + value, struct.pack("<L", start + len(extra))
        entries.append((tag, kind, values, value.ljust(4, b"\0")))
    bits, pixels = start + len(extra), start + len(extra) + 6
    number = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, pixels),
    ]
    number += [(277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, PIXELS.size)]
    entries += [(tag, kind, values, struct.pack("<L", value)) for tag, kind, values, value in number]
    entries.sort(key=lambda entry: entry[0])
    return tiff(entries, tail=extra + struct.pack("<HHH", 8, 8, 8) + PIXELS.tobytes())


XMP_SIX = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    ("tags", "turned"),
    [
        ([SIX], True),
        ([(0x0112, 4, 1, b"\6\0\0\0")], True),
        ([SIX, (0x0112, 3, 1, b"\3\0\0\0")], True),  # the first one counts
        ([(0x0112, 3, 2, b"\6\0\6\0")], False),
        ([(0x0112, 5, 1, struct.pack("<LL", 6, 1))], False),
        ([(0x0112, 11, 1, struct.pack("<f", 6))], False),
        ([(0x02BC, 1, len(XMP_SIX), XMP_SIX)], False),
    ],
)
def test_a_tiff_is_turned_by_its_tag_alone_and_only_if_wanted(
    tags: list[tuple[int, int, int, bytes]], turned: bool
) -> None:
    content = with_tags(tags)
    assert np.array_equal(np.asarray(decode(content, "x", exif_orientation=False)), PIXELS)
    upright = np.rot90(PIXELS, -1) if turned else PIXELS
    assert np.array_equal(np.asarray(decode(content, "x")), upright)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_exif_of_nothing_but_beginnings_takes_no_time(format: str) -> None:
    exif = b"Exif\0\0" * 10**6
    if format == "PNG":
        png = photograph("PNG", None)
        content = png[:33] + chunk(b"eXIf", exif) + png[33:]
    else:
        content = photograph("WEBP", None)
        content += b"EXIF" + struct.pack("<L", len(exif)) + exif
    start = time.monotonic()
    assert read_orientation(content) == 1
    assert time.monotonic() - start < 1  # it took minutes, as each was cut off by itself


def test_fill_bytes_before_a_marker_hide_no_orientation() -> None:
    content = with_segment(0xE1, b"Exif\0\0" + tiff([SIX]))
    content = content[:2] + b"\xff" * 5 + content[2:]
    assert decode(content, "x").size == (60, 90)
    jpeg = open_jpeg(content)
    assert jpeg is not None
    assert jpeg.size == (60, 90)


def test_the_doctor_counts_what_the_loader_turns(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number, format in enumerate(FORMATS):
            (tmp_path / label / f"{number}.{format.lower()}").write_bytes(photograph(format, 6))
    assert examine(tmp_path).kinds["turned by EXIF"] == 8
