"""Data in object storage are those on the disk: the same images in the same order, whatever lies in the cache."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3
import torch

from inceptionv4.config import AugmentConfig, Config, DataConfig, TrainingConfig
from inceptionv4.data import remote
from inceptionv4.data.index import open_source, read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.remote import READERS, RemoteFiles
from inceptionv4.data.tools.pack import pack
from inceptionv4.errors import DataError, StorageError
from inceptionv4.runtime import storage
from inceptionv4.spec import Preprocessing

SHARD_BYTES = 100_000


@pytest.fixture(scope="module")
def root(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served folder: its bucket has the textures in shards, as .tar and as .zip."""
    root = tmp_path_factory.mktemp("served")
    packed = pack(str(textures), root / "bucket/shards", shard_bytes=SHARD_BYTES)
    assert packed.shards > 8
    for kind in ("tar", "zip"):
        shutil.make_archive(str(root / "bucket/textures"), kind, textures)
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.running(s3.rclone(root, tmp_path_factory.mktemp("log") / "rclone")) as server:
        yield server


@pytest.fixture
def proxy(server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Proxy]:
    """An empty machine before the server."""
    proxy = s3.Proxy(server.port, mend=True)
    s3.use(monkeypatch, proxy.port)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield proxy
    proxy.close()


def loader(location: str, workers: int = 0) -> TrainingLoader:
    config = Config(
        data=DataConfig(path=location, sampling="balanced"),
        image=Preprocessing(size=75, crop=1.0),
        augment=AugmentConfig(color=0.3),
        training=TrainingConfig(batch_size=16),
    )
    return TrainingLoader(read_dataset(location).train, config, workers=workers)


