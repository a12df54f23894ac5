"""Data that are replaced while they are read: never other pictures under the old labels, but an error that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import s3
import torch
from layouts import LAYOUTS

from inceptionv4.config import Config, DataConfig, TrainingConfig
from inceptionv4.data import index
from inceptionv4.data.formats.source import KEPT_OPEN, LocalFiles, stamps_of
from inceptionv4.data.index import open_source, read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.data.tools.pack import pack
from inceptionv4.errors import ChangedError, DataError, ImageError
from inceptionv4.inference.images import find_images
from inceptionv4.runtime import storage
from inceptionv4.spec import Preprocessing
from inceptionv4.training.run.resumption import Resumption
from inceptionv4.training.setup import describe_data

URI = "s3://bucket/shards"
REPLACED = rf"^{URI}/train-00000\d.tar was replaced while it was being read: .*; start again"


@pytest.fixture(scope="module")
def shards(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "shards"
    assert pack(str(textures), folder, shard_bytes=200_000).shards > 4
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.running(s3.moto(tmp_path_factory.mktemp("log") / "moto")) as server:
        s3.make_bucket(server.port)
        yield server


@pytest.fixture
def proxy(server: s3.Server, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Proxy]:
    """The shards in storage, and a machine that does not know them."""
    proxy = s3.Proxy(server.port)
    s3.use(monkeypatch, proxy.port)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in sorted(shards.iterdir()):
        storage.write(f"{URI}/{path.name}", path)
    yield proxy
    proxy.close()


@pytest.fixture
def ranged(proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> s3.Proxy:
    """The index is here, and nothing fits in the cache."""
    for path in read_dataset(URI).source._files.cache.pinned:  # type: ignore[attr-defined]
        path.unlink()
    monkeypatch.setenv("INCEPTIONV4_CACHE_GB", "0")
    return proxy


def shuffle(shards: Path) -> None:
    """Give each shard of training images in storage the content of the next one."""
    paths = sorted(shards.glob("train-*"))
    for path, other in zip(paths, paths[1:] + paths[:1], strict=True):
        storage.write(f"{URI}/{path.name}", other)


def replace_at(proxy: s3.Proxy, count: int, replace: Callable[[], object], name: str = ".tar") -> None:
    """Call `replace` before the request number `count` for a part of a shard is answered."""
    asked: list[str] = []

    def fault(line: str) -> str:
        if line.startswith("GET") and name in line:
            asked.append(line)
            if len(asked) == count:
                replace()
        return "none"

    proxy.fault = fault


def loader(location: str | Path, workers: int = 0) -> TrainingLoader:
    config = Config(
        data=DataConfig(path=str(location)),
        image=Preprocessing(size=75, crop=1.0),
        training=TrainingConfig(batch_size=16),
    )
    return TrainingLoader(read_dataset(location).train, config, workers=workers)


def test_between_the_listing_and_the_index(proxy: s3.Proxy, shards: Path) -> None:
    replace_at(proxy, 2, lambda: shuffle(shards))
    with pytest.raises(ChangedError, match=REPLACED):
        read_dataset(URI)


@pytest.mark.parametrize("workers", [0, 2])
def test_in_the_middle_of_an_epoch(ranged: s3.Proxy, shards: Path, workers: int) -> None:
    """What was read before is as on the disk; what is read after is an error at once, not a damaged image."""
    seen = []
    batches = loader(URI, workers).epoch(0)
    seen.append(next(batches))
    shuffle(shards)
    before = len(ranged.requests)
    with pytest.raises(ChangedError, match=REPLACED):
        seen.extend(batches)  # those that come are kept
    assert len(ranged.requests) - before < 100
    for ours, theirs in zip(seen, loader(shards).epoch(0), strict=False):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert not ours.bad


def test_what_lies_on_the_shelf_stays_what_it_was(proxy: s3.Proxy, shards: Path) -> None:
    ours = loader(URI)
    shuffle(shards)
    for one, other in zip(ours.epoch(0), loader(shards).epoch(0), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_shard_that_is_to_come_to_the_shelf(proxy: s3.Proxy, shards: Path) -> None:
    """It is asked for once, and not every minute."""
    for path in read_dataset(URI).source._files.cache.pinned:  # type: ignore[attr-defined]
        path.unlink()
    source = open_source(URI)
    shuffle(shards)
    with pytest.raises(ChangedError, match=REPLACED):
        source.read(0)
    files = source._files  # type: ignore[attr-defined]
    while files._filler is not None:
        files._filler.join(0.01)
    assert files._next_try == float("inf")
    assert not any(path.exists() for path in files.cache.pinned)


@pytest.mark.parametrize("name", ["evaluate", "doctor", "pack", "train"])
def test_commands_say_so_and_end(
    ranged: s3.Proxy, shards: Path, narrow_model: Path, tmp_path: Path, command: Callable[..., Any], name: str
) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "evaluate": ("evaluate", narrow_model, "--data", URI),
        "doctor": ("data", "doctor", URI),
        "pack": ("data", "pack", URI, tmp_path / "packed"),
        "train": ("train", "--data", URI, "--output", tmp_path / "runs", "--model.width=0.1", "--image.size=75"),
    }
    held_out = storage.read_all(f"{URI}/val-000000.tar")[::-1]
    if name == "evaluate":  # which reads the held-out images alone
        replace_at(ranged, 5, lambda: storage.write(f"{URI}/val-000000.tar", held_out), "val-")
    else:
        replace_at(ranged, 5, lambda: shuffle(shards))
    result = command(*arguments[name])
    assert (result.code, result.out) == (1, ""), result
    assert f"error: {URI}/" in result.err
    assert "was replaced while it was being read" in result.err
    assert not (tmp_path / "packed").exists()
    assert not (tmp_path / "runs").exists()


def test_a_run_that_goes_on_with_objects_written_again(proxy: s3.Proxy, shards: Path) -> None:
    """Zeros after a tar's end change its ETag and none of its members: that is said. Other pictures are refused."""
    config = Config(data=DataConfig(path=URI))

    def words(state: dict[str, Any]) -> list[str]:
        run = SimpleNamespace(place="runs/1")
        found = Resumption(run, SimpleNamespace(training={"data": state}))  # type: ignore[arg-type]
        found.require_data(describe_data(read_dataset(URI), config))
        return found.words

    began = describe_data(read_dataset(URI), config)
    assert words(began) == []
    first = shards / "train-000000.tar"
    storage.write(f"{URI}/{first.name}", first.read_bytes() + bytes(10240))
    assert words(began) == [
        f"the objects at {URI} were written again since the last state: names, labels and sizes of all images and the "
        "contents of some are the same, the other contents are not known"
    ]
    for other in ({"location": "s3://bucket/a copy"}, {"version": ""}):  # a version is of one place
        assert words(began | other) == []
    shuffle(shards)
    with pytest.raises(DataError, match=f"the images at {URI} are not those that runs/1 was trained on"):
        words(began)


