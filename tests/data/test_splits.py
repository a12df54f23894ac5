"""Names of parts: every usual spelling is recognised, in every layout that has names."""

from __future__ import annotations

import itertools
import tarfile
from pathlib import Path

import pyarrow
import pytest
from layouts import add
from PIL import Image
from pyarrow import parquet

from inceptionv4.data.index import open_source, read_dataset
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.samples import Dataset
from inceptionv4.data.split_names import split_name
from inceptionv4.errors import DataError, UsageError

TRAIN = [
    "train",
    "Training",
    "TRAIN",
    "seg_train",
    "train_set",
    "trainset",
    "train2017",
    "my-data.train",
    "TrainImages",
]
HELD_OUT = ["val", "Testing", "VAL", "seg_test", "test_set", "testset", "val2017", "my-data.valid", "TestImages"]
SPELLINGS = list(zip(TRAIN, HELD_OUT, strict=True))
CLASSES = ("cat", "dog")


def picture(number: int) -> bytes:
    return b"P6 2 2 255\n" + bytes([number] * 12)


def make(root: Path, part: str, count: int, start: int = 0) -> None:
    for label, number in itertools.product(CLASSES, range(start, start + count)):
        file = root / part / label / f"{number}.ppm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))


def counts(dataset: Dataset) -> tuple[int, int, bool]:
    return len(dataset.train), len(dataset.val), dataset.has_val


@pytest.mark.parametrize("name", TRAIN)
def test_words_of_training(name: str) -> None:
    found = split_name(name)
    assert found is not None
    assert found.word in ("train", "training")


@pytest.mark.parametrize("name", ["cats", "trainer", "contest", "value", "testament", "trainval", "train-test", "2017"])
def test_words_that_speak_of_no_part(name: str) -> None:
    assert split_name(name) is None


@pytest.mark.parametrize(("train", "held_out"), SPELLINGS)
def test_folders_of_any_spelling(tmp_path: Path, train: str, held_out: str) -> None:
    make(tmp_path, train, 5)
    make(tmp_path, held_out, 2, start=50)
    dataset = read_dataset(tmp_path)
    assert counts(dataset) == (10, 4, True)
    assert dataset.classes == CLASSES


@pytest.mark.parametrize(("train", "held_out"), SPELLINGS)
@pytest.mark.parametrize("where", ["{}-00000-of-00002", "cats-{}-00000", "cats_{}_b8a1c5", "default/{}/0000", "{}/a"])
def test_parquet_files_of_any_spelling(tmp_path: Path, train: str, held_out: str, where: str) -> None:
    for part, start, end in ((train, 0, 10), (held_out, 10, 14)):
        file = tmp_path / (where.format(part) + ".parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": picture(number), "path": None} for number in range(start, end)]
        labels = [number % 2 for number in range(start, end)]
        parquet.write_table(pyarrow.table({"image": images, "label": labels}), file)
    assert counts(read_dataset(tmp_path)) == (10, 4, True)


@pytest.mark.parametrize(("train", "held_out"), SPELLINGS)
@pytest.mark.parametrize("where", ["{}-000000", "cats-{}-00000", "{}-00000-of-00002"])
def test_shards_of_any_spelling(tmp_path: Path, train: str, held_out: str, where: str) -> None:
    for part, start, end in ((train, 0, 10), (held_out, 10, 14)):
        with tarfile.open(tmp_path / (where.format(part) + ".tar"), "w") as archive:
            for number in range(start, end):
                add(archive, f"{number}.cls", b"%d" % (number % 2))
                add(archive, f"{number}.ppm", picture(number))
    assert counts(read_dataset(tmp_path)) == (10, 4, True)


@pytest.mark.parametrize(("train", "held_out"), [("train", "val"), ("Train", "Test"), ("TRAINING", "Validation")])
def test_values_of_a_split_column_of_any_spelling(tmp_path: Path, train: str, held_out: str) -> None:
    lines = ["file_name,label,Split"]
    for number in range(14):
        (tmp_path / f"{number}.ppm").write_bytes(picture(number))
        lines.append(f"{number}.ppm,{CLASSES[number % 2]},{train if number < 10 else held_out}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert counts(read_dataset(tmp_path)) == (10, 4, True)


@pytest.mark.parametrize(
    "tops",
    [
        ["bullet_train", "test_tube", "bus"],  # classes whose names have a split's word
        ["train", "bus", "car"],
        ["trainer", "contest"],
        ["valid id", "dev board"],
    ],
)
def test_classes_that_have_a_word_of_a_split_in_their_names(tmp_path: Path, tops: list[str]) -> None:
    for top, number in itertools.product(tops, range(3)):
        (tmp_path / top).mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / top / f"{number}.png")
    dataset = read_dataset(tmp_path)
    assert dataset.classes == tuple(sorted(tops))
    assert not dataset.has_val


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ["sick", "healthy"],
            "healthy, sick all hold cat, dog; either may be the classes .*--data.train and --data.val",
        ),
        (["fold0", "fold1", "fold2"], "all hold cat, dog"),
        (["train1", "train2", "val"], "train1 and train2 may be the same part"),
        (["train_0", "val_0", "train_1", "val_1"], "may be the same part"),
        (["train", "other"], "train may be a part of the data or a class beside other"),
        (["cats_train", "cats_val", "dogs_train", "dogs_val"], "may be several splits"),
        (["trainval", "test"], "test may be a part of the data or a class beside trainval"),
    ],
)
def test_folders_that_may_be_read_in_two_ways_are_refused(tmp_path: Path, parts: list[str], message: str) -> None:
    for number, part in enumerate(parts):
        make(tmp_path, part, 2, start=10 * number)
    with pytest.raises(DataError, match=message) as error:
        read_dataset(tmp_path)
    assert str(tmp_path) in str(error.value)
    # Each setting that the message names decides.
    dataset = read_dataset(tmp_path, options=ReadOptions(train=parts[0], val=parts[1]))
    assert counts(dataset) == (4, 4, True)
    assert sum(f"4 images: {part}/ is named by neither" in line for part in parts[2:]
               for line in dataset.source.table.left_out) == len(parts) - 2  # fmt: skip
    assert read_dataset(tmp_path, options=ReadOptions(train=".")).classes == tuple(sorted(parts))


