"""Inspection against what was written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionv4.data.index import read_dataset
from inceptionv4.data.tools.mosaic import GAP, LINE, TILE
from inceptionv4.data.tools.overview import extremes, first_images, inspect, overview


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of 9, 3 and 2 images in training; one colour each, one file that is none, one unreadable."""
    generator = np.random.default_rng(0)
    for split, counts in (("train", (9, 3, 2)), ("val", (1, 1, 1))):
        for label, color, count in zip("abc", ("red", "lime", "blue"), counts, strict=True):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                size = (100 + 10 * number, 200 - int(generator.integers(5)))
                Image.new("RGB", size, color).save(folder / f"{number}.png")
    (tmp_path / "data/train/b/2.png").write_bytes(b"broken")
    Image.new("L", (7, 300)).save(tmp_path / "data/val/c/1.jpg")
    (tmp_path / "data/notes.txt").write_text("x")
    return tmp_path / "data"


def test_the_facts_are_those_of_the_files(data: Path) -> None:
    seen = overview(read_dataset(data))
    assert seen.layout == "train/ and val/ folders"
    assert seen.classes == ("a", "b", "c")
    assert (seen.train, seen.val) == ((9, 3, 2), (1, 1, 2))
    assert (seen.images, seen.sampled, seen.ignored) == (18, 18, 1)
    assert seen.formats == {"PNG": 16, "JPEG": 1, "unreadable": 1}
    files = [path for path in data.rglob("*.*") if path.suffix != ".txt"]
    contents = [path.read_bytes() for path in files]
    sizes = np.array([Image.open(io.BytesIO(content)).size for content in contents if content != b"broken"])
    for side, values in (("width", sizes[:, 0]), ("height", sizes[:, 1])):
        assert getattr(seen, side) == (values.min(), int(np.median(values)), values.max())
    assert seen.bytes_each == pytest.approx(np.mean([len(content) for content in contents]))


def test_large_data_are_sampled_evenly(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inceptionv4.data.tools.overview.SAMPLE", 5)
    seen = overview(read_dataset(data))
    assert (seen.images, seen.sampled, sum(seen.formats.values())) == (18, 5, 5)


def test_the_mosaic_shows_the_first_images_of_each_class_in_a_row(data: Path) -> None:
    _, picture = inspect(data)
    colors = np.asarray(picture.convert("RGB"))[GAP + TILE // 2 :: TILE + LINE + GAP, GAP + TILE // 2 :: TILE + GAP]
    shown = [["".join("rgb"[np.argmax(pixel)] if np.ptp(pixel) > 200 else "." for pixel in row)] for row in colors]
    # The third green one is broken: words are drawn there.
    assert shown == [["rrrrrrrr"], ["gg......"], ["bb......"]]


def test_many_classes_are_shown_once_each(tmp_path: Path) -> None:
    for label in range(60):
        (tmp_path / f"{label:02}").mkdir()
        for number in range(2):
            Image.new("RGB", (9, 9)).save(tmp_path / f"{label:02}" / f"{number}.png")
    picture = first_images(read_dataset(tmp_path))
    assert picture.size == (8 * (TILE + GAP) + GAP, 6 * (TILE + LINE + GAP) + GAP)


def test_of_many_classes_the_largest_and_the_smallest_are_named() -> None:
    names = [f"class {number}" for number in range(100)]
    counts = [(number * 37) % 100 for number in range(100)]
    rows = extremes(names, counts, 6)
    assert [row and row[1] for row in rows] == [99, 98, 97, None, 2, 1, 0]
    assert extremes(names[:3], counts[:3], 6) == [("class 0", 0), ("class 1", 37), ("class 2", 74)]