@pytest.mark.parametrize("layout", ["zip", "tar", "shards", "parquet", "imagenet", "cifar"])
@pytest.mark.parametrize("way", ["written over", "renamed over"])
def test_a_local_file(textures: Path, tmp_path: Path, layout: str, way: str) -> None:
    """One that is renamed over leaves the open one as it was, which is read on."""
    source = open_source(LAYOUTS[layout](textures, tmp_path))
    rows = [row for row in range(len(source)) if source.table.container[row] == 0]
    first, last = source.read(rows[0]), source.read(rows[-1])
    path = Path(source.table.containers[0])
    if way == "written over":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        other = path.with_name("other")
        other.write_bytes(path.read_bytes()[::-1])
        other.replace(path)
    if way == "renamed over" and layout != "parquet":
        assert (source.read(rows[0]), source.read(rows[-1])) == (first, last)
        return
    with pytest.raises(DataError, match=f"^{path} was changed while it was being read: .*start again") as raised:
        list(map(source.read, rows))
    assert not isinstance(raised.value, ImageError), "it would count as a damaged one"


def test_a_local_file_that_is_opened_for_each_read(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number)) for number in range(KEPT_OPEN + 1)]
    for path in paths:
        Path(path).write_bytes(b"content")
    files = LocalFiles(paths, stamps_of(paths))
    assert {files.read(number, 3, 4) for number in range(len(paths))} == {b"tent"}
    Path(paths[-1]).unlink()
    Path(paths[-1]).write_bytes(b"another")
    assert files.read(0, 3, 4) == b"tent"
    with pytest.raises(DataError, match="was changed while it was being read"):
        files.read(KEPT_OPEN, 3, 4)


def test_while_a_local_file_is_listed(textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = LAYOUTS["tar"](textures, tmp_path)
    original = index.cached

    def cached(*arguments: Any, **more: Any) -> Any:
        table = original(*arguments, **more)
        with archive.open("ab") as file:
            file.write(bytes(512))
        return table

    open_source(archive)
    monkeypatch.setattr(index, "cached", cached)
    with pytest.raises(DataError, match=f"{archive} was changed while it was being listed; start again"):
        open_source(archive)


@pytest.mark.parametrize("layout", ["zip", "tar"])
def test_an_archive_to_predict(textures: Path, tmp_path: Path, layout: str) -> None:
    archive = LAYOUTS[layout](textures, tmp_path)
    images = find_images([archive])
    first, second = next(images), next(images)
    assert first.read() in [path.read_bytes() for path in textures.rglob("*.jpg")]
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(ImageError, match=f"{second.name} cannot be read: {archive} was changed since it was listed"):
        second.read()
