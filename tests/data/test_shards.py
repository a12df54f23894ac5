"""Samples of a shard by their keys and fields, against tables written by hand and webdataset's own reader."""

from __future__ import annotations

import itertools
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import add

from inceptionv4.data.formats.shard import Shard, read_shard
from inceptionv4.data.formats.shards import ShardSource
from inceptionv4.data.index import read_dataset
from inceptionv4.errors import DataError

APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(300)


def write(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            add(archive, name, content)
    return path


def sample(key: str, label: int, extension: str = "jpg") -> list[tuple[str, bytes]]:
    return [(f"{key}.cls", str(label).encode()), (f"{key}.{extension}", f"picture of {key}".encode())]


def read(path: Path, shard: Shard) -> list[tuple[str, int, bytes]]:
    content = path.read_bytes()
    ranges = zip(shard.offsets.tolist(), shard.sizes.tolist(), strict=True)
    pictures = [content[offset : offset + size] for offset, size in ranges]
    return list(
        zip(map(shard.names.__getitem__, range(len(shard.names))), shard.numbers.tolist(), pictures, strict=True)
    )


ONE, TWO = sample("000", 0), sample("001", 1)
BOTH = [("000.jpg", 0, b"picture of 000"), ("001.jpg", 1, b"picture of 001")]


@pytest.mark.parametrize(
    ("members", "left_out"),
    [
        (ONE + TWO, {}),
        (ONE[::-1] + TWO, {}),
        ([*ONE, ("000.seg.png", b"x"), *TWO, ("001.seg.png", b"x")], {"seg.png": 2}),
        ([("000.thumbnail.jpg", b"x"), *ONE, ("001.thumbnail.JPG", b"x"), *TWO], {"thumbnail.jpg": 2}),
        ([*ONE, ("000.mask.png", b"x"), ("000.depth.png", b"x"), *TWO], {"mask.png": 1, "depth.png": 1}),
        ([*ONE, ("000.coarse.cls", b"7"), ("000.json", b"{}"), *TWO], {"coarse.cls": 1, "json": 1}),
        ([("._000.cls", APPLE_DOUBLE), *ONE, ("._001.jpg", APPLE_DOUBLE), *TWO], {"hidden": 2}),
        ([ONE[0], ("._000.jpg", APPLE_DOUBLE), ONE[1], *TWO], {"hidden": 1}),
        ([("__MACOSX/._000.jpg", b"x"), (".DS_Store", b"x"), *ONE, ("Thumbs.db", b""), *TWO], {"hidden": 3}),
        ([("__index__", b"x"), ("__meta__/a.jpg", b"x"), (".k.jpg", b"x"), *ONE, *TWO], {"hidden": 3}),
        ([*ONE, ("README", b"x"), *TWO, ("002.cls", b"1")], {"without an extension": 1, "cls without an image": 1}),
    ],
)
def test_one_image_a_key(tmp_path: Path, members: list[tuple[str, bytes]], left_out: dict[str, int]) -> None:
    path = write(tmp_path / "train-000.tar", members)
    shard = read_shard(path)
    assert read(path, shard) == BOTH
    assert dict(shard.left_out) == left_out
    table = ShardSource.index([path])
    assert table.ignored == sum(left_out.values())
    assert bool(table.left_out) == bool(left_out)
    for name, count in left_out.items():
        assert f"{count} {name}" in "".join(table.left_out)


@pytest.mark.parametrize("prefix", ["./", "shard/", "v1.0/", "v1.0/a.b/"])
def test_dots_in_folders_end_no_key(tmp_path: Path, prefix: str) -> None:
    members = [(f"{prefix}{name}", content) for name, content in [*ONE, ("._001.jpg", APPLE_DOUBLE), *TWO]]
    path = write(tmp_path / "train-000.tar", members)
    shard = read_shard(path)
    assert read(path, shard) == [(f"{prefix}{name}", *rest) for name, *rest in BOTH]
    assert dict(shard.left_out) == {"hidden": 1}


def test_extensions_in_any_case(tmp_path: Path) -> None:
    members = [("a.CLS", b"1\n"), ("a.JPG", b"1"), ("b.Png", b"2"), ("b.cls", b" 0 ")]
    path = write(tmp_path / "a-0.tar", members)
    assert read(path, read_shard(path)) == [("a.JPG", 1, b"1"), ("b.Png", 0, b"2")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            sample("0.05", 0),
            "0.05.jpg is no image of its own: a key ends at the first dot, so it belongs to the sample 0,",
        ),
        (sample("s.0", 0) + sample("s.1", 1), "belongs to the sample s, which has 0.cls, 0.jpg, 1.cls, 1.jpg; rename"),
        (sample("s", 0) + sample("s.1", 1), "s.1.jpg is no image of its own"),
        ([("0.input.jpg", b""), ("0.target.cls", b"1")], "sample 0, which has input.jpg, target.cls; rename"),
        ([("a.seg.png", b""), ("a.cls", b"1")], "a.seg.png is no image of its own"),
        ([*ONE, ("000.cls", b"1")], "the sample 000 has two members for cls, 000.cls and 000.cls; remove one"),
        ([*ONE, ("000.CLS", b"0")], "two members for cls, 000.cls and 000.CLS"),
        ([*ONE, ("000.JPG", b"")], "two members for jpg, 000.jpg and 000.JPG"),
        ([*ONE, ("000.png", b"")], "the sample 000 has several images, jpg, png; keep one"),
        ([*ONE, *TWO, *ONE], "the members of the sample 000 do not follow each other"),
        ([ONE[0], TWO[0], ONE[1], TWO[1]], "the members of the sample 000 do not follow each other"),
        ([("a.jpg", b""), ("a.fine.cls", b"1")], "a.jpg has no a.cls beside it, only jpg, fine.cls; give each image"),
        ([("a.jpg", b""), ("./a.cls", b"1")], "a.jpg has no a.cls beside it"),
        *(
            ([("a.jpg", b""), ("a.cls", label)], "a.cls holds")
            for label in (b"", b"cat", b"-1", b"1_0", b"1.0", b"\xef\xbb\xbf1", b"9" * 30, b"1" + b" " * 200 + b"2")
        ),
    ],
)
def test_what_is_not_certain_is_refused_by_key(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    path = write(tmp_path / "train-000.tar", [*sample("first", 0), *members])
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_shard(path)
    assert str(path) in str(error.value)


def test_one_key_in_two_shards_is_two_samples(tmp_path: Path) -> None:
    write(tmp_path / "train-000.tar", ONE + TWO)
    write(tmp_path / "train-001.tar", sample("000", 1) + sample("001", 0))
    assert len(read_dataset(tmp_path).all()) == 4


def test_a_macs_sidecar_beside_the_shards_is_no_shard(tmp_path: Path) -> None:
    write(tmp_path / "train-000.tar", [*ONE, *TWO, *sample("002", 0), *sample("003", 1)])
    (tmp_path / "._train-000.tar").write_bytes(APPLE_DOUBLE)
    dataset = read_dataset(tmp_path)
    assert len(dataset.all()) == 4
    assert dataset.source.table.ignored == 1


def test_a_hard_link_in_a_shard_lies_beside_its_label(tmp_path: Path) -> None:
    path = tmp_path / "train-000.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in ONE:
            add(archive, name, content)
        link = tarfile.TarInfo("001.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "000.jpg"
        archive.addfile(link)
        add(archive, "001.cls", b"1")
        for name, content in sample("002", 1):
            add(archive, name, content)
    assert [label for _, label, _ in read(path, read_shard(path))] == [0, 1, 1]
    assert [content for *_, content in read(path, read_shard(path))][:2] == [b"picture of 000"] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ncat\n", "classes.txt names 'cat' twice, in lines 1 and 2"),
        ("cat\ndog\n".encode("utf-16"), "classes.txt is UTF-16"),
        (b"cat\n", "classes.txt names only 1 classes"),
    ],
)
def test_a_bad_list_of_names_beside_the_shards(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path / "train-000.tar", ONE + TWO)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_dataset(tmp_path)


