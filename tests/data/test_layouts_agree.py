"""A data set is the same in every layout that can hold it, or refused; there is no third outcome."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import add
from pyarrow import parquet

from inceptionv4.data.index import read_dataset
from inceptionv4.data.samples import Dataset, Samples
from inceptionv4.errors import DataError

Files = dict[str, dict[str, int]]
"""Of each class, the names of its pictures and what they show."""

NO_LINE = "\\/\0\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
NAME = st.text(
    st.characters(codec="utf-8", exclude_characters=NO_LINE, exclude_categories=["Cc"]), min_size=1, max_size=8
)
NAMES = NAME.filter(lambda name: not name.startswith(".") and name.strip() and name != "__MACOSX")
WORDS = ["cat", "Cat", "cat ", "a.b", "a b", "a-b", "10", "2", "test tube", "train", "naïve", "na\u0308ive", "日本"]
CLASS = st.one_of(st.sampled_from(WORDS), NAMES)
PICTURES = st.dictionaries(NAMES, st.integers(0, 3), min_size=1, max_size=4)


def plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def picture(number: int) -> bytes:
    return b"P6 2 2 255\n" + bytes([number] * 12)


def write_folder(files: Files, root: Path) -> Path:
    for name, pictures in files.items():
        (root / "data" / name).mkdir(parents=True)
        for file, shows in pictures.items():
            (root / "data" / name / f"{file}.ppm").write_bytes(picture(shows))
    return root / "data"


def write_zip(files: Files, root: Path) -> Path:
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        for name, pictures in files.items():
            for file, shows in pictures.items():
                archive.writestr(f"{name}/{file}.ppm", picture(shows))
    return root / "data.zip"


def write_tar(files: Files, root: Path) -> Path:
    with tarfile.open(root / "data.tar", "w") as archive:
        for name, pictures in files.items():
            for file, shows in pictures.items():
                add(archive, f"wrapped/{name}/{file}.ppm", picture(shows))
    return root / "data.tar"


def write_csv(files: Files, root: Path) -> Path:
    folder = write_folder(files, root)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as output:
        table = csv.writer(output)
        table.writerow(["file_name", "label"])
        table.writerows([f"{name}/{file}.ppm", name] for name, pictures in files.items() for file in pictures)
    return folder


def write_shards(files: Files, root: Path) -> Path:
    classes = sorted({plain(name) for name in files})
    (root / "shards").mkdir()
    (root / "shards/classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    with tarfile.open(root / "shards/data-0000.tar", "w") as archive:
        number = 0
        for name, pictures in files.items():
            for shows in pictures.values():
                add(archive, f"{number}.cls", b"%d" % classes.index(plain(name)))
                add(archive, f"{number}.ppm", picture(shows))
                number += 1
    return root / "shards"


def write_parquet(files: Files, root: Path) -> Path:
    rows = [(name, shows) for name, pictures in files.items() for shows in pictures.values()]
    images = [{"bytes": picture(shows), "path": None} for _, shows in rows]
    parquet.write_table(pyarrow.table({"image": images, "label": [name for name, _ in rows]}), root / "a.parquet")
    return root / "a.parquet"


def write_class_labels(files: Files, root: Path) -> Path:
    names = sorted(files, key=plain)
    rows = [(name, shows) for name, pictures in files.items() for shows in pictures.values()]
    images = [{"bytes": picture(shows), "path": None} for _, shows in rows]
    table = pyarrow.table({"image": images, "label": [names.index(name) for name, _ in rows]})
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, root / "b.parquet")
    return root / "b.parquet"


KEEP_PATHS = (write_folder, write_zip, write_tar, write_csv)
LAYOUTS: tuple[Callable[[Files, Path], Path], ...] = (*KEEP_PATHS, write_shards, write_parquet, write_class_labels)


def contents(samples: Samples) -> Counter[tuple[str, int]]:
    return Counter((samples.classes[label], samples.read(row)[-1]) for row, label in enumerate(samples.labels.tolist()))


def split(dataset: Dataset) -> list[str]:
    start = len(dataset.source.table.root)
    return sorted(unicodedata.normalize("NFC", dataset.val.path(row)[start:]) for row in range(len(dataset.val)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(files=st.dictionaries(CLASS, PICTURES, min_size=2, max_size=4))
def test_every_layout_has_the_same_pictures_classes_and_split_or_is_refused(files: Files) -> None:
    wanted = Counter((plain(name), shows) for name, pictures in files.items() for shows in pictures.values())
    splits = set()
    for write in LAYOUTS:
        root = Path(tempfile.mkdtemp())
        try:
            try:
                dataset = read_dataset(write(files, root))
            except DataError:
                continue
            assert contents(dataset.all()) == wanted, write.__name__
            assert dataset.classes == tuple(sorted({name for name, _ in wanted})), write.__name__
            if write in KEEP_PATHS:
                splits.add(tuple(split(dataset)))
        finally:
            shutil.rmtree(root)
    assert len(splits) <= 1


def test_a_plain_data_set_is_refused_by_no_layout(tmp_path: Path) -> None:
    """So that the test above cannot pass by refusing everything."""
    files = {name: {f"{number}.v1": number for number in range(4)} for name in ("cat", "Cät", "a.b c", "test tube")}
    splits = set()
    for write in LAYOUTS:
        (tmp_path / write.__name__).mkdir()
        dataset = read_dataset(write(files, tmp_path / write.__name__))
        assert contents(dataset.all()) == Counter((name, number) for name in files for number in range(4))
        if write in KEEP_PATHS:
            splits.add(tuple(split(dataset)))
    assert len(splits) == 1
