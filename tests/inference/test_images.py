"""Files, folders, patterns, archives and lists become images one at a time."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from inceptionv4.errors import ImageError, UsageError
from inceptionv4.inference.images import check_places, find_images


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; each file's content is its own name."""
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.jpg", "b/1.png", "b/c/3.jpg", "b-a/4.jpg", "b/note.txt", "b/.hidden.jpg", "b/.cache/5.jpg", "6"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    return tmp_path


def found(*places: str, lines: list[str] | None = None) -> list[tuple[str, str]]:
    """The name of each image, and its content or why it has none."""

    def content(read: object) -> str:
        try:
            return read().decode()  # type: ignore[operator]
        except ImageError as error:
            return f"error: {error}"

    return [(image.name, content(image.read)) for image in find_images(places, lines)]


def same(*names: str) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def test_files_and_folders_in_the_order_given(place: Path) -> None:
    assert found("6", "b", "b/2.jpg", "b-a") == same("6", "b/1.png", "b/2.jpg", "b/c/3.jpg", "b/2.jpg", "b-a/4.jpg")
    assert found(".") == same("b-a/4.jpg", "b/1.png", "b/2.jpg", "b/c/3.jpg")


def test_patterns_that_no_shell_expanded(place: Path) -> None:
    assert found("b/*.jpg") == same("b/2.jpg")
    assert found("**/*.jpg") == same("b-a/4.jpg", "b/2.jpg", "b/c/3.jpg")
    assert found("b*") == same("b/1.png", "b/2.jpg", "b/c/3.jpg", "b-a/4.jpg")
    # Each once, though its folder matches too.
    assert found("b/**") == found("b")
    assert found("b/**/*") == same("b/1.png", "b/2.jpg", "b/c/3.jpg", "b/note.txt")
    assert found("**") == same("6", "b/1.png", "b/2.jpg", "b/c/3.jpg", "b-a/4.jpg")
    assert found("b/[2].jpg") == same("b/2.jpg")
    Path("b/[2].jpg").write_text("b/[2].jpg")
    assert found("b/[2].jpg") == same("b/[2].jpg")  # a file is taken by its name


@pytest.mark.parametrize("prefix", ["", "photos/"])
def test_archives_are_read_in_place_whatever_their_members_are_called(place: Path, prefix: str) -> None:
    before = {path for path in place.rglob("*") if path.is_file()}
    names = [f"{prefix}{name}" for name in ("z.jpg", "a/1.jpg", "../../up.jpg", "C:\\x.jpg", "ü.png")]
    if not prefix:
        names.append("/root.jpg")
    with zipfile.ZipFile("a.zip", "w") as archive:
        for number, name in enumerate([*names, "note.txt", "__MACOSX/z.jpg", ".git/z.jpg"]):
            archive.writestr(name, name, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
    with tarfile.open("a.tar", "w") as archive:
        for name in [*names, "note.txt", ".git/z.jpg"]:
            add(archive, name, name.encode())
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        device = tarfile.TarInfo("device.jpg")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    for file in ("a.zip", "a.tar"):
        # Named as they are restored: `/root.jpg` as `root.jpg`.
        assert found(file) == [(f"{file}:{name.removeprefix('/')}", name) for name in names]
    assert {path for path in place.rglob("*") if path.is_file()} - before == {place / "a.zip", place / "a.tar"}


def test_a_list_on_standard_input_names_anything(place: Path) -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("1.jpg", "one")
    lines = ["b/2.jpg\n", "\n", "gone.jpg\r\n", "b-a\n", "a.zip\n", "*/*.png"]
    assert found("6", "-", "6", lines=lines) == [
        *same("6", "b/2.jpg"),
        ("gone.jpg", "error: no image at gone.jpg; give files, folders, archives, patterns or http(s) addresses"),
        *same("b-a/4.jpg"),
        ("a.zip:1.jpg", "one"),
        *same("b/1.png", "6"),
    ]
    assert found("-")[0][1].startswith("error: no image at -")


def test_trouble_is_one_images_and_the_rest_follows(place: Path) -> None:
    Path("empty").mkdir()
    Path("text.zip").write_text("no archive")
    with zipfile.ZipFile("none.zip", "w") as archive:
        archive.writestr("note.txt", "")
    with tarfile.open("whole.tar", "w") as archive:
        for name in ("1.jpg", "2.jpg"):
            add(archive, name, bytes(5000))
    Path("cut.tar").write_bytes(Path("whole.tar").read_bytes()[:7000])
    with tarfile.open("packed.tar.gz", "w:gz") as archive:
        add(archive, "1.jpg", b"")
    with zipfile.ZipFile("packed.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("1.jpg", "one")
    Path("loop").symlink_to("loop")
    for place_, message in (
        ("empty", "no images in empty: no file there has an image's extension"),
        ("text.zip", "text.zip is no complete .zip (it has no directory at its end)"),
        ("none.zip", "no images in none.zip: no member has an image's extension"),
        ("packed.tar.gz", "packed.tar.gz is compressed as a whole"),
        ("packed.zip", "packed.zip:1.jpg is packed by method 14"),
        ("gone", "no image at gone"),
        ("x" * 300, "cannot be read: File name too long"),
        ("x*", "nothing matches x*"),
        ("nul\0", "no image at nul"),
        ("ftp://example.org/a.jpg", "is not fetched: images come from http and https alone"),
        ("file:///etc/passwd", "is not fetched: images come from http and https alone"),
    ):
        (before, (_, said), after) = found("6", place_, "b-a")
        assert (before, after) == (*same("6"), *same("b-a/4.jpg"))
        assert said.startswith("error: ")
        assert message in said
    first, second, after = found("cut.tar", "6")
    assert (first, after) == (("cut.tar:1.jpg", bytes(5000).decode()), ("6", "6"))
    assert "cut.tar is" in second[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(place: Path) -> None:
    Path("6").chmod(0)
    assert found("6")[0][1] == "error: 6 cannot be read: Permission denied"


def test_places_are_looked_at_before_anything_is_done(place: Path) -> None:
    check_places(["b", "6", "b/*.jpg", "-", "http://127.0.0.1:1/a.jpg"])
    Path("empty").mkdir()
    for place_, message in (
        ("gone.jpg", "no image at gone.jpg"),
        ("empty", "no images in empty"),
        ("x*.jpg", r"nothing matches x\*\.jpg"),
        ("ftp://example.org/a.jpg", "http and https alone"),
    ):
        with pytest.raises(UsageError, match=message):
            check_places(["6", place_])


def test_a_folder_is_listed_when_its_turn_comes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(str(path)), scandir(path))[1])
    images = find_images(["b", "b-a"])
    assert [next(images).name, next(images).name] == ["b/1.png", "b/2.jpg"]
    assert listed == ["b"]
    assert next(images).name == "b/c/3.jpg"
    assert listed == ["b", "b/c"]
