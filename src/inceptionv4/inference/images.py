"""From what a user points at to images, one at a time: files, folders, patterns, archives, addresses, lists of them.

What there is comes when it is asked for: a folder is listed when its turn comes, an archive member by member, a list
line by line. Nothing is unpacked, and whatever a member of an archive is called, its name is never a path.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from inceptionv4.data.formats import tar, zip_members
from inceptionv4.data.formats.folder import walk
from inceptionv4.data.formats.source import plain_path
from inceptionv4.data.layout import is_hidden, is_image
from inceptionv4.errors import DataError, ImageError, UsageError
from inceptionv4.inference.web import fetch, is_address, is_fetched
from inceptionv4.runtime.credentials import has_credentials, hide_credentials
from inceptionv4.runtime.files import stamp

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Compressed ones are refused with a word about it."""
STDIN = "-"
"""Stands for a list on standard input."""


@dataclass(frozen=True)
class NamedImage:
    """An image that can be read, by any thread, and what an answer calls it.

    `read` gives the file's content, or raises `ImageError`.
    """

    name: str
    read: Callable[[], bytes]
    missing: bool = False
    """It stands for images that are not there; its `read` says which."""


def find_images(places: Iterable[str | Path], lines: Iterable[str] | None = None) -> Iterator[NamedImage]:
    """The images at `places`, in order: each a file, a folder, a pattern such as `photos/**/*.jpg`, a .zip or .tar, an
    http(s) address, or, where there are `lines`, `-` for these, each of which is again a place.

    Of folders and archives, what is not hidden and has an image's extension is taken: of a folder in the order of its
    sorted paths, of an archive in its own. Other files are taken as they are. Where there is nothing, an image comes
    whose reading says so, and the rest follows.
    """
    for place in map(str, places):
        if place == STDIN and lines is not None:
            for line in lines:
                if text := line.rstrip("\r\n"):
                    yield from _find(text)
        else:
            yield from _find(place)


def check_places(places: Iterable[str | Path]) -> None:
    """Look whether there is anything at each of `places`, without listing it all.

    Raises:
        UsageError: a path does not exist, a pattern matches nothing, a folder holds no images, or an address is of a
            kind that is not fetched.
    """
    for place in map(str, places):
        if place == STDIN or (_is_pattern(place) and any(_matches(place))):
            continue
        first = next(_find(place))
        if first.missing:
            try:
                first.read()
            except ImageError as error:
                raise UsageError(str(error)) from None


def _find(place: str) -> Iterator[NamedImage]:
    if is_address(place):
        is_refused = has_credentials(place) or not is_fetched(place)
        yield NamedImage(hide_credentials(place), partial(fetch, place), missing=is_refused)
        return
    path = Path(place)
    try:
        if path.is_dir():
            yield from _in_folder(path)
        elif path.suffix.lower() == ".zip" and path.is_file():
            yield from _in_zip(path)
        elif path.name.lower().endswith(TARS) and path.is_file():
            yield from _in_tar(path)
        elif path.exists():
            yield NamedImage(place, partial(_read_file, path))
        elif _is_pattern(place):
            yield from _matching(place)
        else:
            yield _missing(place, f"no image at {place}; give files, folders, archives, patterns or http(s) addresses")
    except DataError as error:
        yield NamedImage(place, partial(_fail, str(error)))
    except OSError as error:
        yield NamedImage(place, partial(_fail, f"{place} cannot be read: {error.strerror}"))


def _missing(name: str, reason: str) -> NamedImage:
    return NamedImage(name, partial(_fail, reason), missing=True)


def _fail(reason: str) -> NoReturn:
    raise ImageError(reason)


def _is_pattern(place: str) -> bool:
    return glob.has_magic(place) and not is_address(place) and not os.path.lexists(place)


def _in_folder(folder: Path) -> Iterator[NamedImage]:
    empty = True
    for below, names, _ in walk(folder):
        for name in filter(is_image, names):
            empty = False
            path = folder / below / name
            yield NamedImage(str(path), partial(_read_file, path))
    if empty:
        yield _missing(str(folder), f"no images in {folder}: no file there has an image's extension")


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 - a Path would lose ./ and the pattern's own root


def _matching(pattern: str) -> Iterator[NamedImage]:
    """As the shell would have it: sorted, and each match taken for what it is.

    `photos/**` matches folders as well as all that is in them, which comes once.
    """
    matches = sorted(_matches(pattern))
    folders: set[Path] = set()
    for match in matches:
        path = Path(match)
        if folders.isdisjoint(path.parents):
            if path.is_dir():
                folders.add(path)
            yield from _find(match)
    if not matches:
        yield _missing(pattern, f"nothing matches {pattern}")


def _in_zip(archive: Path) -> Iterator[NamedImage]:
    def read(member: zip_members.Member, name: str) -> bytes:
        return zip_members.read_member(member, name, partial(_read_range, archive, listed, name))

    listed, empty = stamp(archive), True
    for member in zip_members.list_members(archive):
        path = plain_path(member.name)
        if is_image_inside(path) and not member.is_link:
            empty = False
            name = f"{archive}:{path}"
            yield NamedImage(name, partial(read, member, name))
    if empty:
        yield _missing(str(archive), f"no images in {archive}: no member has an image's extension")


def _in_tar(archive: Path) -> Iterator[NamedImage]:
    def read(name: str, offset: int, size: int) -> bytes:
        content = _read_range(archive, listed, name, offset, size)
        if len(content) != size:
            raise ImageError(f"{name} cannot be read: the archive ends before it")
        return content

    listed, empty = stamp(archive), True
    for member in tar.list_members(archive):
        path = plain_path(member.name)
        if is_image_inside(path):
            empty = False
            name = f"{archive}:{path}"
            yield NamedImage(name, partial(read, name, member.offset_data, member.size))
    if empty:
        yield _missing(str(archive), f"no images in {archive}: no member has an image's extension")


def is_image_inside(path: str) -> bool:
    """True if a member of an archive is taken for an image. One whose path climbs out is: here it is a name alone."""
    parts = [part for part in path.split("/") if part not in (".", "..")]
    return is_image(parts[-1]) and not is_hidden("/".join(parts)) if parts else False


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from None


def _read_range(archive: Path, listed: tuple[int, int], name: str, offset: int, size: int) -> bytes:
    """Opened for each read, by whichever thread: that costs little beside decoding, and nothing has to be closed.
    `listed` is the archive's stamp before it was listed.
    """
    try:
        with archive.open("rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size) or b""
            if stamp(file.fileno()) == listed:
                return content
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror}") from None
    raise ImageError(f"{name} cannot be read: {archive} was changed since it was listed; start again")
