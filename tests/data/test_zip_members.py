"""A .zip's directory read entry by entry, against Python's reader of the whole."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from inceptionv4.data.formats.zip_members import list_members, read_member
from inceptionv4.errors import DataError, ImageError

CONTENTS = {"a/1.jpg": b"one" * 100, "ä/2.jpg": os.urandom(300), "../../3.jpg": b"", "4.jpg": bytes(10_000)}


def pack(path: Path, comment: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("folder")
        for number, (name, content) in enumerate(CONTENTS.items()):
            archive.writestr(name, content, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
        archive.comment = comment
    return path


def read_all(path: Path) -> dict[str, bytes]:
    def read(offset: int, size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    return {member.name: read_member(member, member.name, read) for member in list_members(path)}


@pytest.mark.parametrize("comment", [b"", b"a comment", bytes(65_000)])
def test_members_are_those_of_pythons_reader(tmp_path: Path, comment: bytes) -> None:
    path = pack(tmp_path / "a.zip", comment)
    assert read_all(path) == CONTENTS
    with zipfile.ZipFile(path) as archive:
        expected = [
            (member.filename, member.header_offset, member.compress_size, member.file_size, member.CRC)
            for member in archive.infolist()
            if not member.is_dir()
        ]
    assert [(m.name, m.offset, m.packed, m.size, m.crc) for m in list_members(path)] == expected


def test_an_archive_behind_a_program(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip")
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())
    assert read_all(path) == CONTENTS


def test_an_archive_with_numbers_of_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python writes a small archive in the form of a large one when its limits are low.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = pack(tmp_path / "a.zip")
    monkeypatch.undo()
    assert path.read_bytes().count(b"PK\6\6") == 1
    assert read_all(path) == CONTENTS
    path.write_bytes(b"program" + path.read_bytes())
    assert read_all(path) == CONTENTS


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    content = pack(tmp_path / "a.zip").read_bytes()
    for end in [*range(0, len(content), 7), len(content) - 1]:
        (tmp_path / "cut.zip").write_bytes(content[:end])
        with pytest.raises(DataError, match=r"cut\.zip is no complete \.zip"):
            list(list_members(tmp_path / "cut.zip"))


def test_no_flipped_byte_gives_other_content(tmp_path: Path) -> None:
    content = bytearray(pack(tmp_path / "a.zip").read_bytes())
    for place in range(0, len(content), 3):
        content[place] ^= 0xFF
        (tmp_path / "flipped.zip").write_bytes(content)
        content[place] ^= 0xFF
        try:
            found = read_all(tmp_path / "flipped.zip")
        except (DataError, ImageError):
            continue
        assert set(found.values()) <= set(CONTENTS.values())


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("1.jpg", b"x")
    with pytest.raises(ImageError, match=r"1\.jpg is packed by method 12; pack it again, stored or deflated"):
        read_all(tmp_path / "a.zip")


def test_the_directory_is_never_held(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(5000):
            archive.writestr(f"{number}.jpg", b"")
    tracemalloc.start()
    assert sum(1 for _ in list_members(tmp_path / "a.zip")) == 5000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000  # 2.7 MB by zipfile
