"""Kept indexes: the data they are of have not changed, or they are made anew."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from layouts import write_csv, write_imagenet, write_parquet, write_shard_folder
from PIL import Image

from inceptionv4.data import cache
from inceptionv4.data.formats import folder
from inceptionv4.data.formats.csv import CsvSource
from inceptionv4.data.formats.folder import FolderSource
from inceptionv4.data.formats.imagenet import ImageNetSource
from inceptionv4.data.formats.parquet import ParquetSource
from inceptionv4.data.formats.shards import ShardSource
from inceptionv4.data.formats.source import Source
from inceptionv4.data.index import read_dataset


@pytest.fixture(autouse=True)
def _keep_small_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTHWHILE", 1)
    monkeypatch.setattr(cache, "SETTLED", 0)


def count_indexing(kind: type[Source], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list that grows by one whenever `kind` makes an index."""
    calls: list[object] = []
    original = kind.index
    monkeypatch.setattr(
        kind, "index", staticmethod(lambda files, options: calls.append(files) or original(files, options))
    )
    return calls


def test_the_cache_notices_every_change_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    for path in ("a/1.png", "a/2.png", "b/deep/3.png", "b/deep/4.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / path)
    calls = count_indexing(FolderSource, monkeypatch)

    def paths() -> list[str]:
        samples = read_dataset(root).all()
        return sorted(samples.path(index) for index in range(len(samples)))

    first = paths()
    assert paths() == first
    assert len(calls) == 1
    changes = [
        (lambda: (root / "b/deep/5.png").write_bytes(b"x"), ["b/deep/5.png"]),
        (lambda: (root / "b/deep/5.png").rename(root / "b/deep/6.png"), ["b/deep/6.png"]),
        (lambda: (root / "c/d").mkdir(parents=True), ["b/deep/6.png"]),
        (lambda: (root / "c/d/7.png").write_bytes(b"x"), ["b/deep/6.png", "c/d/7.png"]),
    ]
    for number, (change, more) in enumerate(changes, start=2):
        change()
        assert paths() == sorted(first + more)
        assert len(calls) == number
    kept = next((tmp_path / "cache").rglob("*.npz"))
    kept.write_bytes(kept.read_bytes()[:1000])
    assert paths() == sorted([*first, *more])
    assert len(calls) == len(changes) + 2
    assert not [path for path in root.rglob("*") if path.suffix not in ("", ".png")]


def add_shard(root: Path) -> None:
    shutil.copy(root / "train-0000.tar", root / "train-0003.tar")


def name_classes_anew(root: Path) -> None:
    (root / "classes.txt").write_text("Ziegel\nGras\nKies\n")


def lose_classes(root: Path) -> None:
    (root / "classes.txt").unlink()


def add_parquet(root: Path) -> None:
    shutil.copy(root / "data/train-00000-of-00001.parquet", root / "data/train-00001-of-00001.parquet")


def write_metadata(textures: Path, folder: Path) -> Path:
    return write_csv(folder, textures, ["file_name", "label"], "metadata.csv").parent


def add_list_that_comes_first(root: Path) -> None:
    (root / "labels.csv").write_text((root / "metadata.csv").read_text().replace(",brick", ",tile"))


def write_imagenet_train(textures: Path, folder: Path) -> Path:
    write_imagenet(textures, folder)
    (folder / "later").mkdir()
    for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        (folder / name).rename(folder / "later" / name)
    return folder


def add_imagenet_val(root: Path) -> None:
    for path in (root / "later").iterdir():
        path.rename(root / path.name)


def write_imagenet_and_unpacked_kit(textures: Path, folder: Path) -> Path:
    write_imagenet(textures, folder)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz") as kit:
        for member in kit:
            if (content := kit.extractfile(member)) is not None:  # a folder has none
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    return folder


def turn_ground_truth(root: Path) -> None:
    truth = next(root.rglob("ILSVRC2012_validation_ground_truth.txt"))
    truth.write_text("\n".join(reversed(truth.read_text().split())) + "\n")


@pytest.mark.parametrize(
    ("write", "kind", "change"),
    [
        (write_shard_folder, ShardSource, add_shard),
        (write_shard_folder, ShardSource, name_classes_anew),
        (write_shard_folder, ShardSource, lose_classes),
        (write_parquet, ParquetSource, add_parquet),
        (write_metadata, CsvSource, add_list_that_comes_first),
        (write_imagenet_train, ImageNetSource, add_imagenet_val),
        (write_imagenet_and_unpacked_kit, ImageNetSource, turn_ground_truth),
    ],
)
def test_the_cache_notices_what_a_fresh_look_would_find(
    textures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, Path], Path],
    kind: type[Source],
    change: Callable[[Path], None],
) -> None:
    (tmp_path / "data").mkdir()
    root = write(textures, tmp_path / "data")
    calls = count_indexing(kind, monkeypatch)

    def look() -> list[tuple[str, str]]:
        samples = read_dataset(root).all()
        return [(samples.path(row), samples.classes[label]) for row, label in enumerate(samples.labels)]

    before = look()
    assert look() == before
    assert len(calls) == 1
    change(root)
    after = look()
    assert after != before
    assert len(calls) == 2
    shutil.rmtree(tmp_path / "cache")
    assert look() == after


def test_what_arrives_while_a_folder_is_listed_is_noticed_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    for path in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / path)
    original = folder.walk

    def walk(root: Path) -> Iterator[tuple[str, list[str], int]]:
        for found in original(root):
            yield found
            if found[0] == "a/":
                (root / "a/late.png").write_bytes(b"x")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "walk", walk)
        assert len(read_dataset(root).all()) == 4
    assert len(read_dataset(root).all()) == 5


@pytest.mark.parametrize(("age", "kept"), [(0, False), (60, True)])
def test_an_index_of_data_that_changed_just_now_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int, kept: bool
) -> None:
    """A file system counts time in steps: what comes in the same step leaves the mark as it is."""
    monkeypatch.setattr(cache, "SETTLED", 2 * 10**9)
    root = tmp_path / "data"
    for path in ("a/1.png", "b/2.png", "a/3.png", "b/4.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / path)
    then = time.time() - age
    for place in (root, root / "a", root / "b"):
        os.utime(place, (then, then))
    assert len(read_dataset(root).all()) == 4
    (root / "a/5.png").write_bytes(b"x")
    os.utime(root / "a", (then, then))  # in the same step of time
    assert len(read_dataset(root).all()) == (4 if kept else 5)
