"""Perceptual hashes: the same picture in other clothes is found, other pictures are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance

from inceptionv4.data.decode import decode
from inceptionv4.data.index import read_dataset
from inceptionv4.data.tools.duplicates import NEAR, near_pairs, perceptual_hash


def crops(count: int) -> list[Image.Image]:
    """Parts of photographs; some overlap."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(count):
        photograph = getattr(skimage.data, ("astronaut", "chelsea", "coffee", "rocket")[generator.integers(4)])()
        side = int(generator.integers(200, 300))
        top, left = (int(generator.integers(length - side + 1)) for length in photograph.shape[:2])
        images.append(Image.fromarray(photograph[top : top + side, left : left + side]))
    return images


def saved(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return decode(content.getvalue(), "it")


def distance(a: np.ndarray | None, b: np.ndarray | None) -> int:
    assert a is not None
    assert b is not None
    return int(np.unpackbits((a ^ b).view(np.uint8)).sum())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda image: saved(image, 90), 0.95),
        (lambda image: saved(image, 40), 0.85),
        (lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), 0.9),
        (lambda image: saved(image.resize((150, 150)), 75), 0.85),
        (lambda image: ImageEnhance.Brightness(image).enhance(1.1), 0.9),
    ],
    ids=["quality 90", "quality 40", "half", "smaller, quality 75", "lighter"],
)
def test_the_same_picture_is_near(change: Callable[[Image.Image], Image.Image], found: float) -> None:
    images = crops(100)
    distances = [distance(perceptual_hash(image), perceptual_hash(change(image))) for image in images]
    assert np.mean(np.array(distances) <= NEAR) >= found


def test_other_pictures_are_far() -> None:
    hashes = [perceptual_hash(image) for image in crops(60)]
    assert min(distance(a, b) for number, a in enumerate(hashes) for b in hashes[:number]) > 2 * NEAR


def test_handwritten_digits_are_not_called_duplicates() -> None:
    samples = read_dataset("digits").all()
    hashes = [perceptual_hash(decode(samples.read(index), "it")) for index in range(len(samples))]
    assert not any(hash is None for hash in hashes)
    assert len(near_pairs(np.array(hashes))) < 10  # of 1.6 million pairs


def test_what_shows_nothing_has_no_hash() -> None:
    assert perceptual_hash(Image.new("RGB", (300, 200), "white")) is None
    assert perceptual_hash(crops(1)[0]) is not None


def test_the_search_finds_what_comparing_all_with_all_finds() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, (60, 4), dtype=np.uint64)
    copies = hashes[generator.integers(60, size=200)].copy()
    for number, copy in enumerate(copies):
        for bit in generator.integers(256, size=number % 20):
            copy[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    hashes = np.concatenate([hashes, copies])
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(int)
    differing = (bits[:, None] != bits[None]).sum(2)
    expected = {(a, b) for a, b in np.argwhere(differing <= NEAR).tolist() if a < b}
    found = {tuple(pair) for pair in near_pairs(hashes).tolist()}
    # Equal ones are paired with their first only, and stand for each other: compare what is connected.
    assert found <= expected
    assert components(260, found) == components(260, expected)
    assert len(expected) > 100


def components(count: int, pairs: set[tuple[int, ...]]) -> list[int]:
    """The lowest number that each number is connected with."""
    lowest = list(range(count))
    for _ in range(count):
        before = lowest.copy()
        for a, b in pairs:
            lowest[a] = lowest[b] = min(lowest[a], lowest[b])
        if lowest == before:
            break
    return lowest


def test_no_hashes_have_no_pairs() -> None:
    assert near_pairs(np.empty((0, 4), np.uint64)).shape == (0, 2)
    assert near_pairs(np.ones((1, 4), np.uint64)).shape == (0, 2)
    assert near_pairs(np.ones((3, 4), np.uint64)).tolist() == [[0, 1], [0, 2]]
