"""The table of docs/data.md, cell by cell: each names the tests that hold it."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from layouts import LAYOUTS as ALL
from layouts import add, make_cifar
from pyarrow import parquet

from inceptionv4.data.index import open_source, read_dataset
from inceptionv4.data.options import ReadOptions
from inceptionv4.errors import UsageError

COLUMNS = ("folder", ".zip", ".tar", "shards", ".csv", "parquet", "CIFAR-10", "ImageNet")
HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs/data.md"

ARCHIVE = "test_archive_names.test_an_archive_of_a_folder_is_that_folder"
BY_FOLDERS = "test_rules.test_archives_of_parts_are_read_as_the_folder_is"
KEPT_APART = "test_sources.test_a_test_beside_the_validation_is_left_out"
FIXED = "test_rules.test_a_fixed_split_takes_no_parts"
PARTS = "test_rules.test_parts_of_shards_and_parquet_files_are_named"
CONTENTS = "test_fingerprint.test_other_pictures_under_equal_names_are_other_data"
NO_COLUMNS = "test_rules.test_layouts_without_columns_take_none"
SAME_PIXELS = "test_rules.test_every_layout_shows_a_file_alike"
SIDECARS = "test_archive_names.test_what_systems_leave_beside_files_is_counted"
ALIKE = "test_class_names.test_two_spellings_of_one_name"
GROUPS = "test_tables.test_a_group_never_straddles_the_split"
NONE = ""
DASH = "\N{EN DASH}"

CELLS = {
    "names of splits": (
        "test_splits.test_folders_of_any_spelling", ARCHIVE, ARCHIVE, "test_splits.test_shards_of_any_spelling",
        "test_splits.test_values_of_a_split_column_of_any_spelling", "test_splits.test_parquet_files_of_any_spelling",
        "test_sources.test_cifar_10_in_both_forms", "test_sources.test_imagenets_own_archives",
    ),
    "a part of an unknown role": (
        "test_splits.test_a_folder_beside_the_parts_is_left_out_and_counted", BY_FOLDERS, BY_FOLDERS,
        "test_sources.test_shards_of_which_none_is_held_out_or_all_are",
        "test_tables.test_values_of_the_split_column_are_parts", PARTS, NONE, NONE,
    ),
    "`data.train`, `data.val`, `data.test`": (
        "test_splits.test_a_test_part_is_kept_apart", BY_FOLDERS, BY_FOLDERS, PARTS,
        "test_tables.test_values_of_the_split_column_are_parts", PARTS, FIXED, FIXED,
    ),
    "a test beside a validation": (KEPT_APART, BY_FOLDERS, BY_FOLDERS, KEPT_APART, KEPT_APART, KEPT_APART, NONE, NONE),
    "classes that look alike": (
        "test_rules.test_folders_of_classes_that_look_alike_are_refused", BY_FOLDERS, BY_FOLDERS,
        "test_shards.test_a_bad_list_of_names_beside_the_shards",
        "test_layouts_agree.test_every_layout_has_the_same_pictures_classes_and_split_or_is_refused",
        "test_layouts_agree.test_every_layout_has_the_same_pictures_classes_and_split_or_is_refused", NONE, NONE,
    ),
    "one picture twice": (
        "test_layouts_agree.test_a_plain_data_set_is_refused_by_no_layout",
        "test_archive_names.test_one_name_twice_in_an_archive_is_refused",
        "test_archive_names.test_one_name_twice_in_an_archive_is_refused",
        "test_shards.test_what_is_not_certain_is_refused_by_key",
        "test_tables.test_a_picture_that_is_listed_twice_counts_once",
        "test_layouts_agree.test_a_plain_data_set_is_refused_by_no_layout", NONE, NONE,
    ),
    "files of macOS and Windows": (
        "test_index.test_train_and_val_folders", SIDECARS, SIDECARS,
        "test_shards.test_a_macs_sidecar_beside_the_shards_is_no_shard", NONE, NONE, NONE,
        "test_archive_names.test_imagenets_archives_with_a_macs_sidecars",
    ),
    "the column of the class": (
        NONE, NONE, NONE, NONE, "test_tables.test_a_table_is_read_however_it_is_written",
        "test_sources.test_the_label_is_the_parquet_column_that_says_so", NONE, NONE,
    ),
    "a cell that says no class": (
        NONE, NONE, NONE, NONE, "test_tables.test_what_a_table_does_not_say_is_refused",
        "test_tables.test_cells_that_say_no_class_are_refused", NONE, NONE,
    ),
    "names in other encodings": (
        "test_sources.test_texts_are_strings_whatever_their_bytes",
        "test_archive_names.test_names_in_a_zip_are_what_unzip_restores",
        "test_archive_names.test_long_and_strange_names_in_a_tar",
        "test_shards.test_what_is_read_is_what_webdataset_reads",
        "test_tables.test_a_table_in_another_encoding_is_refused_by_name", NONE, NONE,
        "test_archive_names.test_long_and_strange_names_in_a_tar",
    ),
    "links": (
        "test_index.test_symbolic_links_are_followed_and_loops_end",
        "test_archive_names.test_symbolic_links_in_a_zip_are_left_out_and_said",
        "test_archive_names.test_links_in_a_tar_are_followed_inside_it",
        "test_shards.test_a_hard_link_in_a_shard_lies_beside_its_label",
        "test_zoo.test_training_goes_on_past_truncated_files_and_counts_them", NONE, NONE, NONE,
    ),
    "other pictures under equal names": (CONTENTS,) * 8,
    "`data.group_column`": (NO_COLUMNS,) * 4 + (GROUPS, GROUPS, NO_COLUMNS, NO_COLUMNS),
    "orientation, depth of pixels, metadata": (SAME_PIXELS,) * 8,
}  # fmt: skip


def test_each_cell_of_the_documented_table_has_a_test() -> None:
    text = (
        DOCS.read_text(encoding="utf-8").partition("### Every layout, every rule")[2].partition("\nA cell is a test")[0]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert tuple(rows[0][1:]) == COLUMNS
    assert {row[0] for row in rows[2:]} == set(CELLS)
    for name, *cells in rows[2:]:
        for cell, test in zip(cells, CELLS[name], strict=True):
            assert (cell == DASH) == (test == NONE), (name, cell)
            if test:
                file, _, function = test.partition(".")
                assert f"def {function}(" in (HERE / f"{file}.py").read_text(encoding="utf-8"), test


def picture(number: int) -> bytes:
    return b"P6 2 2 255\n" + bytes([number] * 12)


def make(root: Path, *parts: str) -> Path:
    for number, part in enumerate(parts):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for picture_number in range(4):
                (root / part / label / f"{number}{picture_number}.ppm").write_bytes(
                    picture(10 * number + picture_number)
                )
    return root


def as_zip(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


def as_tar(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as archive:
        archive.add(folder, folder.name)
    return folder.with_suffix(".tar")


@pytest.mark.parametrize("write", [as_zip, as_tar])
@pytest.mark.parametrize(
    ("parts", "options"),
    [
        (("Training", "Testing"), {}),
        (("train", "val", "test"), {}),
        (("train", "val", "extra"), {}),
        (("sick", "healthy"), {}),
        (("sick", "healthy"), {"train": "sick", "val": "healthy"}),
        (("sick", "healthy"), {"train": "."}),
        (("train", "later"), {"test": "later"}),
        (("caf\u00e9", "cafe\u0301"), {"train": "."}),
    ],
)
def test_archives_of_parts_are_read_as_the_folder_is(
    tmp_path: Path, write: Callable[[Path], Path], parts: tuple[str, ...], options: dict[str, str]
) -> None:
    folder = make(tmp_path / "photos", *parts)
    answers: list[object] = []
    for location in (folder, write(folder)):
        try:
            dataset = read_dataset(location, options=ReadOptions(**options))  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - whatever one says, the other is to say
            answers.append((type(error), str(error).replace(str(location), "PLACE")))
        else:
            prints = dataset.train.fingerprint, dataset.val.fingerprint
            answers.append((dataset.classes, dataset.has_val, dataset.source.table.left_out, prints))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("names", [("caf\u00e9", "cafe\u0301"), ("cat", "cat ")])
def test_folders_of_classes_that_look_alike_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.ppm").write_bytes(picture(1))
    with pytest.raises(Exception, match="two folders that look alike"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("kind", ["shards", "parquet"])
def test_parts_of_shards_and_parquet_files_are_named(tmp_path: Path, kind: str) -> None:
    for start, part in ((0, "one-00"), (10, "two-00"), (20, "train-00"), (30, "rest-00")):
        numbers = range(start, start + 4)
        if kind == "shards":
            with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
                for number in numbers:
                    add(archive, f"{number}.cls", b"%d" % (number % 2))
                    add(archive, f"{number}.ppm", picture(number))
        else:
            images = [{"bytes": picture(number), "path": None} for number in numbers]
            table = pyarrow.table({"image": images, "label": [number % 2 for number in numbers]})
            parquet.write_table(table, tmp_path / f"{part}.parquet")
    file = "shard" if kind == "shards" else "parquet file"
    assert open_source(tmp_path).table.left_out == (f"3 {file}s: in no part that is known (train, val, test, ...)",)
    dataset = read_dataset(tmp_path, options=ReadOptions(train="one", val="two", test="rest"))
    shown = [sorted(part.read(row)[-1] for row in range(len(part))) for part in (dataset.train, dataset.val)]
    assert shown == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert set(dataset.source.table.left_out) == {
        f"1 {file}: kept apart, as data.test says",
        f"1 {file}: named by neither data.train nor data.val",
    }


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
def test_a_fixed_split_takes_no_parts(textures: Path, tmp_path: Path, layout: str) -> None:
    location = ALL[layout](textures, tmp_path)
    with pytest.raises(UsageError, match=f"data.train is not for {layout}, whose split is that of its authors"):
        open_source(location, ReadOptions(train="a"))


@pytest.mark.parametrize("layout", [name for name in ALL if name not in ("csv", "parquet")])
def test_layouts_without_columns_take_none(textures: Path, tmp_path: Path, layout: str) -> None:
    location = ALL[layout](textures, tmp_path)
    with pytest.raises(UsageError, match=f"data.group_column is for tables, but .* is read as {layout}"):
        open_source(location, ReadOptions(group_column="patient"))


@pytest.mark.parametrize("layout", [name for name in ALL if name != "cifar"])
def test_every_layout_shows_a_file_alike(textures: Path, tmp_path: Path, layout: str) -> None:
    """The bytes are those of the folder's files, so that one decoder shows them alike."""
    samples = read_dataset(ALL[layout](textures, tmp_path)).all()
    ours = sorted(samples.read(row) for row in range(len(samples)))
    assert ours == sorted(path.read_bytes() for path in textures.rglob("*.jpg"))


def test_cifars_records_are_shown_as_they_are(tmp_path: Path) -> None:
    images = make_cifar(tmp_path / "cifar", binary=True)
    samples = read_dataset(tmp_path / "cifar").all()
    shown = {samples.read(row)[-3072:] for row in range(len(samples))}
    assert shown == {np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes() for batch in images for image in batch}
