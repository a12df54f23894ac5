"""Names in archives as the usual programs write them: the folders that unzip and tar restore, in their order."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from layouts import add, jpegs, write_imagenet

from inceptionv4.data.formats.imagenet import ImageNetSource
from inceptionv4.data.formats.tar import TarSource
from inceptionv4.data.formats.zip_members import list_members
from inceptionv4.data.index import open_source, read_dataset
from inceptionv4.errors import DataError
from inceptionv4.inference.images import find_images

UNIX, DOS, NTFS, VFAT = 3, 0, 10, 14
UTF_8 = 0x800


class Entry(NamedTuple):
    """A stored member as some program writes it."""

    raw: bytes
    content: bytes = b""
    host: int = UNIX
    flags: int = 0
    extra: bytes = b""
    mode: int = 0o100644


def write_zip(path: Path, entries: Sequence[Entry]) -> Path:
    content = directory = b""
    for raw, data, host, flags, extra, mode in entries:
        rest = struct.pack("<HHHHLLLHH", flags, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(raw), len(extra))
        directory += b"PK\1\2" + bytes([20, host, 20, 0]) + rest
        directory += struct.pack("<HHHLL", 0, 0, 0, mode << 16 if host == UNIX else 0, len(content)) + raw + extra
        content += b"PK\3\4" + struct.pack("<H", 20) + rest + raw + extra + data
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(content), 0)
    path.write_bytes(content + directory + end)
    return path


def unicode_path(raw: bytes, name: str, checksum: int | None = None) -> bytes:
    field = struct.pack("<BL", 1, zlib.crc32(raw) if checksum is None else checksum) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


NAMES: dict[str, tuple[Entry, str]] = {
    "ASCII": (Entry(b"cat/1.jpg"), "cat/1.jpg"),
    "the flag, as Python, Java and 7-Zip write": (Entry("caf\u00e9/1.jpg".encode(), flags=UTF_8), "caf\u00e9/1.jpg"),
    "no flag, as Info-ZIP on Linux": (Entry("caf\u00e9/1.jpg".encode()), "caf\u00e9/1.jpg"),
    "no flag and NFD, as macOS": (Entry("cafe\u0301/1.jpg".encode()), "cafe\u0301/1.jpg"),
    "no flag, Japanese": (Entry("\u732b/1.jpg".encode()), "\u732b/1.jpg"),
    "code page 437, as Windows": (Entry("caf\u00e9/1.jpg".encode("cp437"), host=DOS), "caf\u00e9/1.jpg"),
    "code page 437 and NTFS": (Entry("\u00fcber/\u00f1.jpg".encode("cp437"), host=NTFS), "\u00fcber/\u00f1.jpg"),
    "the Unicode path, as WinRAR": (
        Entry(b"___/1.jpg", host=DOS, extra=unicode_path(b"___/1.jpg", "\u65e5\u672c\u8a9e/1.jpg")),
        "\u65e5\u672c\u8a9e/1.jpg",
    ),
    "the Unicode path after another field": (
        Entry(b"_/1.jpg", extra=struct.pack("<HH", 0x5455, 1) + b"\0" + unicode_path(b"_/1.jpg", "\u00e9/1.jpg")),
        "\u00e9/1.jpg",
    ),
    "the Unicode path of another name": (Entry(b"b/1.jpg", extra=unicode_path(b"_/1.jpg", "\u00e9/1.jpg")), "b/1.jpg"),
    "backslashes, as .NET": (Entry(b"photos\\cat\\1.jpg", host=DOS), "photos/cat/1.jpg"),
    "backslashes and NTFS": (Entry(b"photos\\cat\\1.jpg", host=NTFS), "photos/cat/1.jpg"),
    "backslashes and VFAT": (Entry(b"photos\\cat\\1.jpg", host=VFAT), "photos/cat/1.jpg"),
    "both slashes": (Entry(b"data/train\\cat\\1.jpg", host=DOS), "data/train/cat/1.jpg"),
    "backslashes and the flag": (Entry("caf\u00e9\\1.jpg".encode(), host=DOS, flags=UTF_8), "caf\u00e9/1.jpg"),
    "backslashes and code page 437": (Entry("caf\u00e9\\1.jpg".encode("cp437"), host=DOS), "caf\u00e9/1.jpg"),
    "half a character that looks like a backslash": (
        Entry("\u30bd/1.jpg".encode("cp932"), host=DOS),
        "\u00e2\\/1.jpg",
    ),
    "a backslash in a Unix name": (Entry(b"a\\b/1.jpg"), "a\\b/1.jpg"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_in_a_zip(tmp_path: Path, case: str) -> None:
    entry, name = NAMES[case]
    path = write_zip(tmp_path / "a.zip", [entry])
    assert [member.name for member in list_members(path)] == [name]


UNZIP_DIFFERS = {
    # It converts backslashes for DOS alone, and only where no slash is in the name.
    "both slashes",
    "backslashes and NTFS",
    "backslashes and VFAT",
    # It restores them as Latin-1, and takes DOS' names for code page 437 whatever the flag says.
    "code page 437, as Windows",
    "code page 437 and NTFS",
    "backslashes and code page 437",
    "half a character that looks like a backslash",
    "backslashes and the flag",
}
OF_PYTHON = [
    "ASCII",
    "the flag, as Python, Java and 7-Zip write",
    "code page 437, as Windows",
    "code page 437 and NTFS",
    "a backslash in a Unix name",
]


@pytest.mark.parametrize("case", OF_PYTHON)
def test_names_in_a_zip_are_what_python_reads(tmp_path: Path, case: str) -> None:
    path = write_zip(tmp_path / "a.zip", [NAMES[case][0]])
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [member.name for member in list_members(path)]


@pytest.mark.skipif(not shutil.which("unzip"), reason="no unzip here")
@pytest.mark.parametrize("case", [case for case in NAMES if case not in UNZIP_DIFFERS])
def test_names_in_a_zip_are_what_unzip_restores(tmp_path: Path, case: str) -> None:
    entry, name = NAMES[case]
    path = write_zip(tmp_path / "a.zip", [entry])
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    subprocess.run(["unzip", "-q", path, "-d", tmp_path / "out"], env=environment, check=False, capture_output=True)
    assert [str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.jpg")] == [name]


def test_folders_by_backslash_are_no_members(tmp_path: Path) -> None:
    names = [b"photos\\", b"photos\\cat\\", b"photos\\cat\\1.jpg", b"photos\\dog\\1.jpg"]
    source = open_source(write_zip(tmp_path / "a.zip", [Entry(name, name, DOS) for name in names]))
    assert source.table.classes == ("cat", "dog")
    assert source.table.root == "photos/"
    assert source.table.ignored == 0
    assert [source.read(row) for row in range(2)] == names[2:]


@pytest.mark.parametrize(
    "names",
    [
        [b"cat/1.jpg", b"dog/1.jpg", b"cat/1.jpg"],
        [b"cat/1.jpg", b"dog/1.jpg", b"./cat/1.jpg"],
        [b"cat/1.jpg", b"dog/1.jpg", b"cat\\1.jpg"],
    ],
)
def test_one_name_twice_in_an_archive_is_refused(tmp_path: Path, names: list[bytes]) -> None:
    locations = [write_zip(tmp_path / "a.zip", [Entry(name, name, DOS) for name in names])]
    if b"\\" not in b"".join(names):
        locations.append(tmp_path / "a.tar")
        with tarfile.open(locations[-1], "w") as archive:
            for name in names:
                add(archive, name.decode(), b"x")
    for location in locations:
        with pytest.raises(DataError, match=re.escape(f"{location} holds cat/1.jpg twice; pack")):
            read_dataset(location)


def test_symbolic_links_in_a_zip_are_left_out_and_said(tmp_path: Path) -> None:
    entries = [Entry(f"{name}/{number}.jpg".encode(), b"x") for name in ("a", "b") for number in range(3)]
    link = Entry(b"a/link.jpg", b"../b/1.jpg", mode=0o120777)
    dataset = read_dataset(write_zip(tmp_path / "a.zip", [*entries, link]))
    assert len(dataset.all()) == 6
    assert dataset.source.table.ignored == 1
    assert len(list(find_images([str(tmp_path / "a.zip")]))) == 6
    assert dataset.source.table.left_out == ("1 link: no image inside",)


SIDECARS = ("a/._0.jpg", "__MACOSX/a/._1.jpg", "a/.DS_Store", ".DS_Store", "b/Thumbs.db", "b/desktop.ini")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("root", ["", "./", "photos/"])
def test_what_systems_leave_beside_files_is_counted(tmp_path: Path, kind: str, root: str) -> None:
    names = [f"{root}{name}" for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg", *SIDECARS)]
    location = tmp_path / f"a.{kind}"
    if kind == "zip":
        write_zip(location, [Entry(name.encode(), b"x") for name in names])
    else:
        with tarfile.open(location, "w") as archive:
            for name in names:
                add(archive, name, b"x")
    dataset = read_dataset(location)
    assert dataset.classes == ("a", "b")
    assert len(dataset.all()) == 4
    assert dataset.source.table.ignored == len(SIDECARS)


FILES = (
    "a/z.jpg",
    "a/a/1.jpg",
    "a/a-b/1.jpg",
    "a/a.jpg/1.jpg",
    "a/\u00e9.jpg",
    "a-b/1.jpg",
    "a-b/B.JPG",
    "a-b/b.jpg",
    "a b/10.jpg",
    "a b/9.jpg",
    "a.jpg/1.png",
    "a\\b/1.jpg",
    "caf\u00e9/1.jpg",
    "nai\u0308ve/1.jpg",
    "\u732b/\U0001f415.jpg",
    "A/1.jpg",
    "deep/1/2/3/4.jpg",
    "deep/1/2.jpg",
    "deep/1.jpg",
    "~/#.jpg",
    "nfd/e\u0301.jpg",
    "nfd/f.jpg",
    "e\u0301d/1.jpg",
    "f/1.jpg",
    "zip/notes.txt",
    "zip/1.jpg",
)


def write_tree(root: Path, splits: Sequence[str]) -> Path:
    for split in splits:
        for name in FILES:
            for number in range(3):
                path = root / split / name
                path = path.with_name(f"{number}{path.name}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{split}{name}{number}".encode())
    return root


def pack(root: Path, location: Path, by: str, top: str) -> Path:
    if by == "zipfile":
        with zipfile.ZipFile(location, "w") as archive:
            for path in sorted(root.rglob("*"), reverse=True):
                archive.write(path, f"{top}/{path.relative_to(root)}")
    elif by == "tarfile":
        with tarfile.open(location, "w") as archive:
            archive.add(root, top)
    else:
        command = {"zip": ["zip", "-qr", location, top], "tar": ["tar", "-cf", location, top]}[by]
        subprocess.run(command, cwd=root if top == "." else root.parent, check=True)
    return location


@pytest.mark.parametrize("splits", [[""], ["train", "val"]])
@pytest.mark.parametrize("top", ["photos", "."])
@pytest.mark.parametrize(("by", "kind"), [("zip", "zip"), ("zipfile", "zip"), ("tar", "tar"), ("tarfile", "tar")])
def test_an_archive_of_a_folder_is_that_folder(tmp_path: Path, by: str, kind: str, top: str, splits: list[str]) -> None:
    """The same classes, the same images held out, and all rows in the same order."""
    if by in ("zip", "tar") and not shutil.which(by):
        pytest.skip(f"no {by} here")
    folder = write_tree(tmp_path / "photos", splits)
    ours, theirs = read_dataset(pack(folder, tmp_path / f"a.{kind}", by, top)), read_dataset(folder)
    assert ours.classes == theirs.classes
    assert ours.has_val == theirs.has_val == (len(splits) == 2)
    start = len("photos/") if top == "photos" else 0
    for mine, reference in ((ours.all(), theirs.all()), (ours.train, theirs.train), (ours.val, theirs.val)):
        assert [mine.path(row)[start:] for row in range(len(mine))] == list(map(reference.path, range(len(reference))))
        assert mine.labels.tolist() == reference.labels.tolist()
        assert [mine.read(row) for row in range(len(mine))] == [reference.read(row) for row in range(len(reference))]


def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive.addfile(member)


def write_linked(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        link(archive, "dog/before.jpg", "cat/1.jpg")
        add(archive, "cat/1.jpg", b"first")
        add(archive, "pool/x", b"pool")
        link(archive, "cat/2.jpg", "./pool/x")
        link(archive, "dog/1.jpg", "cat/1.jpg")
        link(archive, "dog/chain.jpg", "dog/1.jpg")
        link(archive, "dog/soft.jpg", "../cat/1.jpg", tarfile.SYMTYPE)
        link(archive, "dog/soft-chain.jpg", "soft.jpg", tarfile.SYMTYPE)
        link(archive, "dog/loop.jpg", "loop.jpg", tarfile.SYMTYPE)
        link(archive, "dog/out.jpg", "/etc/passwd", tarfile.SYMTYPE)
        link(archive, "dog/climbs.jpg", "../../etc/passwd", tarfile.SYMTYPE)
        link(archive, "dog/nowhere.jpg", "cat/9.jpg")
        link(archive, "dog/device.jpg", "", tarfile.CHRTYPE)
    return path


def test_links_in_a_tar_are_followed_inside_it(tmp_path: Path) -> None:
    location = write_linked(tmp_path / "a.tar")
    source = open_source(location)
    assert {source.path(row): source.read(row) for row in range(len(source))} == {
        "cat/1.jpg": b"first",
        "cat/2.jpg": b"pool",
        "dog/1.jpg": b"first",
        "dog/before.jpg": b"first",
        "dog/chain.jpg": b"first",
        "dog/soft.jpg": b"first",
        "dog/soft-chain.jpg": b"first",
    }
    assert source.table.ignored == 6
    assert "5 links: no image inside" in source.table.left_out
    predicted = {image.name.removeprefix(f"{location}:"): image.read() for image in find_images([str(location)])}
    assert predicted == {source.path(row): source.read(row) for row in range(len(source))}


def test_hard_links_as_tar_writes_them(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        (folder / f"cat/{number}.jpg").write_bytes(b"%d" % number)
        (folder / f"dog/{number}.jpg").hardlink_to(folder / f"cat/{number}.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "photos")
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert sum(member.islnk() for member in archive) == 4
    ours, theirs = read_dataset(tmp_path / "a.tar").all(), read_dataset(folder).all()
    assert [ours.read(row) for row in range(8)] == [theirs.read(row) for row in range(8)]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_strange_names_in_a_tar(tmp_path: Path, form: int) -> None:
    names = [f"{'x' * 200}/{'y' * 150}.jpg", "caf\udce9/1.jpg", "\u732b/1.jpg"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for name in names:
            add(archive, name, name.encode(errors="surrogateescape"))
        link(archive, f"{'x' * 200}/link.jpg", names[0])
    source = open_source(tmp_path / "a.tar")
    found = {source.path(row): source.read(row).decode(errors="surrogateescape") for row in range(len(source))}
    assert found == {name: name for name in names} | {f"{'x' * 200}/link.jpg": names[0]}


def test_a_tar_is_listed_in_memory_that_hardly_grows(tmp_path: Path) -> None:
    """Python's object for a member takes a kilobyte."""

    def peak(count: int) -> int:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for number in range(count):
                add(archive, f"{number % 10}/{number:07}.jpg", b"x")
        tracemalloc.start()
        try:
            assert len(TarSource.index([tmp_path / "a.tar"])) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(4000) - peak(2000) < 2000 * 400


def test_imagenets_archives_with_a_macs_sidecars(textures: Path, tmp_path: Path) -> None:
    write_imagenet(textures, tmp_path)
    before = ImageNetSource.index(ImageNetSource.find(tmp_path))
    assert before.ignored == 0
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "a") as archive:
        add(archive, "._n01.tar", b"AppleDouble")
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as images:
            add(images, "._n09_1.JPEG", b"AppleDouble")
            add(images, "n09_1.JPEG", jpegs(textures, "train")[0][2])
        add(archive, "n09.tar", inner.getvalue())
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "a") as archive:
        add(archive, "val/._ILSVRC2012_val_00000001.JPEG", b"AppleDouble")
    after = ImageNetSource.index(ImageNetSource.find(tmp_path))
    assert after.ignored == 3
    assert len(after) == len(before) + 1
