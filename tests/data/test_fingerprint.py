"""Fingerprints are of contents: other pictures under equal names and counts are told from a training's own."""

from __future__ import annotations

import io
import shutil
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from layouts import add
from pyarrow import parquet

from inceptionv4.data import samples
from inceptionv4.data.index import read_dataset

COUNT = 40


def picture(number: int) -> bytes:
    return b"P6 2 2 255\n" + bytes([number % 256] * 12)


def write_folder(root: Path, seed: int) -> Path:
    for number in range(COUNT):
        file = root / "photos" / "ab"[number % 2] / f"{number}.ppm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number + seed))
    return root / "photos"


def write_zip(root: Path, seed: int) -> Path:
    folder = write_folder(root / "zipped", seed)
    shutil.make_archive(str(root / "photos"), "zip", folder.parent, "photos")
    return root / "photos.zip"


def write_tar(root: Path, seed: int) -> Path:
    folder = write_folder(root / "tarred", seed)
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(folder, "photos")
    return root / "photos.tar"


def write_shards(root: Path, seed: int) -> Path:
    with tarfile.open(root / "train-0000.tar", "w") as archive:
        for number in range(COUNT):
            add(archive, f"{number}.cls", b"%d" % (number % 2))
            add(archive, f"{number}.ppm", picture(number + seed))
    return root


def write_parquet(root: Path, seed: int) -> Path:
    images = [{"bytes": picture(number + seed), "path": None} for number in range(COUNT)]
    table = pyarrow.table({"image": images, "label": [number % 2 for number in range(COUNT)]})
    parquet.write_table(table, root / "a.parquet", row_group_size=COUNT // 4)
    return root / "a.parquet"


def write_csv(root: Path, seed: int) -> Path:
    folder = write_folder(root, seed)
    lines = ["file_name,label", *(f"photos/{'ab'[n % 2]}/{n}.ppm,{'ab'[n % 2]}" for n in range(COUNT))]
    (folder.parent / "labels.csv").write_text("\n".join(lines))
    return root


def write_cifar(root: Path, seed: int) -> Path:
    for number, name in enumerate([*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]):
        records = [bytes([record % 10]) + bytes([(seed + number + record) % 256] * 3072) for record in range(10)]
        (root / f"{name}.bin").write_bytes(b"".join(records))
    return root


def write_imagenet(root: Path, seed: int) -> Path:
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for label in ("n01", "n02"):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as inner:
                for number in range(COUNT // 2):
                    add(inner, f"{label}_{number}.JPEG", picture(number + seed))
            add(outer, f"{label}.tar", content.getvalue())
    return root


WRITERS = [write_folder, write_zip, write_tar, write_shards, write_parquet, write_csv, write_cifar, write_imagenet]


@pytest.mark.parametrize("write", WRITERS)
def test_other_pictures_under_equal_names_are_other_data(tmp_path: Path, write: Callable[[Path, int], Path]) -> None:
    found = []
    for name, seed in (("one", 0), ("copy", 0), ("other", 100)):
        (tmp_path / name).mkdir()
        found.append(read_dataset(write(tmp_path / name, seed)))
    one, copy, other = (dataset.train for dataset in found)
    assert one.fingerprint == copy.fingerprint != other.fingerprint
    assert one.exact_fingerprint == copy.exact_fingerprint != other.exact_fingerprint


def test_a_folder_and_its_archives_have_one_fingerprint(tmp_path: Path) -> None:
    datasets = [read_dataset(write(tmp_path, 0)) for write in (write_folder, write_zip, write_tar)]
    for part in ("train", "val"):
        assert len({getattr(dataset, part).fingerprint for dataset in datasets}) == 1
    assert len({dataset.train.exact_fingerprint for dataset in datasets}) == 3  # each names its layout


def test_a_zips_checksums_tell_what_the_sample_did_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SAMPLED", 4)
    archives = []
    for name, changed in (("one", -1), ("other", 9)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for number in range(COUNT):
                archive.writestr(f"{'ab'[number % 2]}/{number:02}.ppm", picture(number + 100 * (number == changed)))
        archives.append(read_dataset(tmp_path / f"{name}.zip", 0.1).all())
    one, other = archives
    assert one.fingerprint == other.fingerprint  # the ninth is not among the four
    assert one.exact_fingerprint != other.exact_fingerprint


def test_a_macs_spelling_of_names_is_the_same_data(tmp_path: Path) -> None:
    found = []
    for form in ("NFC", "NFD"):
        for label in ("café", "thé"):
            folder = tmp_path / form / unicodedata.normalize(form, label)
            folder.mkdir(parents=True)
            for number in range(10):
                (folder / unicodedata.normalize(form, f"é{number}.ppm")).write_bytes(picture(number))
        found.append(read_dataset(tmp_path / form))
    linux, mac = found
    assert linux.classes == mac.classes == ("café", "thé")
    assert (linux.train.fingerprint, linux.val.fingerprint) == (mac.train.fingerprint, mac.val.fingerprint)


def test_an_unreadable_picture_has_a_fingerprint_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, 0)
    before = read_dataset(folder)
    path = folder / before.train.path(0)
    whole = before.train.fingerprint
    path.unlink()
    assert (
        before.train.__class__(before.source, before.train.rows, before.train.labels, before.classes).fingerprint
        != whole
    )