def test_a_split_inside_of_class_folders_is_refused(tmp_path: Path) -> None:
    for label, part in itertools.product(CLASSES, ("train", "val")):
        (tmp_path / label / part).mkdir(parents=True)
        (tmp_path / label / part / "1.ppm").write_bytes(picture(1))
    with pytest.raises(DataError, match="cat/ holds train/ and val/, which may be the parts of the data, but dog lies"):
        read_dataset(tmp_path)


def test_a_split_beside_a_folder_of_everything_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "photos/train", 5)
    make(tmp_path, "photos/val", 2, start=50)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/1.ppm").write_bytes(picture(1))
    with pytest.raises(DataError, match="--data.train photos/train --data.val photos/val, or --data.train . if all"):
        read_dataset(tmp_path)
    dataset = read_dataset(tmp_path, options=ReadOptions(train="photos/train", val="photos/val"))
    assert counts(dataset) == (10, 4, True)
    assert dataset.source.table.left_out == ("1 image: pool/ is named by neither data.train nor data.val",)


def test_an_unlabelled_test_folder_is_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "train", 10)
    (tmp_path / "test").mkdir()
    for number in range(3):
        (tmp_path / "test" / f"{number}.ppm").write_bytes(picture(number))
    dataset = read_dataset(tmp_path)
    assert counts(dataset) == (16, 4, False)
    assert dataset.source.table.left_out == ("3 images: test/ has no class folders, so no labels",)


def test_a_folder_beside_the_parts_is_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "seg_train/seg_train", 5)
    make(tmp_path, "seg_test/seg_test", 2, start=10)
    (tmp_path / "seg_pred/seg_pred").mkdir(parents=True)
    (tmp_path / "seg_pred/seg_pred/1.ppm").write_bytes(picture(1))
    dataset = read_dataset(tmp_path)
    assert counts(dataset) == (10, 4, True)
    assert dataset.classes == CLASSES
    (reason,) = dataset.source.table.left_out
    assert reason.startswith("1 image: seg_pred/ is in no part that is known")


def test_a_picture_beside_the_only_part_is_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "train", 5)
    (tmp_path / "sample.ppm").write_bytes(picture(1))
    dataset = read_dataset(tmp_path)
    assert counts(dataset) == (8, 2, False)
    (reason,) = dataset.source.table.left_out
    assert reason.startswith("1 image: the top folder is in no part that is known")


def test_a_test_part_is_kept_apart(tmp_path: Path) -> None:
    make(tmp_path, "train", 10)
    make(tmp_path, "later", 2, start=50)
    dataset = read_dataset(tmp_path, options=ReadOptions(test="later"))
    assert counts(dataset) == (16, 4, False)
    assert dataset.source.table.left_out == ("4 images: later/ is kept apart, as data.test says",)
    with pytest.raises(DataError, match=r"data.test is 'nowhere', but .* has no such part; it has later, train"):
        read_dataset(tmp_path, options=ReadOptions(test="nowhere"))


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "train", 2)
    with pytest.raises(UsageError, match="say with data.train which part to train on"):
        ReadOptions(val="val")
    with pytest.raises(UsageError, match="must name different parts"):
        ReadOptions(train="a", test="a/")
    with pytest.raises(UsageError, match="data.layout must be one of folder, zip"):
        ReadOptions(layout="floder")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="data.label_column is for tables, but .* is read as folder"):
        open_source(tmp_path, ReadOptions(label_column="label"))
    with pytest.raises(DataError, match="holds nothing that is read as shards, as data.layout says"):
        open_source(tmp_path, ReadOptions(layout="shards"))
    with pytest.raises(UsageError, match="data.train is for data of your own, not for digits"):
        open_source("digits", ReadOptions(train="a"))
