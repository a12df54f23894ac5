"""Layouts: what is found in folders and archives, and what is refused."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inceptionv4
from inceptionv4.data.index import open_source, read_dataset
from inceptionv4.data.samples import Samples, relabel
from inceptionv4.errors import DataError, ImageError


def make(root: Path, *paths: str) -> Path:
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(file)
    return root


def zipped(folder: Path, to: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(to, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return to


def table(samples: Samples) -> list[tuple[str, str]]:
    return [(samples.path(index), samples.classes[label]) for index, label in enumerate(samples.labels)]


def paths_of(samples: Samples) -> list[str]:
    return [samples.path(index) for index in range(len(samples))]


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("training", "validation"), ("train", "test")])
def test_train_and_val_folders(tmp_path: Path, train: str, val: str) -> None:
    make(tmp_path, f"{train}/dog/1.jpg", f"{train}/cat/2.PNG", f"{train}/cat/deep/3.webp", f"{val}/cat/4.jpeg")
    (tmp_path / train / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / train / "cat" / ".hidden.jpg").write_text("hidden")
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert table(dataset.train) == [
        (f"{train}/cat/2.PNG", "cat"),
        (f"{train}/cat/deep/3.webp", "cat"),
        (f"{train}/dog/1.jpg", "dog"),
    ]
    assert table(dataset.val) == [(f"{val}/cat/4.jpeg", "cat")]
    assert dataset.has_val
    assert dataset.source.table.ignored == 2  # the hidden one, too


def test_classes_sort_as_text_as_torchvision_sorts_them(tmp_path: Path) -> None:
    make(tmp_path, *[f"{name}/{i}.png" for name in ("10", "2", "B", "a") for i in range(2)])
    assert read_dataset(tmp_path).classes == ("10", "2", "B", "a")


def test_a_folder_without_val_holds_out_a_share_of_each_class(tmp_path: Path) -> None:
    make(
        tmp_path,
        *[f"{name}/{i}.png" for name, count in (("a", 50), ("b", 10), ("c", 2), ("d", 1)) for i in range(count)],
    )
    dataset = read_dataset(tmp_path, val_fraction=0.2)
    assert not dataset.has_val
    assert Counter(dataset.val.labels.tolist()) == {0: 10, 1: 2, 2: 1}
    assert Counter(dataset.train.labels.tolist()) == {0: 40, 1: 8, 2: 1, 3: 1}
    assert not set(paths_of(dataset.train)) & set(paths_of(dataset.val))
    assert sorted(table(dataset.all())) == sorted(table(dataset.train) + table(dataset.val))


def test_the_split_does_not_depend_on_where_the_files_are(tmp_path: Path) -> None:
    paths = [f"{name}/{i}.png" for name in "ab" for i in range(20)]
    plain = read_dataset(make(tmp_path / "plain", *paths))
    assert paths_of(read_dataset(zipped(tmp_path / "plain", tmp_path / "a.zip")).val) == paths_of(plain.val)
    for moved in (
        make(tmp_path / "other", *(f"photos/{p}" for p in paths)),
        make(tmp_path / "lone", *(f"train/{p}" for p in paths)),
    ):
        assert [path.split("/", 1)[1] for path in paths_of(read_dataset(moved).val)] == paths_of(plain.val)


@pytest.mark.parametrize("prefix", ["", "photos/", "my/photos/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_in_place_and_equals_the_folder(tmp_path: Path, prefix: str, method: int) -> None:
    folder = make(tmp_path / "data", "train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png")
    archive = zipped(folder, tmp_path / "data.zip", prefix, method)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/train/a/._1.png", "finder's")
    before = sorted(tmp_path.rglob("*"))
    ours, theirs = read_dataset(archive), read_dataset(folder)
    for mine, reference in ((ours.train, theirs.train), (ours.val, theirs.val)):
        assert [(path.removeprefix(prefix), name) for path, name in table(mine)] == table(reference)
        for index in range(len(mine)):
            assert mine.read(index) == reference.read(index)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_embedded_digits() -> None:
    from sklearn.datasets import load_digits

    dataset = read_dataset("digits")
    assert dataset.classes == tuple("0123456789")
    assert (len(dataset.train), len(dataset.val)) == (1438, 359)
    fractions = np.bincount(dataset.val.labels) / np.bincount(dataset.all().labels)
    assert (abs(fractions - 0.2) < 0.01).all()
    assert (Path(inceptionv4.__file__).parent / "data/digits.zip").stat().st_size < 1_000_000
    with zipfile.ZipFile(Path(inceptionv4.__file__).parent / "data/digits.zip") as archive:
        assert b"CC BY 4.0" in archive.read("README.txt")

    import io

    digits = load_digits()
    samples = dataset.all()
    for index in range(0, len(samples), 97):
        number = int(Path(samples.path(index)).stem)
        pixels = np.asarray(Image.open(io.BytesIO(samples.read(index))))
        assert np.array_equal(np.rint(pixels.astype(float) * 16 / 255), digits.images[number])
        assert samples.labels[index] == digits.target[number]


def test_symbolic_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "1.png", "2.png")
    root = make(tmp_path / "data", "a/1.png", "a/2.png")
    (root / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    assert sorted(paths_of(read_dataset(root).all())) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no images in"),
        (["only/1.png", "only/2.png"], "only one class in .*, 'only'; a classifier needs two"),
        (["train/a/1.png", "val/a/1.png"], "only one class in .*, 'a'"),
        (
            ["a/1.png", "b/1.png", "loose.png"],
            "images lie in no class folder, directly in the top; move them into folders",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/zebra/1.png", "val/zebra/2.png"],
            r"the held-out images have 'zebra' \(2 images\), which the training images lack; add training",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    make(tmp_path, *paths)
    with pytest.raises(DataError, match=message) as error:
        read_dataset(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert error.value.exit_code == 3


def test_a_folder_of_other_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="no images in .*, only 1 other files"):
        read_dataset(tmp_path)


def test_places_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images at .*nowhere: there is no such folder or file"):
        read_dataset(tmp_path / "nowhere")
    for content in (b"", b"no archive at all" * 100):
        for name, message in (
            ("a.zip", r"is no complete \.zip"),
            ("a.tar", r"is no complete \.tar|no images"),
            ("a.7z", "is no"),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=message):
                read_dataset(tmp_path / name)


def test_a_damaged_member_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "data", "a/1.png", "b/1.png", "b/2.png")
    archive = zipped(folder, tmp_path / "data.zip", method=zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    at = content.index((folder / "a/1.png").read_bytes())
    content[at + 20] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ImageError, match=r"data\.zip:a/1\.png cannot be read"):
        open_source(archive).read(0)


def test_labels_follow_the_classes_of_a_model(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    samples = read_dataset(tmp_path).all()
    relabelled = relabel(samples, ("b", "x", "a"))
    assert table(relabelled) == table(samples)
    assert relabelled.classes == ("b", "x", "a")
    with pytest.raises(DataError, match="classes that the model was not trained on: 'b'; it knows 'a', 'c'"):
        relabel(samples, ("a", "c"))


def test_the_fingerprint_knows_the_training_images(tmp_path: Path) -> None:
    paths = [f"{name}/{i}.png" for name in "ab" for i in range(5)]
    first = read_dataset(make(tmp_path / "one", *paths)).train.fingerprint
    assert read_dataset(make(tmp_path / "two", *paths)).train.fingerprint == first
    assert read_dataset(make(tmp_path / "two", "a/new.png")).train.fingerprint != first
