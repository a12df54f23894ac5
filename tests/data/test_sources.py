"""Every layout with real files: read in place, equal to the folder that it was made from."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from climbs import CLIMBS
from layouts import WNIDS, add, jpegs, make_cifar, write_csv, write_imagenet, write_parquet, write_shard_folder
from pyarrow import parquet

from inceptionv4.data.decode import decode
from inceptionv4.data.formats.imagenet import ImageNetSource
from inceptionv4.data.formats.source import plain_path
from inceptionv4.data.index import open_source, read_dataset
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.samples import Samples
from inceptionv4.data.table import StringArray
from inceptionv4.data.tools.pack import pack
from inceptionv4.errors import DataError, ImageError
from inceptionv4.inference.images import find_images


def contents(samples: Samples) -> list[tuple[str, bytes]]:
    """Class name and bytes of every sample, sorted."""
    return sorted((samples.classes[label], samples.read(index)) for index, label in enumerate(samples.labels))


def assert_equal_to_textures(location: str | Path, textures: Path) -> None:
    ours, theirs = read_dataset(location), read_dataset(textures)
    assert ours.has_val
    assert ours.classes == theirs.classes
    assert contents(ours.train) == contents(theirs.train)
    assert contents(ours.val) == contents(theirs.val)


def assert_a_share_is_held_out(location: Path, all_of_it: list[tuple[str, bytes]]) -> None:
    dataset = read_dataset(location, val_fraction=0.25)
    assert not dataset.has_val
    assert dataset.layout.endswith(", 25% of each class held out")
    assert sorted(contents(dataset.train) + contents(dataset.val)) == all_of_it
    assert (dataset.val.counts == np.rint(dataset.all().counts * 0.25)).all()


@pytest.mark.parametrize("prefix", ["", "./", "textures/"])
def test_a_tar_is_read_in_place(textures: Path, tmp_path: Path, prefix: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(textures, prefix or ".", recursive=True) if prefix != "./" else archive.add(textures, ".")
    assert_equal_to_textures(tmp_path / "a.tar", textures)


@pytest.mark.parametrize("prefix", ["./", "textures/"])
def test_a_zip_is_read_whatever_its_members_begin_with(textures: Path, tmp_path: Path, prefix: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for split in ("train", "val"):
            for name, file, content in jpegs(textures, split):
                archive.writestr(f"{prefix}{split}/{name}/{file}", content)
    assert_equal_to_textures(tmp_path / "a.zip", textures)


def test_a_tar_with_links_devices_and_members_that_climb_out(textures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for split in ("train", "val"):
            for name, file, content in jpegs(textures, split):
                add(archive, f"{split}/{name}/{file}", content)
        for kind, name in ((tarfile.SYMTYPE, "train/brick/link.jpg"), (tarfile.CHRTYPE, "train/brick/device.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    assert_equal_to_textures(tmp_path / "a.tar", textures)
    assert sorted(tmp_path.rglob("*")) == before


CLIMBING = ("../brick/1.jpg", "train/../../brick/1.jpg", "../../../tmp/brick/1.jpg", "train/brick/../1.jpg")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_that_climb_out_are_left_out_and_written_nowhere(textures: Path, tmp_path: Path, kind: str) -> None:
    files = [(f"{split}/{a}/{b}", content) for split in ("train", "val") for a, b, content in jpegs(textures, split)]
    files += [(name, b"evil") for name in CLIMBING]
    (tmp_path / "inside").mkdir()
    location = tmp_path / f"inside/a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(location, "w") as archive:
            for name, content in files:
                archive.writestr(name, content)
    else:
        with tarfile.open(location, "w") as archive:
            for name, content in files:
                add(archive, name, content)
    before = sorted(tmp_path.rglob("*"))
    assert_equal_to_textures(location, textures)
    pack(location, tmp_path / "inside/shards")
    assert_equal_to_textures(tmp_path / "inside/shards", textures)
    assert [path for path in sorted(tmp_path.rglob("*")) if "shards" not in str(path)] == before


IN_ARCHIVES = (
    *CLIMBS[:-1],
    "nul\0x",
    "a\nb",
    "a\\..\\b",
    "\\\\host\\x",
    "\u2025",
    "..\u2215..",
    "a/../..",
    "./..",
    "x" * 200,
)
"""The server's names, but for one that is too long for a folder, and some that no URL holds."""


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_name_in_an_archive_reaches_a_file_beside_it(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and prediction give a member's own content (here its name) or leave it out. No other file is opened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened: set[object] = set()

    def watch(module: Any, name: str) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda file, *rest, **more: opened.add(file) or original(file, *rest, **more))

    for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
        watch(module, name)
    location = tmp_path / f"a.{kind}"
    read = 0
    for climb in IN_ARCHIVES:
        names = ["a/1.jpg", "b/1.jpg", f"{climb}/2.jpg"]
        if kind == "zip":
            with zipfile.ZipFile(location, "w") as archive:
                for name in names:
                    member = zipfile.ZipInfo("x")
                    member.filename = name  # as it is, which ZipInfo itself would cut at NUL
                    archive.writestr(member, name)
        else:
            with tarfile.open(location, "w") as archive:
                for name in names:
                    add(archive, name, name.encode())
        predicted = {image.name.removeprefix(f"{location}:"): image.read() for image in find_images([str(location)])}
        found: dict[str, bytes] = {}
        with suppress(DataError):  # images lie in no class folder
            source = open_source(location)
            found = {source.path(row): source.read(row) for row in range(len(source.table))}
            assert {"a/1.jpg", "b/1.jpg"} <= found.keys(), climb
        for name, content in (predicted | found).items():
            assert plain_path(content.decode().partition("\0")[0]) == name, climb
        read += len(found) == 3
    print(f"{len(IN_ARCHIVES)} names, {read} of them read as folders inside of the archive")
    files = {str(file) for file in opened if not isinstance(file, int)}
    assert {file for file in files if not file.startswith(f"{tmp_path}/cache/")} == {str(location)}
    assert {path.name for path in tmp_path.iterdir()} <= {location.name, "cache"}
    assert read > 20


