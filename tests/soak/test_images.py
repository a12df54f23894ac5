"""Mutated image files: training, evaluation, `predict`, `data doctor` and the server read each or refuse each."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from inceptionv4.config import AugmentConfig
from inceptionv4.data.augment import training_view
from inceptionv4.data.crops import evaluation_views
from inceptionv4.data.decode import FORMATS, decode
from inceptionv4.data.tools.doctor import _look
from inceptionv4.data.transforms import evaluation_crop
from inceptionv4.errors import ImageError
from inceptionv4.serving.batching import Decoder
from inceptionv4.spec import Preprocessing

MUTANTS = 2000
HEADER = 400
LONGEST = 10.0
"""Seconds a file."""


def sound(format: str) -> bytes:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (6, 9, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    output = io.BytesIO()
    options = {"exif": exif, "icc_profile": bytes(128)} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    Image.fromarray(pixels).save(output, format, **options)
    return output.getvalue()


def mutant(content: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in generator.integers(min(HEADER, len(content)), size=int(generator.integers(1, 5))):
        changed[place] = generator.choice([0, 1, 255, generator.integers(256)])
    return bytes(changed[: int(generator.integers(1, len(changed)))] if generator.random() < 0.1 else changed)


def with_side_data(content: bytes, generator: np.random.Generator) -> bytes:
    """A chunk or segment of noise behind the header, as a PNG, a JPEG or a WebP may have it; others as they are."""
    noise = generator.bytes(int(generator.integers(0, 300)))
    if content.startswith(b"\x89PNG"):
        kind = [b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"tIME", b"pHYs", b"gAMA", b"acTL"][generator.integers(9)]
        checksum = zlib.crc32(kind + noise) if generator.random() < 0.7 else 0
        return content[:33] + struct.pack(">L", len(noise)) + kind + noise + struct.pack(">L", checksum) + content[33:]
    if content.startswith(b"\xff\xd8"):
        start = [b"", b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\1", b"Photoshop 3.0\0"][generator.integers(5)]
        marker = [0xE1, 0xE2, 0xED, 0xEC, 0xFE][generator.integers(5)]
        return content[:2] + struct.pack(">BBH", 0xFF, marker, 2 + len(start + noise)) + start + noise + content[2:]
    if content.startswith(b"RIFF"):
        noise += b"\0" * (len(noise) % 2)
        chunk = [b"EXIF", b"XMP ", b"ICCP"][generator.integers(3)] + struct.pack("<L", len(noise)) + noise
        return content[:4] + struct.pack("<L", len(content) + len(chunk) - 8) + content[8:] + chunk
    return content


def outcome(read: Callable[[], object]) -> bool:
    try:
        read()
    except ImageError:
        return False
    return True


@pytest.mark.parametrize("format", FORMATS)
def test_all_agree_about_mutated_images(format: str) -> None:
    generator = np.random.default_rng(18)
    preprocessing, augment, content = Preprocessing(size=75), AugmentConfig(), sound(format)
    decoder = Decoder(preprocessing)
    readable, disagreed = 0, []
    for number in range(MUTANTS):
        each = with_side_data(content, generator) if number % 2 else content
        each = mutant(each, generator)
        start = time.monotonic()
        outcomes = {
            "evaluation": outcome(lambda each=each: evaluation_crop(decode(each, "a"), preprocessing)),
            "training": outcome(
                lambda each=each: training_view(each, "a", preprocessing, augment, np.random.default_rng(0))
            ),
            "doctor": outcome(lambda each=each: _look(each, "a")),
            "predict": outcome(lambda each=each: evaluation_views(decode(each, "a"), preprocessing, "flip")),
            "server": outcome(lambda each=each: decoder._prepare(each, "a")),
        }
        assert time.monotonic() - start < LONGEST, number
        readable += outcomes["evaluation"]
        if len(set(outcomes.values())) > 1:
            disagreed.append((number, outcomes))
    assert decoder.close()
    assert not disagreed
    assert 0 < readable < MUTANTS
