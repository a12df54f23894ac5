"""Cache of whole objects on the local disk, up to a limit, shared by all processes of a machine.

Under `$XDG_CACHE_HOME/inceptionv4/objects` an object lies as `<hash of its URI, size and version>-<name>`. While it is
fetched it is `<the same>.part`, of its full size from the start, so that room is reserved, and locked by who fetches
it. A process that is killed lets go of its locks, and leaves a `.part` that the next one to want it writes anew.
What was used least recently goes first; what is locked stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inceptionv4.errors import RunError, StorageError, UsageError
from inceptionv4.runtime.files import cache_folder, locked, try_lock
from inceptionv4.runtime.storage import Object, PathOrUri, download, find, is_uri

LOCK = "lock"


class ObjectCache:
    """The cache of this machine, up to `limit` bytes, as one of its users sees it."""

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = cache_folder() / "objects" if folder is None else folder
        self.limit = cache_limit(self.folder) if limit is None else limit
        self.pinned: set[Path] = set()
        """Not removed to make room for what this user wants; what other users want may cost them."""

    def place(self, object: Object) -> Path:
        """Path of an object when it is in the cache."""
        digest = hashlib.sha256(f"{object.uri}\n{object.size}\n{object.version}".encode()).hexdigest()[:24]
        name = object.name.encode()[-100:].decode(errors="ignore")  # file systems count bytes, 255 at most
        return self.folder / f"{digest}-{name}"

    def find(self, object: Object) -> Path | None:
        """Path of an object, which is marked as used most recently; None if it is not in the cache."""
        path = self.place(object)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def fetch(self, object: Object) -> Path | None:
        """Path of an object, fetched if it is not in the cache; None if there is no room for it.

        A process or thread that is fetching it already is waited for.

        Raises:
            StorageError: it cannot be fetched.
            RunError: the disk is full, or cannot be written.
        """
        while (path := self.find(object)) is None:
            path = self.place(object)
            part = path.with_name(f"{path.name}.part")
            with self._keeping(object), locked(self.folder / LOCK):
                file = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
                mine = try_lock(file, fcntl.LOCK_EX)
                here = path.exists()
                room = mine and not here and self._make_room(object.size, part)
                if room:
                    os.ftruncate(file, object.size)
                elif mine:
                    part.unlink()
            try:
                if room:
                    self._fill(object, file, part)
                elif not mine:
                    fcntl.flock(file, fcntl.LOCK_SH)  # until whoever fetches it has it, or is gone
                elif not here:
                    return None
            finally:
                os.close(file)
        return path

    @contextmanager
    def open_pinned(self, object: Object) -> Iterator[Path | None]:
        """`fetch`, and while this is open nobody removes it."""
        while True:
            path = self.fetch(object)
            if path is None:
                yield None
                return
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            with file:
                fcntl.flock(file, fcntl.LOCK_SH)
                if os.fstat(file.fileno()).st_nlink:
                    yield path
                    return

    def _fill(self, object: Object, file: int, part: Path) -> None:
        try:
            with self._keeping(object):
                download(object, file)
                os.fsync(file)
                with locked(self.folder / LOCK):
                    part.replace(self.place(object))
        except BaseException:
            with locked(self.folder / LOCK):
                part.unlink(missing_ok=True)
            raise

    @contextmanager
    def _keeping(self, object: Object) -> Iterator[None]:
        """Errors of the disk, with what was to be kept there and how to mend it."""
        try:
            yield
        except OSError as error:
            raise RunError(
                f"cannot keep {object.uri} in {self.folder}: {error.strerror or error}; free some space, or set "
                "XDG_CACHE_HOME to another disk or INCEPTIONV4_CACHE_GB to less"
            ) from None

    def _make_room(self, size: int, own: Path) -> bool:
        """Remove what was used least recently until `size` bytes more are within the limit; whether they are."""
        found = [
            (status.st_mtime, status.st_size, path)
            for path, status in _lying(self.folder)
            if path.name not in (LOCK, own.name)
        ]
        excess = sum(bytes for _, bytes, _ in found) + size - self.limit
        if size > self.limit:
            return False
        for _, bytes, path in sorted(found):
            if excess <= 0:
                break
            if path in self.pinned:
                continue
            with path.open("rb") as file:
                if try_lock(file.fileno(), fcntl.LOCK_EX):
                    path.unlink()
                    excess -= bytes
        return excess <= 0


def fetch(place: PathOrUri) -> Path:
    """The file that a path or a URI names; an object's is in the cache.

    Raises:
        StorageError: there is no such object, or no room, or the storage cannot be reached, or refuses.
        RunError: the disk is full.
    """
    if not is_uri(place):
        return Path(place)
    object = find(str(place))
    if object is None:
        raise StorageError(f"{place} is not there; look with `aws s3 ls` or the like what is")
    return _fetch(object)


def fetch_with(uri: str, names: Iterable[str]) -> Path:
    """The file of the object at `uri`, by its own name, with files beside it of those objects beside it that are called
    one of `names` and exist. They are links, in a folder for these very versions of the objects.

    Raises:
        StorageError: there is no such object, or no room, or the storage cannot be reached, or refuses.
        RunError: the disk is full.
    """
    folder_uri = uri.rpartition("/")[0]
    objects = [object for name in names if (object := find(f"{folder_uri}/{name}")) is not None]
    if (named := find(uri)) is None:
        raise StorageError(f"{uri} is not there; look with `aws s3 ls` or the like what is")
    objects.append(named)
    versions = "\n".join(f"{object.uri} {object.size} {object.version}" for object in objects)
    folder = cache_folder() / "models" / hashlib.sha256(versions.encode()).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for object in objects:
            link = folder / f".{object.name}.{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(_fetch(object))
            link.replace(folder / object.name)
    except OSError as error:
        raise RunError(
            f"cannot write {folder}: {error.strerror or error}; set XDG_CACHE_HOME to another disk"
        ) from None
    return folder / named.name


def _fetch(object: Object) -> Path:
    cache = ObjectCache()
    cache.limit = max(cache.limit, object.size)  # what was asked for by name is fetched in any case
    path = cache.fetch(object)
    if path is None:
        raise StorageError(
            f"no room for {object.uri}, {object.size / 1e9:.2g} GB, in {cache.folder}; free some space there"
        )
    return path


def _lying(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What lies in a folder, but for what other processes rename or remove meanwhile."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            yield Path(entry.path), status


def cache_limit(folder: Path) -> int:
    """Bytes that objects may take: `INCEPTIONV4_CACHE_GB`, else half of what would be free without them.

    Raises:
        UsageError: INCEPTIONV4_CACHE_GB is no number.
    """
    text = os.environ.get("INCEPTIONV4_CACHE_GB")
    if text is None:
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        taken = sum(status.st_size for _, status in _lying(folder)) if there == folder else 0
        return (shutil.disk_usage(there).free + taken) // 2
    try:
        limit = float(text)
    except ValueError:
        limit = -1
    if not 0 <= limit < math.inf:
        raise UsageError(f"INCEPTIONV4_CACHE_GB must be a number of gigabytes, 0 or more, got {text!r}")
    return int(limit * 1e9)