def test_a_zip_member_of_more_bytes_than_any_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", b"\0" * 3_000_000)
        archive.writestr("b/1.png", b"x")
    monkeypatch.setattr("inceptionv4.data.formats.zip_members.MAX_BYTES", 2_000_000)
    source = open_source(tmp_path / "a.zip")
    with pytest.raises(ImageError, match=r"a/1\.png cannot be read: it would unpack to 3,000,000 bytes"):
        source.read(0)
    assert source.read(1) == b"x"


def test_compressed_and_cut_tars_are_refused(textures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(textures / "val", "val")
    with pytest.raises(DataError, match=r"a\.tar\.gz is compressed as a whole.*decompress it"):
        read_dataset(tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(textures / "val", "val")
    content = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"b\.tar is (cut short|no complete)"):
        read_dataset(tmp_path / "b.tar")


def test_zip_members_that_cannot_be_read_in_place_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/1.png", b"x")
    with pytest.raises(DataError, match=r"a/1\.png is packed by method 14; pack the class folders stored or deflated"):
        read_dataset(tmp_path / "a.zip")


def test_a_zip_member_that_lies_about_its_size_is_no_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", b"\0" * 50_000_000)
        archive.writestr("b/1.png", b"x")
    content = (tmp_path / "a.zip").read_bytes()
    size = (50_000_000).to_bytes(4, "little")
    assert content.count(size) == 2
    (tmp_path / "a.zip").write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ImageError, match=r"a/1\.png cannot be read: it does not match its checksum"):
        open_source(tmp_path / "a.zip").read(0)


def test_shards_in_a_folder_and_by_pattern(textures: Path, tmp_path: Path) -> None:
    folder = write_shard_folder(textures, tmp_path / "shards")
    (folder / "classes.txt").rename(tmp_path / "classes.txt")
    assert read_dataset(folder).classes == ("0", "1", "2")
    (tmp_path / "classes.txt").rename(folder / "classes.txt")
    assert_equal_to_textures(folder, textures)
    train = read_dataset(f"{folder}/train-{{0000..0002}}.tar")
    for shard in list(folder.glob("*.tar")):
        shard.rename(folder / f"textures_64-{shard.name.replace('val-', 'validation-')}")
    assert_equal_to_textures(folder, textures)
    for shard in list(folder.glob("*.tar")):
        shard.rename(folder / shard.name.removeprefix("textures_64-"))
    assert not train.has_val
    assert contents(train.all()) == contents(read_dataset(textures).train)
    with pytest.raises(DataError, match=r"2 of the 5 shards of .* are missing: .*train-0003\.tar"):
        read_dataset(f"{folder}/train-{{0000..0004}}.tar")


