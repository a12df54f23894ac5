"""Where files are kept: a folder, or a zip archive read in place. What the files mean is `data.index`'s business."""

from __future__ import annotations

import os
import zipfile
import zlib
from importlib import resources
from pathlib import Path
from typing import Protocol

from inceptionv4.errors import DataError, ImageError

DIGITS = "digits"
"""The name that stands for the archive inside the package."""


class Source(Protocol):
    """Files by their paths, which are relative and separated by `/`."""

    location: str

    def list(self) -> list[str]:
        """All files, sorted; hidden ones left out."""
        ...

    def read(self, path: str) -> bytes:
        """The content of one file of `list`.

        Raises:
            ImageError: it cannot be read.
        """
        ...

    def describe(self, path: str) -> str:
        """`path` as an error names it."""
        ...


def open_source(location: str | Path) -> Source:
    """The source at `location`: a folder, a .zip, or the embedded `digits`.

    A folder called `digits` in the working directory is reached as `./digits`.

    Raises:
        DataError: nothing there, or neither a folder nor a zip archive.
    """
    if str(location) == DIGITS:
        return ZipSource(Path(str(resources.files("inceptionv4.data") / "digits.zip")), location=DIGITS)
    path = Path(location)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return ZipSource(path)
    raise DataError(f"no images at {path}: there is no such folder or .zip; --data takes either, or `digits`")


class FolderSource:
    """The files below a folder; symbolic links are followed, each folder once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def list(self) -> list[str]:
        paths: list[str] = []
        seen: set[tuple[int, int]] = set()

        def visit(folder: Path, prefix: str) -> None:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        visit(Path(entry.path), f"{prefix}{entry.name}/")
                    elif entry.is_file():
                        paths.append(prefix + entry.name)

        try:
            visit(self.root, "")
        except OSError as error:
            raise DataError(f"cannot list {error.filename}: {error.strerror}") from None
        return sorted(paths)

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.describe(path)} cannot be read: {error.strerror}") from None

    def describe(self, path: str) -> str:
        return str(self.root / path)


class ZipSource:
    """The members of a zip archive. Nothing is extracted, so no member can land outside."""

    def __init__(self, path: Path, location: str | None = None) -> None:
        self.location = location or str(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{path} is neither a folder nor a complete .zip ({error}); pack the class folders as a .zip"
            ) from None

    def list(self) -> list[str]:
        members = [member.filename for member in self._archive.infolist() if not member.is_dir()]
        return sorted(
            path for path in members if not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
        )

    def read(self, path: str) -> bytes:
        try:
            return self._archive.read(path)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
            raise ImageError(f"{self.describe(path)} cannot be read: {error}") from None

    def describe(self, path: str) -> str:
        return f"{self.location}:{path}"
