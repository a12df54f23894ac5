"""Packing: the same images in shards that any reader of tar files reads, the same bytes however often it is killed."""

from __future__ import annotations

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageOps

from inceptionv4.data.index import read_dataset
from inceptionv4.data.samples import Samples
from inceptionv4.data.tools.pack import Packed, pack
from inceptionv4.errors import ImageError, RunError, UsageError

SHARD = 64 * 1024


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def contents(samples: Samples) -> list[tuple[str, bytes]]:
    return sorted((samples.classes[label], samples.read(index)) for index, label in enumerate(samples.labels))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders without a split, of files as people have them."""
    root = tmp_path / "photos"
    picture = Image.fromarray(skimage.data.chelsea()).resize((120, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    files = {
        "n02105855_2933.JPEG": ("PNG", picture, {}),
        "käse.webp": ("WEBP", picture, {}),
        "a.b.c.jpg": ("JPEG", picture, {"exif": exif, "icc_profile": bytes(16) + b"RGB a profile"}),
        f"{'long' * 40}.jpg": ("JPEG", picture.convert("L"), {}),
        "cmyk.jpg": ("JPEG", picture.convert("CMYK"), {}),
        "small.png": ("PNG", picture.resize((30, 20)), {}),
    }
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for name, (format, image, options) in files.items():
            image.save(root / label / name, format, **options)
    return root


@pytest.mark.parametrize("workers", [1, 4])
def test_shards_hold_what_the_data_hold(textures: Path, tmp_path: Path, workers: int) -> None:
    packed = pack(str(textures), tmp_path / "out", shard_bytes=SHARD, workers=workers)
    ours, theirs = read_dataset(tmp_path / "out"), read_dataset(textures)
    assert ours.has_val
    assert ours.classes == theirs.classes
    assert contents(ours.train) == contents(theirs.train)
    assert contents(ours.val) == contents(theirs.val)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert packed == Packed(str(tmp_path / "out"), len(sizes), 225, sum(sizes), 0, ())
    assert max(sizes) <= SHARD
    # All but the last of each split are full: the next image, of 10 kB at most, would not have fitted.
    assert sorted(sizes)[2] > SHARD - 10_240 - 10_000


def test_other_readers_read_them_too(photos: Path, tmp_path: Path) -> None:
    """Python's tarfile, and webdataset's rule: a key ends at the first dot, the class is text beside it."""
    pack(str(photos), tmp_path / "out")
    classes = (tmp_path / "out/classes.txt").read_text().splitlines()
    found = []
    for shard in sorted((tmp_path / "out").glob("*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(shard) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
                key, _, extension = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[extension] = file.read()
        for sample in samples.values():
            label = classes[int(sample.pop("cls"))]
            [(extension, content)] = sample.items()
            found.append((label, content))
            format = Image.open(io.BytesIO(content)).format
            assert format is not None
            assert {"JPEG": "jpg"}.get(format, format.lower()) == extension
    assert sorted(found) == sorted((path.parent.name, path.read_bytes()) for path in photos.rglob("*.*"))


def test_the_held_out_images_are_those_of_a_training_on_the_data(photos: Path, tmp_path: Path) -> None:
    pack(str(photos), tmp_path / "out", val_fraction=0.4)
    ours, theirs = read_dataset(tmp_path / "out"), read_dataset(photos, 0.4)
    assert contents(ours.val) == contents(theirs.val)
    assert len(ours.val) == 4


def test_images_are_shuffled_over_all_shards(textures: Path, tmp_path: Path) -> None:
    pack(str(textures), tmp_path / "out", shard_bytes=SHARD)
    samples = read_dataset(tmp_path / "out").train
    containers = samples.source.table.container[samples.rows]
    for label in range(3):
        # 60 images over some ten shards: in class order they would lie in four.
        assert len(set(containers[samples.labels == label])) >= 0.8 * len(set(containers))


KILLED = """
import os, signal, sys
from pathlib import Path
import inceptionv4.runtime.files as files
from inceptionv4.data.tools.pack import pack
calls, last = 0, int(sys.argv[3])
def count(original):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call
Path.replace, os.fsync = count(Path.replace), count(os.fsync)
pack(sys.argv[1], Path(sys.argv[2]), shard_bytes=65536)
"""


def test_a_killed_packing_goes_on_to_the_same_bytes(textures: Path, tmp_path: Path) -> None:
    """Killed before a rename or a flush: in the beginning, between two shards, and between a shard and its line."""
    pack(str(textures), tmp_path / "whole", shard_bytes=SHARD)
    whole = hashes(tmp_path / "whole")
    for moments in ([2, 5], [9, 3, 11], [10, 25]):
        output = tmp_path / f"killed-{moments[0]}"
        for moment in moments:
            command = [sys.executable, "-c", KILLED, str(textures), str(output), str(moment)]
            assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
            assert hashes(output) != whole
        pack(str(textures), output, shard_bytes=SHARD, workers=3)
        assert hashes(output) == whole
        assert {path.name for path in output.iterdir()} == set(whole)


def test_a_line_that_was_being_written_is_not_believed(textures: Path, tmp_path: Path) -> None:
    pack(str(textures), tmp_path / "out", shard_bytes=SHARD)
    whole = hashes(tmp_path / "out")
    ledger = tmp_path / "out/pack.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:4]) + lines[4][:30])
    pack(str(textures), tmp_path / "out", shard_bytes=SHARD)
    assert hashes(tmp_path / "out") == whole
    # Finished, it is verified and left alone.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    pack(str(textures), tmp_path / "out", shard_bytes=SHARD)
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_what_is_read_back_is_compared(textures: Path, tmp_path: Path, damage: str) -> None:
    pack(str(textures), tmp_path / "out", shard_bytes=SHARD)
    shard = tmp_path / "out/train-000002.tar"
    content = bytearray(shard.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    if damage == "remove":
        shard.unlink()
    else:
        shard.write_bytes(content if damage == "flip" else content[:-100])
    with pytest.raises(RunError, match=r"train-000002\.tar"):
        pack(str(textures), tmp_path / "out", shard_bytes=SHARD)


def test_the_short_side_is_capped(photos: Path, tmp_path: Path) -> None:
    before = hashes(photos)
    packed = pack(str(photos), tmp_path / "out", short_side=40)
    assert packed.shrunk == 10
    samples = read_dataset(tmp_path / "out").all()
    sources = {path.stem.replace(".", "_")[:60]: path for path in (photos / "cat").iterdir()}
    for index in range(len(samples)):
        stem = Path(samples.path(index)).stem.partition("-")[2]
        source = sources.get(stem, photos / "cat/käse.webp")
        content = samples.read(index)
        image, original = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(source.read_bytes()))
        if stem == "small":
            assert content == source.read_bytes()
            continue
        assert image.size == (60, 40)
        assert image.format == ("PNG" if original.format == "PNG" else "JPEG")
        assert image.getexif().get(0x0112) == original.getexif().get(0x0112)
        assert image.getexif().get(0x010F) is None
        assert image.info.get("icc_profile") == original.info.get("icc_profile")
        expected = ImageOps.exif_transpose(original.convert("RGB").resize((60, 40), Image.Resampling.LANCZOS))
        difference = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int) - np.asarray(expected)
        assert np.abs(difference).mean() < 3
    assert hashes(photos) == before


def test_other_data_or_options_are_refused(photos: Path, tmp_path: Path) -> None:
    pack(str(photos), tmp_path / "out")
    before = hashes(tmp_path / "out")
    with pytest.raises(UsageError, match="was begun with other short_side and seed; give the same data and options"):
        pack(str(photos), tmp_path / "out", short_side=40, seed=1)
    (photos / "cat/new.png").write_bytes((photos / "cat/small.png").read_bytes())
    with pytest.raises(UsageError, match="was begun with other train"):
        pack(str(photos), tmp_path / "out")
    assert hashes(tmp_path / "out") == before


def test_a_folder_of_other_files_and_one_inside_the_data_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"full holds other files, such as thesis\.tex; choose an empty folder"):
        pack(str(photos), tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == [tmp_path / "full/thesis.tex"]
    with pytest.raises(UsageError, match="lies inside .* and would become part of it"):
        pack(str(photos), photos / "shards")
    assert not (photos / "shards").exists()


def test_bad_images_stop_the_packing_or_are_listed(photos: Path, tmp_path: Path) -> None:
    (photos / "dog/a.b.c.jpg").write_bytes((photos / "dog/a.b.c.jpg").read_bytes()[:500])
    with pytest.raises(ImageError, match=r"dog/a\.b\.c\.jpg cannot be decoded.*data doctor.*--on-error skip"):
        pack(str(photos), tmp_path / "strict", short_side=40)
    assert not list((tmp_path / "strict").glob("*.tar*"))
    packed = pack(str(photos), tmp_path / "out", short_side=40, on_error="skip")
    assert packed.images == 11
    [reason] = packed.skipped
    assert "dog/a.b.c.jpg cannot be decoded" in reason
    recorded = [json.loads(line) for line in (tmp_path / "out/pack.jsonl").read_text().splitlines()[1:]]
    assert [reason for shard in recorded for reason in shard["skipped"]] == list(packed.skipped)


def test_a_large_image_has_a_shard_of_its_own(photos: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photos / "cat/noise.png")
    packed = pack(str(photos), tmp_path / "out", shard_bytes=SHARD)
    assert packed.images == 13
    large = [path for path in (tmp_path / "out").glob("*.tar") if path.stat().st_size > SHARD]
    assert len(large) == 1
    with tarfile.open(large[0]) as archive:
        assert len(archive.getnames()) == 2