def test_shards_of_which_none_is_held_out_or_all_are(textures: Path, tmp_path: Path) -> None:
    train, val = (contents(getattr(read_dataset(textures), part)) for part in ("train", "val"))
    folder = write_shard_folder(textures, tmp_path / "shards")
    for path in folder.glob("val-*.tar"):
        path.rename(folder / path.name.replace("val", "more"))
    assert_a_share_is_held_out(folder, train)
    assert open_source(folder).table.left_out == ("2 shards: in no part that is known (train, val, test, ...)",)
    for path in folder.glob("*.tar"):
        path.unlink() if path.name.startswith("train") else path.rename(folder / path.name.replace("more", "val"))
    assert_a_share_is_held_out(folder, val)


@pytest.mark.parametrize(
    ("content", "message"), [(b"cat", "holds b'cat', not the number"), (None, r"has no a\.cls beside")]
)
def test_shards_without_labels_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    with tarfile.open(tmp_path / "x-0.tar", "w") as archive:
        add(archive, "a.jpg", b"")
        if content is not None:
            add(archive, "a.cls", content)
    with pytest.raises(DataError, match=message):
        read_dataset(f"{tmp_path}/x-{{0..0}}.tar")


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("wrapped", ["", "cifar-10-batches-{}"])
def test_cifar_10_in_both_forms(tmp_path: Path, binary: bool, wrapped: str) -> None:
    images = make_cifar(tmp_path / "cifar" / wrapped.format("bin" if binary else "py"), binary)
    dataset = read_dataset(tmp_path / "cifar")
    assert dataset.classes[3] == "cat"
    assert (len(dataset.train), len(dataset.val)) == (100, 20)
    for samples, part in ((dataset.train, images[:5].reshape(-1, 3, 32, 32)), (dataset.val, images[5])):
        pixels = sorted(np.asarray(decode(samples.read(index), "a")).tobytes() for index in range(len(samples)))
        assert pixels == sorted(image.transpose(1, 2, 0).tobytes() for image in part)
    for index in range(20):
        record = int(Path(dataset.val.path(index)).stem)
        assert dataset.val.labels[index] == (record + 5) % 10


@pytest.mark.parametrize("label", [-1, 10, 1.5, 1 << 40])
def test_a_cifar_label_of_no_class_is_refused(tmp_path: Path, label: float) -> None:
    make_cifar(tmp_path / "cifar", binary=False)
    batch = {b"labels": [0, label], b"data": np.zeros((2, 3072), np.uint8)}
    (tmp_path / "cifar/data_batch_3").write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(DataError, match=rf"data_batch_3 (has the label {label}|is no CIFAR-10 batch: .*float)"):
        read_dataset(tmp_path / "cifar")


class Evil:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("place", ["whole", "label", "pixels", "global", "outside"])
def test_a_malicious_cifar_batch_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    make_cifar(tmp_path / "cifar", binary=False)
    evil = Evil(tmp_path / "was-run")
    content = {
        "whole": pickle.dumps(evil),
        "label": pickle.dumps({b"labels": [0, evil], b"data": np.zeros((2, 3072), np.uint8)}),
        "pixels": pickle.dumps({b"labels": [0], b"data": np.array([evil], dtype=object)}),
        "global": b"\x80\x02cantigravity\ngeohash\n.",
        "outside": b"\x80\x02X\x01\x00\x00\x00xQ.",
    }[place]
    (tmp_path / "cifar/data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3 (holds \w+\.\w+, which no CIFAR-10 batch does|is no CIFAR-10)"):
        read_dataset(tmp_path / "cifar")
    assert not evil.sentinel.exists()
    assert "antigravity" not in sys.modules
    pickle.loads(pickle.dumps(evil))  # which would have run it
    assert evil.sentinel.exists()


def test_imagenets_own_archives(textures: Path, tmp_path: Path) -> None:
    write_imagenet(textures, tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    kit.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="put ILSVRC2012_devkit_t12.tar.gz beside ILSVRC2012_img_val.tar"):
        read_dataset(tmp_path)
    (tmp_path / "elsewhere").rename(kit)
    ours, theirs = read_dataset(tmp_path), read_dataset(textures)
    assert ours.classes == ("n01", "n02", "n03")
    for mine, reference in ((ours.train, theirs.train), (ours.val, theirs.val)):
        assert contents(mine) == sorted((WNIDS[name], content) for name, content in contents(reference))
    assert_a_share_is_held_out(tmp_path / "ILSVRC2012_img_train.tar", contents(ours.train))
    assert_a_share_is_held_out(tmp_path / "ILSVRC2012_img_val.tar", contents(ours.val))