def assert_same(batches: Any, others: Any) -> None:
    for one, other in zip(batches, others, strict=True):
        assert isinstance(one, Batch)
        assert one.number == other.number
        for name in ("images", "labels", "indices", "color_factors"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize(("kept", "workers"), [("all", 0), ("some", 2), ("none", 0), ("none", 2)])
def test_steps_are_those_of_the_disk(
    root: Path, proxy: s3.Proxy, kept: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs, the second one from its fifth step on."""
    remote = loader("s3://bucket/shards", workers)
    if kept != "all":
        # The index is there; what fits of the shards is less, and one of them is gone.
        monkeypatch.setenv("INCEPTIONV4_CACHE_GB", str(7 * SHARD_BYTES / 1e9 if kept == "some" else 0))
        remote = loader("s3://bucket/shards", workers)
        files = remote.samples.source._files  # type: ignore[attr-defined]
        assert isinstance(files, RemoteFiles)
        assert 0 < files.stays < 6 if kept == "some" else files.stays == 0
        for object in files.objects[files.stays :]:
            files.cache.place(object).unlink()
    assert remote.samples.source.io_threads == (0 if kept == "all" else READERS)
    local = loader(str(root / "bucket/shards"))
    assert remote.samples.fingerprint == local.samples.fingerprint
    asked = len(proxy.requests)
    assert_same(remote.epoch(0), local.epoch(0))
    assert_same(remote.epoch(1, start=4), local.epoch(1, start=4))
    assert (len(proxy.requests) == asked) == (kept == "all")


@pytest.mark.parametrize("name", ["shards/train-{000000..000003}.tar", "textures.tar", "textures.zip"])
def test_other_places(root: Path, proxy: s3.Proxy, name: str) -> None:
    local, remote = read_dataset(f"file://{root}/bucket/{name}"), read_dataset(f"s3://bucket/{name}")
    for part in ("train", "val"):
        ours, theirs = getattr(remote, part), getattr(local, part)
        assert ours.classes == theirs.classes == ("brick", "grass", "gravel")
        assert np.array_equal(ours.labels, theirs.labels)
        assert [ours.path(index) for index in range(len(ours))] == [theirs.path(index) for index in range(len(theirs))]
        assert [ours.read(index) for index in range(7)] == [theirs.read(index) for index in range(7)]
        assert ours.describe(0).startswith(f"s3://bucket/{name.partition('/')[0]}")


def test_an_index_is_made_once(proxy: s3.Proxy, root: Path) -> None:
    first = read_dataset("s3://bucket/shards")
    fetched = [line for line in proxy.requests if ".tar" in line and line.startswith("GET")]
    assert len(fetched) == len(first.source.table.containers)
    before = len(proxy.requests)
    again = read_dataset("s3://bucket/shards")
    assert again.train.fingerprint == first.train.fingerprint
    assert [line.split("?")[0] for line in proxy.requests[before:]] == ["GET /bucket"]
    storage.write("s3://bucket/shards/train-000099.tar", root / "bucket/shards/train-000000.tar")
    try:
        assert len(read_dataset("s3://bucket/shards").train) > len(first.train)
    finally:
        storage.delete("s3://bucket/shards/train-000099.tar")


def test_an_index_knows_the_names_of_its_shards(proxy: s3.Proxy, root: Path) -> None:
    first, second = (root / f"bucket/shards/train-00000{number}.tar" for number in range(2))
    storage.write("s3://bucket/renamed/train-0.tar", first)
    storage.write("s3://bucket/renamed/train-1.tar", second)
    assert not read_dataset("s3://bucket/renamed").has_val
    storage.write("s3://bucket/renamed/val-1.tar", second)
    storage.delete("s3://bucket/renamed/train-1.tar")
    assert read_dataset("s3://bucket/renamed").has_val


def test_a_test_beside_the_held_out_images_is_left_out(proxy: s3.Proxy, root: Path) -> None:
    storage.write("s3://bucket/shards/test-000000.tar", b"is not even read")
    try:
        remote = read_dataset("s3://bucket/shards")
        assert remote.source.table.left_out == ("1 shard: test, as another part is held out",)
    finally:
        storage.delete("s3://bucket/shards/test-000000.tar")
    local = read_dataset(root / "bucket/shards")
    assert (remote.train.fingerprint, remote.val.fingerprint) == (local.train.fingerprint, local.val.fingerprint)
    assert remote.val.read(3) == local.val.read(3)


def test_shards_in_folders_and_beside_other_files(proxy: s3.Proxy, root: Path) -> None:
    shards = root / "bucket/shards"
    for name in ("train/00.tar", "train/01.tar"):
        storage.write(f"s3://bucket/parts/{name}", shards / f"train-0000{name[-6:-4]}.tar")
    storage.write("s3://bucket/parts/val/val_0.tar", shards / "val-000000.tar")
    storage.write("s3://bucket/parts/notes.tar", b"never read")
    remote = read_dataset("s3://bucket/parts")
    assert remote.source.table.left_out == ("1 file (notes.tar): the shards are the data",)
    numbered = [len(open_source(shards / name)) for name in ("train-000000.tar", "train-000001.tar", "val-000000.tar")]
    assert (len(remote.train), len(remote.val), remote.has_val) == (sum(numbered[:2]), numbered[2], True)
    storage.write("s3://bucket/parts/others-train-0.tar", shards / "train-000000.tar")
    with pytest.raises(DataError, match=r"bucket/parts has files of several data sets, such as others-train-0\.tar"):
        read_dataset("s3://bucket/parts")


def test_one_shard_by_its_uri(proxy: s3.Proxy, root: Path) -> None:
    """It may be an archive of class folders, too: the layout decides."""
    uri = "s3://bucket/shards/train-000000.tar"
    with pytest.raises(DataError, match=r"a label as webdataset's shards have it.*say --data.layout shards"):
        read_dataset(uri)
    remote = read_dataset(uri, options=ReadOptions(layout="shards"))
    assert remote.train.classes == read_dataset(root / "bucket/shards").classes
    with pytest.raises(DataError, match=r"is no parquet, as data.layout says: it is read as tar"):
        read_dataset(uri, options=ReadOptions(layout="parquet"))


def cut(object: storage.Object) -> None:
    raise StorageError("the line is cut")


def test_shards_that_are_missing_come_while_their_images_are_read(
    proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_dataset("s3://bucket/shards").train
    files = samples.source._files  # type: ignore[attr-defined]
    for path in files.cache.pinned:
        path.unlink()
    samples = read_dataset("s3://bucket/shards").train
    files = samples.source._files  # type: ignore[attr-defined]
    assert samples.source.io_threads == READERS
    with monkeypatch.context() as patched:
        patched.setattr(files.cache, "fetch", cut)
        patched.setattr(remote, "PAUSE", 1e9)
        samples.read(0)
        while files._filler is not None:
            time.sleep(0.01)
    samples.read(1)
    assert files._filler is None, "not again at once"
    files._next_try = 0.0
    samples.read(2)
    files._filler.join(30)
    assert all(path.exists() for path in files.cache.pinned)
    before = len(proxy.requests)
    for index in range(len(samples)):
        samples.read(index)
    assert len(proxy.requests) == before
    assert samples.source.io_threads == 0


@pytest.fixture
def ranged(proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> s3.Proxy:
    """The index is here, and nothing fits in the cache."""
    samples = read_dataset("s3://bucket/shards").train
    for path in samples.source._files.cache.pinned:  # type: ignore[attr-defined]
        path.unlink()
    monkeypatch.setenv("INCEPTIONV4_CACHE_GB", "0")
    return proxy


def test_a_server_that_starts_again_in_the_middle_of_an_epoch(ranged: s3.Proxy, root: Path, tmp_path: Path) -> None:
    with s3.running(s3.rclone(root, tmp_path / "log")) as own:
        ranged.server = own.port
        seen = []
        for batch in loader("s3://bucket/shards", workers=2).epoch(0):
            seen.append(batch)
            if len(seen) == 2:
                own.stop()
                threading.Timer(0.7, own.start).start()
        assert not any(batch.bad for batch in seen)
        assert_same(seen, loader(str(root / "bucket/shards")).epoch(0))


def test_trouble_on_the_way(ranged: s3.Proxy, root: Path) -> None:
    ranged.fault = s3.Once(["cut", "503", "delay", "cut", "503"] * 6, ".tar")
    assert_same(loader("s3://bucket/shards", workers=2).epoch(0), loader(str(root / "bucket/shards")).epoch(0))


def test_images_that_cannot_be_fetched_are_no_damaged_ones(ranged: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the images may be damaged; none may be lost to the network."""
    s3.use(monkeypatch, ranged.port, 0.5)
    batches = loader("s3://bucket/shards", workers=1).epoch(0)
    next(batches)
    ranged.fault = lambda request: "503"
    with pytest.raises(StorageError, match=r"s3://bucket/shards/train-\d+.tar cannot be reached"):
        list(batches)


def test_what_cannot_be_used_is_named(proxy: s3.Proxy, root: Path) -> None:
    with pytest.raises(DataError, match="no images at s3://bucket/nothing: .*data pack"):
        read_dataset("s3://bucket/nothing")
    with pytest.raises(DataError, match=r"1 of the 1 .* missing: s3://bucket/shards/train-9.tar"):
        read_dataset("s3://bucket/shards/train-{9..9}.tar")
    whole = (root / "bucket/shards/train-000000.tar").read_bytes()
    storage.write("s3://bucket/cut/train-0.tar", whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"^s3://bucket/cut/train-0.tar is (cut short|no complete)"):
        read_dataset("s3://bucket/cut")


def test_a_shelf_that_is_too_small_for_a_shard(proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCEPTIONV4_CACHE_GB", "0.00001")
    with pytest.raises(StorageError, match=r"no room for s3://bucket/shards/.*INCEPTIONV4_CACHE_GB"):
        read_dataset("s3://bucket/shards")
