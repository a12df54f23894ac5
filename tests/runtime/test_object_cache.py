"""The cache keeps its limit and whole objects only, whoever uses it at once and whoever is killed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3

from inceptionv4.errors import RunError, StorageError, UsageError
from inceptionv4.runtime import object_cache, storage
from inceptionv4.runtime.object_cache import ObjectCache, cache_limit, fetch

SIZE = 1000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[s3.Server, Path]]:
    root = tmp_path_factory.mktemp("served")
    (root / "bucket").mkdir()
    for name in "abcd":
        (root / "bucket" / name).write_bytes(name.encode() * SIZE)
    (root / "bucket/big").write_bytes(b"big!" * (5 << 20))
    with s3.running(s3.rclone(root, root.parent / "rclone.log")) as server:
        yield server, root / "bucket"


@pytest.fixture
def proxy(served: tuple[s3.Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Proxy]:
    proxy = s3.Proxy(served[0].port, mend=True)
    s3.use(monkeypatch, proxy.port)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield proxy
    proxy.close()


def find(name: str) -> storage.Object:
    object = storage.find(f"s3://bucket/{name}")
    assert object is not None
    return object


def names(cache: ObjectCache) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in cache.folder.iterdir() if path.name != "lock")


def fetch_one(cache: ObjectCache, name: str) -> None:
    path = cache.fetch(find(name))
    assert path is not None
    assert path.read_bytes() == name.encode() * SIZE
    os.utime(path, (time.time(), time.time()))
    time.sleep(0.01)


def test_what_was_used_least_recently_goes(proxy: s3.Proxy, tmp_path: Path) -> None:
    cache = ObjectCache(limit=2 * SIZE)
    for name in "ab":
        fetch_one(cache, name)
    fetch_one(cache, "a")  # used again
    fetch_one(cache, "c")
    assert names(cache) == ["a", "c"]
    cache.pinned = {cache.place(find("a"))}
    fetch_one(cache, "d")
    assert names(cache) == ["a", "d"]
    with cache.open_pinned(find("d")) as path:
        assert cache.fetch(find("b")) is None  # one stays, one is in use
        assert path is not None
        assert path.exists()
    fetch_one(cache, "b")
    assert ObjectCache(limit=SIZE - 1).fetch(find("c")) is None
    assert names(cache) == ["a", "b"]


def test_an_object_that_changed_is_another_one(proxy: s3.Proxy, served: tuple[s3.Server, Path]) -> None:
    cache = ObjectCache()
    before = find("a")
    storage.write("s3://bucket/changing", b"one")
    first = find("changing")
    assert cache.fetch(first).read_bytes() == b"one"  # type: ignore[union-attr]
    storage.write("s3://bucket/changing", b"three")
    assert cache.fetch(find("changing")).read_bytes() == b"three"  # type: ignore[union-attr]
    with pytest.raises(StorageError, match="s3://bucket/changing was replaced while it was being read"):
        ObjectCache(cache.folder / "other").fetch(first)
    assert find("a") == before


FETCH = """
import sys
from inceptionv4.runtime import object_cache, storage
from inceptionv4.runtime.object_cache import ObjectCache
print(ObjectCache().fetch(storage.find("s3://bucket/big")))
"""


def start() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", FETCH], stdout=subprocess.PIPE, text=True)


def test_several_processes_fetch_an_object_once(proxy: s3.Proxy) -> None:
    proxy.fault = lambda request: "delay"
    processes = [start() for _ in range(3)]
    paths = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == b"big!" * (5 << 20)
    assert sum(line.startswith("GET") for line in proxy.requests) == 3  # its three parts


def test_a_process_that_is_killed_leaves_no_harm(proxy: s3.Proxy, tmp_path: Path) -> None:
    hung: list[str] = []

    def hang(request: str) -> str:
        hung.append(request)
        return "hang" if request.startswith("GET") and len(hung) > 2 else "none"

    proxy.fault = hang
    process = start()
    while len(hung) < 3:
        time.sleep(0.01)
    waiting = start()  # another one, which waits for it
    time.sleep(0.3)
    process.kill()
    proxy.fault = lambda request: "none"
    path = Path(waiting.communicate(timeout=30)[0].strip())
    process.communicate()
    assert path.read_bytes() == b"big!" * (5 << 20)
    assert names(ObjectCache()) == ["big"]


def test_what_a_failed_fetch_took_is_given_back(proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    object = find("big")
    s3.use(monkeypatch, proxy.port, 0.5)
    proxy.fault = lambda request: "503"
    with pytest.raises(StorageError, match="s3://bucket/big"):
        ObjectCache().fetch(object)
    assert names(ObjectCache()) == []


def test_what_others_rename_meanwhile_does_not_matter(tmp_path: Path) -> None:
    """Another process fetches one object after the other, each a `.part` until it is there."""
    for number in range(300):
        (tmp_path / f"{number:03}").write_bytes(b"1234567890")
    code = (
        f"from pathlib import Path; folder = Path({str(tmp_path)!r})\n"
        "while True:\n"
        "    for number in range(300):\n"
        "        path = folder / f'{number:03}'\n"
        "        part = path.rename(f'{path}.part'); part.rename(path)\n"
        "        if not number: print(flush=True)"
    )
    cache = ObjectCache(tmp_path, limit=10**9)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            for _ in range(300):
                cache_limit(tmp_path)
                assert cache._make_room(10, tmp_path / "own")
            assert other.poll() is None
        finally:
            other.kill()


def test_room_is_taken_before_another_may_ask(proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(ObjectCache, "_fill", lambda self, found, file, part: taken.append(part.stat().st_size))
    with pytest.MonkeyPatch.context() as patched:
        # `fetch` would ask for ever, as nothing comes.
        patched.setattr(ObjectCache, "find", lambda self, found: self.place(found) if taken else None)
        ObjectCache().fetch(find("big"))
    assert taken == [20 << 20]


def test_a_name_that_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems take 255 bytes, and a character may be four of them."""
    monkeypatch.setattr(object_cache, "download", lambda found, file: os.write(file, b"ab"))
    path = ObjectCache(tmp_path, limit=10).fetch(storage.Object(f"s3://bucket/{'训练' * 60}.tar", 2, "1"))
    assert path is not None
    assert path.read_bytes() == b"ab"
    assert path.suffix == ".tar"


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(RunError, match="cannot keep s3://b/k in .*: No space left on device; free some space"):
        ObjectCache(tmp_path, limit=10).fetch(storage.Object("s3://b/k", 2, "1"))


def test_bring(proxy: s3.Proxy, tmp_path: Path) -> None:
    assert fetch(tmp_path) == tmp_path
    assert fetch("s3://bucket/a").read_bytes() == b"a" * SIZE
    with pytest.raises(StorageError, match="s3://bucket/nothing is not there"):
        fetch("s3://bucket/nothing")


def test_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCEPTIONV4_CACHE_GB", "1.5")
    assert cache_limit(tmp_path) == 1_500_000_000
    for text in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("INCEPTIONV4_CACHE_GB", text)
        with pytest.raises(UsageError, match=f"INCEPTIONV4_CACHE_GB .* got '{text}'"):
            cache_limit(tmp_path)
    monkeypatch.delenv("INCEPTIONV4_CACHE_GB")
    status = os.statvfs(tmp_path)
    assert cache_limit(tmp_path / "not/yet") == pytest.approx(status.f_bavail * status.f_frsize / 2, rel=0.1)