def test_imagenet_is_listed_in_memory_that_hardly_grows(tmp_path: Path) -> None:
    """The real archive has 1.28 million members, and Python's object for one takes a kilobyte."""

    def peak(classes: int) -> int:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as inner:
            for number in range(100):
                add(inner, f"{number}.JPEG", b"x")
        with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
            for wnid in range(classes):
                add(outer, f"n{wnid:08}.tar", content.getvalue())
        tracemalloc.start()
        try:
            table = ImageNetSource.index(ImageNetSource.find(tmp_path))
            assert len(table) == classes * 100
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(20) - peak(10) < 1000 * 150


@pytest.mark.parametrize("by_folder", [True, False])
def test_csv(textures: Path, tmp_path: Path, by_folder: bool) -> None:
    file = write_csv(tmp_path, textures, ["label", "note", "split", "file_name"])
    assert_equal_to_textures(tmp_path if by_folder else file, textures)
    plain = read_dataset(write_csv(tmp_path, textures, ["file_name", "label"], "other.csv"))
    assert not plain.has_val
    assert contents(plain.all()) == contents(read_dataset(textures).all())


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_csv_that_names_one_split_only(textures: Path, tmp_path: Path, split: str) -> None:
    file = write_csv(tmp_path, textures, ["file_name", "label", "split"])
    file.write_text(file.read_text().replace(",train\n", f",{split}\n").replace(",val\n", f",{split}\n"))
    assert_a_share_is_held_out(file, contents(read_dataset(textures).all()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"labels\.csv:1 has the columns 'a', 'b'; none is called as the image is \(file_name"),
        ("file_name,label\nnothing.jpg,cat\n", r"labels\.csv:2 names nothing\.jpg, which is not there"),
        ("file_name,label\nlabels.csv,\n", r"labels\.csv:2 has no file_name or no label"),
        ("file_name,label\n", "lists no images"),
        ("file_name,label,split\nlabels.csv,a,other\n", r"labels\.csv:2 has the split 'other'; expected train"),
        (
            "file_name,label,split\nlabels.csv,a,train\nlabels.csv,b,\n",
            r"labels\.csv:3 has no split, which other rows have",
        ),
    ],
)
def test_a_bad_csv_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_parquet_as_hugging_face_writes_it(textures: Path, tmp_path: Path) -> None:
    write_parquet(textures, tmp_path)
    assert_equal_to_textures(tmp_path, textures)
    assert_equal_to_textures(tmp_path / "data", textures)
    assert_a_share_is_held_out(tmp_path / "data/train-00000-of-00001.parquet", contents(read_dataset(textures).train))
    assert_a_share_is_held_out(
        tmp_path / "data/validation-00000-of-00001.parquet", contents(read_dataset(textures).val)
    )

    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="has the columns text; expected an image and a label"):
        read_dataset(tmp_path / "bad.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is no complete parquet file"):
        read_dataset(tmp_path / "bad.parquet")


