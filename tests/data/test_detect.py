"""Which layout a folder is in, and what lies beside: read right, counted, or refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pyarrow
import pytest
from layouts import add
from pyarrow import parquet

from inceptionv4.data.index import read_dataset
from inceptionv4.data.options import ReadOptions
from inceptionv4.errors import DataError


def picture(number: int) -> bytes:
    return b"P6 2 2 255\n" + bytes([number] * 12)


def write_folders(root: Path) -> None:
    for label in ("cat", "dog"):
        (root / label).mkdir()
        for number in range(3):
            (root / label / f"{number}.ppm").write_bytes(picture(number))


def write_shard(path: Path, start: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(start, start + 4):
            add(archive, f"{number}.cls", b"%d" % (number % 2))
            add(archive, f"{number}.ppm", picture(number))


def write_rows(path: Path, start: int = 0, labels: list[object] | None = None, **more: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = labels or [number % 2 for number in range(4)]
    images = [{"bytes": picture(start + number), "path": None} for number in range(len(labels))]
    parquet.write_table(pyarrow.table({"image": images, "label": labels} | more), path)


def shown(root: Path, **options: str) -> tuple[list[int], list[int]]:
    dataset = read_dataset(root, options=ReadOptions(**options))  # type: ignore[arg-type]
    train, val = (sorted(part.read(row)[-1] for row in range(len(part))) for part in (dataset.train, dataset.val))
    assert dataset.has_val
    return train, val


@pytest.mark.parametrize("beside", ["old-000.tar", "cache/x.parquet"])
def test_two_layouts_side_by_side_are_refused(tmp_path: Path, beside: str) -> None:
    write_folders(tmp_path)
    (write_shard if beside.endswith(".tar") else write_rows)(tmp_path / beside)
    with pytest.raises(DataError, match=r"several layouts, .*class folders such as cat/, dog/; say which with"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, options=ReadOptions(layout="folder")).classes == ("cat", "dog")


def test_files_without_labelled_images_decide_nothing(tmp_path: Path) -> None:
    write_folders(tmp_path)
    parquet.write_table(pyarrow.table({"embedding": [1.0, 2.0]}), tmp_path / "features.parquet")
    (tmp_path / "notes-2024.tar").write_bytes(bytes(10240))
    (tmp_path / "x-1.tar").mkdir()
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert any("features.parquet" in words for words in dataset.source.table.left_out)


@pytest.mark.parametrize(
    ("train", "val"),
    [("train-000.tar", "val_000.tar"), ("train-000.tar", "val/val-000.tar"), ("train/00.tar", "test/00.tar")],
)
def test_shards_by_name_or_folder(tmp_path: Path, train: str, val: str) -> None:
    write_shard(tmp_path / train)
    write_shard(tmp_path / val, start=10)
    assert shown(tmp_path) == ([0, 1, 2, 3], [10, 11, 12, 13])


@pytest.mark.parametrize(
    ("train", "val"),
    [("train.parquet", "validation/0.parquet"), ("train.parquet/part-0.parquet", "val.parquet/part-0.parquet")],
)
def test_parquet_by_name_or_folder(tmp_path: Path, train: str, val: str) -> None:
    write_rows(tmp_path / train)
    write_rows(tmp_path / val, start=10)
    assert shown(tmp_path) == ([0, 1, 2, 3], [10, 11, 12, 13])


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_two_data_sets_are_not_merged(tmp_path: Path, ending: str) -> None:
    for number, name in enumerate(("birds-train-0", "birds-val-0", "planes-train-0")):
        (write_shard if ending == "tar" else write_rows)(tmp_path / f"{name}.{ending}", start=10 * number)
    with pytest.raises(DataError, match="files of several data sets, such as birds-train-0"):
        read_dataset(tmp_path)
    assert shown(tmp_path, train="birds-train", val="birds-val") == ([0, 1, 2, 3], [10, 11, 12, 13])


def test_rows_of_parquet_have_a_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", usage=["train", "test", "train", "test"], labels=[0, 0, 1, 1])
    assert shown(tmp_path) == ([0, 2], [1, 3])
    assert shown(tmp_path, train="test", val="train") == ([1, 3], [0, 2])
    assert not read_dataset(tmp_path, options=ReadOptions(split_column="none")).has_val


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_may_be_the_split(tmp_path: Path, kind: str) -> None:
    """It has the word `train`, and a word that is no part's; the rows of the other word come first, and many."""
    labels = [str(row % 2) for row in range(200)]
    cells = ["later"] * 100 + ["train"] * 100
    if kind == "parquet":
        write_rows(tmp_path / "a.parquet", labels=list(labels), phase=list(cells))
    else:
        for row in range(200):
            (tmp_path / f"{row}.ppm").write_bytes(picture(row))
        lines = (f"{row}.ppm,{label},{cell}\n" for row, (label, cell) in enumerate(zip(labels, cells, strict=True)))
        (tmp_path / "labels.csv").write_text("file_name,label,phase\n" + "".join(lines))
    with pytest.raises(DataError, match="'phase' may be the split: it has later, train; say with"):
        read_dataset(tmp_path)
    train, val = shown(tmp_path, split_column="phase", train="train", val="later")
    assert (train, val) == (list(range(100, 200)), list(range(100)))
    assert not read_dataset(tmp_path, options=ReadOptions(split_column="none")).has_val


def test_captions_are_no_split(tmp_path: Path) -> None:
    captions = ["a train on rails", "a test tube", "a train in a station", "a test track"]
    write_rows(tmp_path / "a.parquet", caption=list(captions))
    assert not read_dataset(tmp_path).has_val


def test_names_and_rows_that_disagree_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", split=["train", "train", "test", "test"], labels=[0, 1, 0, 1])
    write_rows(tmp_path / "test.parquet", start=10, split=["test"] * 4)
    with pytest.raises(DataError, match=r"is of train by its name, but its column 'split' has test, train"):
        read_dataset(tmp_path)
    assert shown(tmp_path, split_column="split") == ([0, 1], [2, 3, 10, 11, 12, 13])
    assert shown(tmp_path, split_column="none") == ([0, 1, 2, 3], [10, 11, 12, 13])


def test_a_test_without_labels_is_left_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet")
    write_rows(tmp_path / "test.parquet", start=10, labels=[-1, -1])
    dataset = read_dataset(tmp_path)
    assert not dataset.has_val
    assert dataset.source.table.left_out == ("1 parquet file: a test without labels",)


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": {"features": []}}', b"\xff\xfe{",
                 b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}}'],
)  # fmt: skip
def test_damaged_metadata_of_parquet(tmp_path: Path, metadata: bytes) -> None:
    write_rows(tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet").replace_schema_metadata({b"huggingface": metadata})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="its metadata `huggingface` are damaged"):
        read_dataset(tmp_path)


def test_paths_of_a_tar_are_those_it_restores(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, name in enumerate(("/data/cat/1.ppm", "././data//cat/2.ppm", "data/dog/1.ppm", "data/dog/2.ppm")):
            add(archive, name, picture(number))
    dataset = read_dataset(tmp_path / "a.tar")
    assert dataset.classes == ("cat", "dog")
    assert [dataset.source.path(row) for row in range(4)][:2] == ["data/cat/1.ppm", "data/cat/2.ppm"]


def test_a_shard_by_its_own_path(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-000.tar")
    assert read_dataset(tmp_path / "train-000.tar").source.layout_name == "shards"