FIELDS = st.lists(
    st.sampled_from(["seg.png", "json", "mask.jpg", "fine.cls", "txt", "jpg", "cls", "CLS", "png"]), max_size=2
)
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "./", "v1.0/"]),
        st.sampled_from(["a", "b", "c", "d", "a.0", "._a"]),
        st.sampled_from([["jpg", "cls"], ["cls", "JPG"], ["CLS", "png"], ["cls"], ["PNG"], []]),
        FIELDS,
    ),
    min_size=1,
    max_size=4,
)


def test_what_is_read_is_what_webdataset_reads(tmp_path: Path) -> None:
    reader = pytest.importorskip("webdataset.tariterators")
    accepted = []

    @settings(deadline=None, max_examples=300)
    @given(samples=SAMPLES)
    def check(samples: list[tuple[str, str, list[str], list[str]]]) -> None:
        names = [f"{folder}{key}.{field}" for folder, key, *fields in samples for field in itertools.chain(*fields)]
        path = write(tmp_path / "a-0.tar", [(name, str(number).encode()) for number, name in enumerate(names)])
        try:
            shard = read_shard(path)
        except DataError:
            return
        with path.open("rb") as file:
            files = [item | {"__url__": "a"} for item in reader.tar_file_iterator(file) if "._" not in item["fname"]]
        pictures = [
            (int(sample["cls"]), sample[extension])
            for sample in reader.group_by_keys(files)  # raises where a sample has one field twice
            for extension in ("jpg", "png")
            if extension in sample
        ]
        assert [(label, content) for _, label, content in read(path, shard)] == pictures
        accepted.append(len(pictures))

    check()
    assert sum(map(bool, accepted)) > 30