def write_rows(path: Path, columns: dict[str, list[object]], class_labels: dict[str, list[str]] | None = None) -> Path:
    """Rows of images that hold their numbers, with `columns` before and `class_labels` in Hugging Face's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    images = [{"bytes": f"image {row}".encode(), "path": None} for row in range(count)]
    features = {name: {"names": names, "_type": "ClassLabel"} for name, names in (class_labels or {}).items()}
    others = {name: {"dtype": "int64", "_type": "Value"} for name in columns if name not in features}
    table = pyarrow.table({"image": images} | columns)
    if class_labels is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": features | others}})}
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, path)
    return path


LABELS, IDS = [0, 1, 1, 0, 1], [7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("columns", "class_labels"),
    [
        ({"image_id": IDS, "label": LABELS}, None),
        ({"image_id": IDS, "label": LABELS}, {}),
        ({"image_id": IDS, "breed": LABELS}, {"breed": ["cat", "dog"]}),
        ({"id": IDS, "colour": IDS, "label": LABELS}, {"label": ["cat", "dog"], "colour": list("abcdefghijklm")}),
        ({"Class": LABELS, "note": ["x"] * 5}, None),
    ],
)
def test_the_label_is_the_parquet_column_that_says_so(
    tmp_path: Path, columns: dict[str, list[object]], class_labels: dict[str, list[str]] | None
) -> None:
    samples = read_dataset(write_rows(tmp_path / "a.parquet", columns, class_labels)).all()
    assert samples.labels.tolist() == LABELS
    assert samples.classes == (("cat", "dog") if class_labels else ("0", "1"))


@pytest.mark.parametrize(
    ("columns", "class_labels", "message"),
    [
        ({"fine": IDS, "coarse": LABELS}, None, "none is called as the label is"),
        ({"breed": LABELS}, None, "none is called as the label is"),
        (
            {"fine": IDS, "coarse": LABELS},
            {"fine": list("abcdefghijklm"), "coarse": ["cat", "dog"]},
            "several may be the label: fine, coarse",
        ),
        ({"label": IDS, "breed": LABELS}, {"breed": ["cat", "dog"]}, "several may be the label: breed, label"),
        ({"label": IDS, "class": LABELS}, None, "several may be the label: label, class"),
    ],
)
def test_parquet_with_no_or_several_columns_that_may_be_the_label(
    tmp_path: Path, columns: dict[str, list[object]], class_labels: dict[str, list[str]] | None, message: str
) -> None:
    path = write_rows(tmp_path / "a.parquet", columns, class_labels)
    with pytest.raises(DataError, match=rf"a\.parquet has the columns .*{message}.*--data.label-column"):
        read_dataset(path)
    wanted = list(columns)[-1]
    assert read_dataset(path, options=ReadOptions(label_column=wanted)).all().labels.tolist() == LABELS


def add_test_folder(textures: Path, folder: Path) -> Path:
    shutil.copytree(textures, folder / "textures")
    shutil.copytree(textures / "train", folder / "textures/test")
    return folder / "textures"


def add_test_shards(textures: Path, folder: Path) -> Path:
    write_shard_folder(textures, folder)
    with tarfile.open(folder / "test-0000.tar", "w") as archive:
        add(archive, "1.jpg", b"x")
        add(archive, "1.cls", b"-1")
    return folder


def add_test_lines(textures: Path, folder: Path) -> Path:
    file = write_csv(folder, textures, ["file_name", "label", "split"])
    file.write_text(file.read_text() + "nowhere.jpg,,test\n")
    return file


def add_test_parquet(textures: Path, folder: Path) -> Path:
    """As Hugging Face has ImageNet: the test's labels are not published."""
    write_parquet(textures, folder)
    write_rows(folder / "data/test-00000-of-00001.parquet", {"label": [-1, -1, -1]}, {"label": ["hidden"]})
    return folder


@pytest.mark.parametrize("write", [add_test_folder, add_test_shards, add_test_lines, add_test_parquet])
def test_a_test_beside_the_validation_is_left_out(
    textures: Path, tmp_path: Path, write: Callable[[Path, Path], Path]
) -> None:
    location = write(textures, tmp_path)
    assert_equal_to_textures(location, textures)
    assert any("test" in reason for reason in open_source(location).table.left_out)


def test_parquet_without_labels_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "test.parquet", {"label": [0, -1, None]})
    with pytest.raises(DataError, match=r"test\.parquet has 2 rows without a label"):
        read_dataset(path)


def test_a_parquet_row_without_an_image(tmp_path: Path) -> None:
    images = [{"bytes": b"x", "path": None}, None, {"bytes": None, "path": "elsewhere.jpg"}]
    parquet.write_table(pyarrow.table({"image": images, "label": [0, 1, 1]}), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert source.read(0) == b"x"
    with pytest.raises(ImageError, match=r"a\.parquet:0\.1 cannot be read: it is null"):
        source.read(1)
    with pytest.raises(ImageError, match=r"a\.parquet:0\.2 cannot be read: it names a file and holds no image"):
        source.read(2)


def test_texts_are_strings_whatever_their_bytes() -> None:
    strings = ["", "a", "ü", "caf\udce9.jpg", "", "日本"]
    texts = StringArray.join([StringArray.of(strings[:2]), StringArray.of([]), StringArray.of(strings[2:])])
    assert [texts[index] for index in range(len(texts))] == strings
