"""Data in object storage: tar shards, or one .tar or .zip, by a URI.

Objects are read whole once, for the index, several at a time. As many of them as the cache has room for stay in it,
the first ones by name, and are read there like any file; of the others, each image is a range that is read over the
network, many at a time, as is an image of an object that is yet to come. Which ones stay is settled when the data are
opened: in an order of chance over all images, any other rule would throw out what is wanted a moment later.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from inceptionv4.data.cache import cached, kind_of
from inceptionv4.data.formats.shard import read_shard
from inceptionv4.data.formats.shards import (
    BRACES,
    CLASSES,
    ShardSource,
    choose_shards,
    expand,
    is_shard,
    refuse_missing,
    table_of_shards,
)
from inceptionv4.data.formats.source import LocalFiles, RangeSource
from inceptionv4.data.formats.tar import TarSource
from inceptionv4.data.formats.zip import ZipSource
from inceptionv4.data.layout import is_hidden
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import Table, counted
from inceptionv4.errors import ChangedError, DataError, StorageError
from inceptionv4.runtime import storage
from inceptionv4.runtime.files import cache_folder, locked
from inceptionv4.runtime.object_cache import ObjectCache
from inceptionv4.runtime.progress import Progress
from inceptionv4.runtime.storage import Object

Found = TypeVar("Found")

READERS = 32
"""Reads under way at once: at 20 ms and 100 kB each, 1600 images or 160 MB a second."""
INDEXERS = 4
"""Objects that are fetched and listed at once, each in several parts."""
PAUSE = 60
"""Seconds before a shard that could not be fetched is tried again."""
MEGA = 10**6
ARCHIVES: dict[str, type[RangeSource]] = {".tar": TarSource, ".zip": ZipSource}


def open_remote(uri: str, options: ReadOptions = AS_FOUND) -> RangeSource:
    """The labelled images at a URI.

    Raises:
        DataError: nothing there, nothing that can be read from there, or something damaged.
        StorageError: the storage cannot be reached, or refuses.
        RunError: the disk of the cache is full.
    """
    is_shards = bool(BRACES.search(uri)) or options.layout == ShardSource.layout_name
    archive = None if is_shards else ARCHIVES.get(Path(uri).suffix.lower())
    kind = archive or ShardSource
    if options.layout not in (None, kind.layout_name):
        raise DataError(f"{uri} is no {options.layout}, as data.layout says: it is read as {kind.layout_name}")
    there, lists, beside = _find_shards(uri) if archive is None else (_one(uri), [], ())
    if not there:
        raise DataError(
            f"no images at {uri}: there are no shards such as train-000000.tar; object storage is read as shards, "
            "which `inceptionv4 data pack` writes, or as one .tar or .zip"
        )
    options.require_use(kind.layout_name, uri)
    if archive is None:
        folder = _folder_of(uri)
        objects, splits, left_out = choose_shards(there, [_below(folder, one) for one in there], options, folder)
    else:
        objects, splits, left_out = there, [], ()
    files = RemoteFiles(objects)

    def index() -> Table:
        if archive is not None:
            return replace(files.examine(lambda path: archive.index([path], options))[0], containers=(uri,))
        classes = {one.uri: storage.read_all(one) for one in lists}
        names_of = [shard.uri for shard in objects]
        return table_of_shards(uri, names_of, splits, files.examine(read_shard), classes, (*left_out, *beside))

    mark = [[object.name, object.size, object.version] for object in (*there, *lists)]
    name = hashlib.sha256(uri.encode()).hexdigest()[:32]
    # All processes of a machine want the same index, and one makes it.
    with locked(cache_folder() / f"{name}.lock"):
        return kind(uri, cached(uri, kind_of(kind, options), index, mark, costly=True), files)


def _one(uri: str) -> list[Object]:
    found = storage.find(uri)
    return [] if found is None else [found]


def _folder_of(uri: str) -> str:
    """The folder of a pattern or of a single shard; else `uri` is the folder."""
    return uri.rpartition("/")[0] if BRACES.search(uri) or uri.lower().endswith(".tar") else uri.rstrip("/")


def _below(folder: str, object: Object) -> str:
    return object.uri.removeprefix(f"{folder}/")


def _find_shards(uri: str) -> tuple[list[Object], list[Object], tuple[str, ...]]:
    """The shards that a pattern names, or that lie in a folder and those in it; each `classes.txt` beside them; and in
    words which other .tar files lie there.

    Raises:
        DataError: one of the pattern's shards is missing.
    """
    folder = _folder_of(uri)
    there = {object.uri: object for object in storage.list_objects(folder)}
    others: list[str] = []
    if BRACES.search(uri):
        wanted = expand(uri)
        refuse_missing(uri, len(wanted), [name for name in wanted if name not in there])
    elif folder != uri.rstrip("/"):
        wanted = [name for name in there if name == uri]
    else:
        wanted = [name for name, object in there.items() if is_shard(_below(folder, object))]
        tars = {name for name in there if name.lower().endswith(".tar") and not is_hidden(there[name].name)}
        others = sorted(there[name].name for name in tars - set(wanted))
    folders = dict.fromkeys([folder, *(name.rpartition("/")[0] for name in wanted)])
    lists = [there[name] for name in (f"{place}/{CLASSES}" for place in folders) if name in there]
    beside = (f"{counted(len(others), 'file')} ({', '.join(others[:3])}): the shards are the data",) if others else ()
    return [there[name] for name in wanted], lists, beside


class RemoteFiles:
    """Objects as the files of a source: those that stay in the cache, and ranges of the others."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = objects
        self.cache = ObjectCache()
        self.stays = _fitting(objects, self.cache.limit)
        """How many of the first ones have room."""
        self.cache.pinned = {self.cache.place(object) for object in objects[: self.stays]}
        self._local = LocalFiles([str(self.cache.place(object)) for object in objects])
        self._missing: deque[int] = deque(
            number for number in range(self.stays) if self.cache.find(objects[number]) is None
        )
        self._filling = threading.Lock()
        self._filler: threading.Thread | None = None
        self._next_try = 0.0

    @property
    def io_threads(self) -> int:
        """None are needed where everything lies in the cache."""
        return READERS if self._missing or self.stays < len(self.objects) else 0

    @property
    def version(self) -> str:
        lines = "\n".join(f"{object.name} {object.size} {object.version}" for object in self.objects)
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16]

    def read(self, number: int, offset: int, size: int) -> bytes:
        try:
            return self._local.read(number, offset, size)
        except OSError:  # not there, or the disk is failing
            self._fill()
            return storage.read(self.objects[number], offset, size)

    def examine(self, look: Callable[[Path], Found]) -> list[Found]:
        """What `look` finds in each object, while it lies in the cache.

        Raises:
            DataError: what `look` raises, with the URI instead of the path.
            StorageError: an object cannot be fetched, or there is no room for it.
        """

        def one(object: Object) -> Found:
            with self.cache.open_pinned(object) as path:
                if path is None:
                    raise StorageError(
                        f"no room for {object.uri}, {object.size / 1e9:.2g} GB, to be listed; set INCEPTIONV4_CACHE_GB "
                        f"to {INDEXERS} times that or more, or free some space in {self.cache.folder}"
                    )
                try:
                    return look(path)
                except DataError as error:
                    raise DataError(str(error).replace(str(path), object.uri)) from None

        found, done = [], 0
        sizes = [object.size for object in self.objects]
        with (
            Progress("fetching and listing", -(-sum(sizes) // MEGA), unit=("MB", "MB/s")) as progress,
            ThreadPoolExecutor(INDEXERS, thread_name_prefix="index") as pool,
        ):
            for result, size in zip(pool.map(one, self.objects), sizes, strict=True):
                found.append(result)
                done += size
                progress.advance(-(-done // MEGA) - progress.done)
        self._missing.clear()
        return found

    def _fill(self) -> None:
        """Fetch what is missing in the cache, in a thread of its own, while ranges are read."""
        with self._filling:
            if self._missing and self._filler is None and time.monotonic() >= self._next_try:
                self._filler = threading.Thread(target=self._fetch_missing, name="fetch")
                self._filler.start()

    def _fetch_missing(self) -> None:
        # A process that ends waits for its threads, so this one ends soon after the main one.
        while self._missing and threading.main_thread().is_alive():
            try:
                self.cache.fetch(self.objects[self._missing[0]])
            except Exception as error:  # noqa: BLE001 - ranges are read on, and say what is wrong
                pause = math.inf if isinstance(error, ChangedError) else PAUSE  # what was replaced does not come back
                with self._filling:
                    self._filler, self._next_try = None, time.monotonic() + pause
                return
            self._missing.popleft()


def _fitting(objects: Sequence[Object], limit: int) -> int:
    """How many of the first objects can stay within `limit`, with room for those that come to be listed and go."""
    total = sum(object.size for object in objects)
    if total > limit:
        limit -= INDEXERS * max(object.size for object in objects)
    count, used = 0, 0
    for object in objects:
        used += object.size
        if used > limit:
            break
        count += 1
    return count
