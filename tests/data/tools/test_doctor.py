"""The doctor finds each planted fault, names its files, and touches none."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from inceptionv4.data.tools.doctor import Report, cut_off, examine, findings
from inceptionv4.data.transforms import evaluation_crop
from inceptionv4.errors import DataError
from inceptionv4.spec import Preprocessing


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Parts of two photographs, 30 and 12 to train on and 5 each held out, that do not overlap."""
    root = tmp_path / "photos"
    for label, name, count in (("cat", "chelsea", 30), ("cup", "coffee", 12)):
        photograph = Image.fromarray(getattr(skimage.data, name)()).resize((1400, 1000))
        for number in range(count + 5):
            split = "train" if number < count else "val"
            path = root / split / label / f"{number:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            left, top = number % 7 * 200, number // 7 * 200
            photograph.crop((left, top, left + 200, top + 160)).save(path, quality=90)
    return root


def names(files: list[str]) -> set[str]:
    return {"/".join(Path(file).parts[-3:]) for file in files}


def test_sound_data_have_no_faults(photos: Path) -> None:
    report = examine(photos)
    assert (report.train, report.val) == (42, 10)
    assert report.class_counts == {"cat": 30, "cup": 12}
    for fault in (
        "unreadable",
        "misnamed",
        "identical",
        "similar",
        "contradictory",
        "leaked",
        "long",
        "blank",
        "failures",
    ):
        assert not getattr(report, fault), fault
    assert len(report.small) == 52
    assert {finding.check for finding in findings(report) if finding.level != "ok"} == {
        "small classes",
        "small pictures",
    }


def test_every_planted_fault_is_found_and_no_file_is_changed(photos: Path) -> None:
    image = Image.open(io.BytesIO((photos / "train/cat/03.jpg").read_bytes()))
    shutil.copy(photos / "train/cat/00.jpg", photos / "train/cat/again.jpg")
    shutil.copy(photos / "train/cat/01.jpg", photos / "train/cup/wrong.jpg")
    shutil.copy(photos / "train/cat/02.jpg", photos / "val/cat/leaked.jpg")
    image.resize((100, 80)).save(photos / "val/cat/smaller.jpg", quality=80)
    image.save(photos / "train/cat/png.jpg", "PNG")
    (photos / "train/cup/cut.jpg").write_bytes((photos / "train/cup/00.jpg").read_bytes()[:-400])
    Image.new("RGB", (900, 300), "white").save(photos / "train/cup/white.png")
    Image.new("RGB", (900, 310), "white").save(photos / "train/cup/white2.png")
    image.convert("CMYK").rotate(90).save(photos / "val/cup/print.jpg")
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in photos.rglob("*.*")}
    report = examine(photos, workers=2)

    [reason] = report.unreadable
    assert "train/cup/cut.jpg cannot be decoded" in reason
    assert [names([file]) | {format} for file, format in report.misnamed] == [{"train/cat/png.jpg", "PNG"}]
    assert [names(group) for group in report.identical] == [
        {"train/cat/00.jpg", "train/cat/again.jpg"},
        {"train/cat/01.jpg", "train/cup/wrong.jpg"},
        {"train/cat/02.jpg", "val/cat/leaked.jpg"},
    ]
    same = {"train/cat/03.jpg", "val/cat/smaller.jpg", "train/cat/png.jpg"}
    assert [names(group) for group in report.similar] == [same]
    assert [names(group) for group in report.contradictory] == [{"train/cat/01.jpg", "train/cup/wrong.jpg"}]
    assert [names(group) for group in report.leaked] == [{"train/cat/02.jpg", "val/cat/leaked.jpg"}, same]
    assert names(report.long) == {"train/cup/white.png"}
    assert report.kinds == {"CMYK": 1}
    assert report.train == 48
    assert report.failures == ["1 of 48 training images cannot be decoded, more than 1%"]
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in photos.rglob("*.*")} == before
    found = {finding.check: (finding.level, finding.count) for finding in findings(report)}
    assert found["cannot be decoded"] == ("error", 1)
    assert found["seen in training and held out"] == ("warning", 2)


def test_one_held_out_image_that_cannot_be_decoded_fails_every_evaluation(photos: Path) -> None:
    (photos / "val/cat/30.jpg").write_bytes(b"")
    assert examine(photos).failures == ["1 held-out images cannot be decoded, and every one is evaluated"]


def test_what_is_nearly_black_or_white_throughout_is_named(photos: Path) -> None:
    grey = np.asarray(Image.open(photos / "train/cat/00.jpg").convert("L"))
    deep = grey.astype(np.uint16) * 16
    spots = np.full((200, 200), 255, np.uint8)
    spots[:10, :30] = 0  # 0.75 %
    text = spots.copy()
    text[:10] = 0  # 5 %
    planted = {
        "black.png": np.zeros((50, 50), np.uint8),
        "twelve-of-16-bits.png": deep,
        "ten-of-16-bits.tif": deep // 4,
        "white.png": spots,
        "nearly-white.bmp": np.random.default_rng(0).integers(239, 256, (90, 90, 3)).astype(np.uint8),
    }
    fine = {"text.png": text, "all-of-16-bits.png": deep * 16, "night.png": grey // 8, "grey.png": grey * 0 + 128}
    for name, pixels in (planted | fine).items():
        Image.fromarray(pixels).save(photos / "train/cat" / name)
    report = examine(photos)
    assert names(report.blank) == {f"train/cat/{name}" for name in planted}
    [found] = [finding for finding in findings(report) if finding.check == "nearly black or white"]
    assert (found.level, found.count, found.examples) == ("warning", 5, report.blank)
    assert "within 16 grey levels of black or white" in found.words


def test_uneven_classes_are_a_warning(photos: Path) -> None:
    report = replace(examine(photos), class_counts={"cat": 1000, "dog": 99, "cup": 19})
    found = {finding.check: finding for finding in findings(report)}
    assert found["uneven classes"].level == "warning"
    assert "cup has 19 training images, cat 1,000; try --data.sampling balanced" in found["uneven classes"].words
    assert found["small classes"].examples == ["cup: 19"]


@pytest.mark.parametrize("size", [(500, 375), (333, 1000), (299, 299), (1001, 400)])
def test_the_share_cut_off_is_what_the_crop_leaves_out(size: tuple[int, int]) -> None:
    """The picture's pixels say where they are: the corners of the crop give the part that it shows."""
    preprocessing = Preprocessing()
    across, down = np.meshgrid(np.linspace(0, 250, size[0]), np.linspace(0, 250, size[1]))
    image = Image.fromarray(np.stack([across, down, down], axis=2).astype(np.uint8))
    crop = evaluation_crop(image, preprocessing).astype(float)
    shown = np.ptp(crop[..., 0]) / 250 * np.ptp(crop[..., 1]) / 250
    assert cut_off(np.array([size]), preprocessing)[0] == pytest.approx(1 - shown, abs=0.02)


def test_data_that_cannot_be_indexed_are_an_error(tmp_path: Path, command: Callable[..., object]) -> None:
    with pytest.raises(DataError, match="no images"):
        examine(tmp_path)


def test_a_report_of_digits_is_clean() -> None:
    report = examine("digits")
    assert isinstance(report, Report)
    assert (report.identical, report.similar, report.failures) == ([], [], [])
