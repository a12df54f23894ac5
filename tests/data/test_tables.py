"""Tables as spreadsheets, pandas, Kaggle and Hugging Face write them: read, or refused by column and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from inceptionv4.data.index import read_dataset
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.samples import Dataset
from inceptionv4.errors import DataError

CLASSES = ("cat", "dog")


def picture(number: int) -> bytes:
    return b"P6 2 2 255\n" + bytes([number] * 12)


def label_of(number: int) -> str:
    return CLASSES[number % 2]


def write(
    root: Path,
    header: str,
    line: Callable[[int], str],
    *,
    count: int = 12,
    name: str = "labels.csv",
    encoding: str = "utf-8",
    end: str = "\n",
) -> Path:
    (root / "img").mkdir(exist_ok=True)
    for number in range(count):
        (root / f"img/{number:03}.ppm").write_bytes(picture(number))
    text = end.join([header, *(line(number) for number in range(count))]) + end
    (root / name).write_bytes(text.encode(encoding))
    return root / name


def labels_by_picture(dataset: Dataset) -> dict[int, str]:
    samples = dataset.all()
    return {samples.read(row)[-1]: samples.classes[label] for row, label in enumerate(samples.labels)}


RIGHT = {number: label_of(number) for number in range(12)}


@pytest.mark.parametrize(
    ("header", "line", "how"),
    [
        ("file_name,label", "img/{n:03}.ppm,{c}", {}),
        ("file_name, label", "img/{n:03}.ppm, {c}", {}),
        ("file_name,label", "img/{n:03}.ppm , {c}\t", {}),
        ("file_name;label", "img/{n:03}.ppm;{c}", {}),
        ("file_name\tlabel", "img/{n:03}.ppm\t{c}", {}),
        ("sep=;\nfile_name;label", "img/{n:03}.ppm;{c}", {}),
        ("file_name,label", "img\\{n:03}.ppm,{c}", {}),
        ("file_name,label", "./img/{n:03}.ppm,{c}", {}),
        ("file_name,label", '"img/{n:03}.ppm","{c}"', {}),
        ("file_name,label", "img/{n:03}.ppm,{c}\n", {}),
        (",file_name,label", "{n},img/{n:03}.ppm,{c}", {}),
        ("File_Name,Label", "img/{n:03}.ppm,{c}", {}),
        ("image_path,class", "img/{n:03}.ppm,{c}", {}),
        ("image,target,width", "img/{n:03}.ppm,{c},2", {}),
        ("file_name,label", "img/{n:03}.ppm,{c}", {"encoding": "utf-8-sig", "end": "\r\n"}),
        ("file_name,label", "img/{n:03}.ppm,{c}", {"encoding": "utf-16"}),
        ("file_name,label", "img/{n:03}.ppm,{c}", {"end": "\r"}),
        ("file_name,label", "img/{n:03}.ppm,{c}", {"name": "metadata.csv"}),
    ],
)
def test_a_table_is_read_however_it_is_written(tmp_path: Path, header: str, line: str, how: dict[str, str]) -> None:
    write(tmp_path, header, lambda n: line.format(n=n, c=label_of(n)), **how)  # type: ignore[arg-type]
    dataset = read_dataset(tmp_path)
    assert labels_by_picture(dataset) == RIGHT
    assert dataset.classes == CLASSES


def test_a_table_that_pandas_wrote(tmp_path: Path) -> None:
    file = write(tmp_path, "", lambda n: "")
    names = ["a, b", 'the "c"', "ü\nd"]
    frame = pandas.DataFrame(
        {"file_name": [f"img/{n:03}.ppm" for n in range(12)], "label": [names[n % 3] for n in range(12)]}
    )
    frame.to_csv(file)
    assert labels_by_picture(read_dataset(tmp_path)) == {n: names[n % 3] for n in range(12)}


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("file_name,label", "img/{h:03}.ppm,{c}", r"labels\.csv:3 says that img/000.ppm is 'dog', line 2 'cat'"),
        (
            "file_name,label,split",
            "img/{m:03}.ppm,{c},{s}",
            r"labels\.csv:8 has img/000.ppm in another part of the data than line 2",
        ),
        (
            "file_name,label,label",
            "img/{n:03}.ppm,{c},x",
            r"labels\.csv:1 has .* two are called 'label'; rename or remove one",
        ),
        ("file_name,label,class", "img/{n:03}.ppm,{c},x", "several may be the label: label, class; say .*label-column"),
        (
            "file_name,text",
            "img/{n:03}.ppm,a {c}",
            r"labels\.csv:1 has the columns 'file_name', 'text'; none is called",
        ),
        ("id,breed", "{n},{c}", "none is called as the image is"),
        (
            "file_name,label",
            "img/{n:03}.ppm,{nan}",
            r"labels\.csv:2 has the label 'NaN', which pandas reads as no class",
        ),
        ("file_name,label", "img/{n:03}.ppm,", r"labels\.csv:2 has no file_name or no label"),
        ("file_name,label", "img/{n:03}.ppm,{mixed}", r"csv:4 has the label '0.0' and .*csv:2 '0': the same number"),
        ("file_name,label", "{n:03},{c}", r"labels\.csv:2 names 000, which is not there"),
    ],
)
def test_what_a_table_does_not_say_is_refused(tmp_path: Path, header: str, line: str, message: str) -> None:
    def make(n: int) -> str:
        mixed = n % 2 if n % 4 < 2 else float(n % 2)
        return line.format(
            n=n, h=n // 2, m=n % 6, c=label_of(n), s="train" if n < 6 else "val", nan="cat" if n else "NaN", mixed=mixed
        )

    write(tmp_path, header, make)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_a_table_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, "file_name,label", lambda n: f"img/{n:03}.ppm,café{n % 2}", encoding="latin-1")
    with pytest.raises(DataError, match=r"labels\.csv is not written in UTF-8 .*; save it as UTF-8"):
        read_dataset(file)


def test_a_picture_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path, "file_name,label", lambda n: f"img/{n % 6:03}.ppm,{label_of(n)}")
    dataset = read_dataset(tmp_path)
    assert (len(dataset.train), len(dataset.val)) == (4, 2)
    assert dataset.source.table.left_out == (
        "6 lines: a picture that another line lists",
        "6 images: not listed in labels.csv",
    )


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet", "train/metadata.csv"])
def test_captions_beside_class_folders_are_named_as_not_used(tmp_path: Path, name: str) -> None:
    for part, count in (("train", 12), ("val", 4)):
        for number in range(count):
            file = tmp_path / part / label_of(number) / f"{number}.ppm"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number))
    rows = [{"file_name": f"train/cat/{n}.ppm", "text": "a cat, sitting"} for n in range(0, 12, 2)]
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    elif name.endswith(".jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        output = io.StringIO()
        table = csv.DictWriter(output, ["file_name", "text"])
        table.writeheader()
        table.writerows(rows)
        (tmp_path / name).write_text(output.getvalue())
    dataset = read_dataset(tmp_path)
    assert (len(dataset.train), len(dataset.val), dataset.classes) == (12, 4, CLASSES)
    (reason,) = dataset.source.table.left_out
    assert name in reason
    assert "the folders are the classes" in reason
    assert name != "metadata.csv" or "none is called as the label is" in reason


def test_images_that_a_folders_table_does_not_list_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path, "file_name,label", lambda n: f"./img/{n:03}.ppm,{label_of(n)}")
    for number in range(3):
        (tmp_path / "img" / f"more{number}.ppm").write_bytes(picture(number))
    assert read_dataset(tmp_path).source.table.left_out == ("3 images: not listed in labels.csv",)
    file.rename(tmp_path / "some.csv")
    assert read_dataset(tmp_path / "some.csv").source.table.left_out == ()


def test_columns_are_chosen_by_settings(tmp_path: Path) -> None:
    write(tmp_path, "file,label,Breed,fold", lambda n: f"img/{n:03}.ppm,x{n},{label_of(n)},{n // 4}")
    options = ReadOptions(label_column="breed", image_column="file")
    assert labels_by_picture(read_dataset(tmp_path, options=options)) == RIGHT
    with pytest.raises(DataError, match=r"data.label_column is 'race', but .*'Breed', 'fold': no such one"):
        read_dataset(tmp_path / "labels.csv", options=ReadOptions(label_column="race"))


def test_values_of_the_split_column_are_parts(tmp_path: Path) -> None:
    write(tmp_path, "file_name,label,split", lambda n: f"img/{n:03}.ppm,{label_of(n)},{'abc'[n // 4]}")
    with pytest.raises(DataError, match=r"labels\.csv:2 has the split 'a'; expected train, .*data.train"):
        read_dataset(tmp_path)
    dataset = read_dataset(tmp_path, options=ReadOptions(train="b", val="a", test="c"))
    assert sorted(labels_by_picture(dataset)) == list(range(8))
    assert sorted(dataset.val.read(row)[-1] for row in range(4)) == [0, 1, 2, 3]
    assert dataset.source.table.left_out == ("4 lines: kept apart, as data.test says",)


def rows_of(numbers: range, label: Callable[[int], object], **more: Callable[[int], object]) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {"image": [{"bytes": picture(n), "path": f"{n}.ppm"} for n in numbers]}
    columns["label"] = [label(n) for n in numbers]
    return columns | {name: [make(n) for n in numbers] for name, make in more.items()}


def write_parquet(path: Path, columns: dict[str, object], classes: list[str] | None = None) -> None:
    table = pyarrow.table(columns)
    if classes is not None:
        features = {"label": {"names": classes, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    "cells",
    [
        lambda n: label_of(n),
        lambda n: f" {label_of(n)} ",
        lambda n: pyarrow.scalar(label_of(n)).as_py(),
    ],
)
def test_labels_that_are_text(tmp_path: Path, cells: Callable[[int], object]) -> None:
    write_parquet(tmp_path / "a.parquet", rows_of(range(12), cells, image_id=lambda n: 1000 + n))  # type: ignore[arg-type]
    assert labels_by_picture(read_dataset(tmp_path)) == RIGHT


def test_labels_that_are_categories_of_pandas_with_its_index(tmp_path: Path) -> None:
    frame = pandas.DataFrame(rows_of(range(12), label_of), index=np.arange(12) * 7 + 3)
    frame["label"] = frame["label"].astype("category")
    frame.to_parquet(tmp_path / "a.parquet")
    assert "__index_level_0__" in parquet.read_schema(tmp_path / "a.parquet").names
    assert labels_by_picture(read_dataset(tmp_path)) == RIGHT


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (lambda n: None if n == 3 else label_of(n), r"a\.parquet has 1 row without a label"),
        (lambda n: float("nan") if n == 3 else 1.0, r"a\.parquet has 1 row without a label"),
        (lambda n: "NaN" if n == 3 else label_of(n), "has the label 'NaN', which pandas reads as no class"),
        (lambda n: 0.5 if n == 3 else 1.0, "the column 'label' has '0.5', which is no class"),
        (lambda n: [n % 2], r"the column 'label' has '\[0\]', which is no class"),
    ],
)
def test_cells_that_say_no_class_are_refused(tmp_path: Path, cells: Callable[[int], object], message: str) -> None:
    write_parquet(tmp_path / "a.parquet", rows_of(range(12), cells))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_of_several_images_the_one_that_is_called_image_counts(tmp_path: Path) -> None:
    mask = [{"bytes": picture(255), "path": None}] * 12
    columns = {"mask": mask} | rows_of(range(12), label_of)
    write_parquet(tmp_path / "a.parquet", columns)  # type: ignore[arg-type]
    assert labels_by_picture(read_dataset(tmp_path)) == RIGHT
    columns["left"] = columns.pop("image")
    write_parquet(tmp_path / "a.parquet", columns)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"none is called as the image is .*--data.image-column"):
        read_dataset(tmp_path)
    assert labels_by_picture(read_dataset(tmp_path, options=ReadOptions(image_column="left"))) == RIGHT


def test_each_files_names_of_classes_are_its_own(tmp_path: Path) -> None:
    three, two = ["ant", "bee", "cat"], ["bee", "cat"]
    write_parquet(tmp_path / "train.parquet", rows_of(range(12), lambda n: n % 3), three)  # type: ignore[arg-type]
    write_parquet(tmp_path / "validation.parquet", rows_of(range(12, 18), lambda n: n % 2), two)  # type: ignore[arg-type]
    dataset = read_dataset(tmp_path)
    assert dataset.classes == tuple(three)
    wanted = {n: three[n % 3] for n in range(12)} | {n: two[n % 2] for n in range(12, 18)}
    assert labels_by_picture(dataset) == wanted


def test_several_data_sets_side_by_side_are_refused(tmp_path: Path) -> None:
    for config in ("fine", "coarse"):
        (tmp_path / config / "train").mkdir(parents=True)
        write_parquet(tmp_path / config / "train/0.parquet", rows_of(range(4), label_of))  # type: ignore[arg-type]
    with pytest.raises(
        DataError,
        match=r"files of several data sets, such as coarse/train/0\.parquet and fine/train/0\.parquet; give those of",
    ):
        read_dataset(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_group_never_straddles_the_split(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(0)
    patients = [f"p{number}" for number in generator.integers(0, 25, 200)]
    labels = [CLASSES[int(patient[1:]) % 2] for patient in patients]
    if kind == "csv":
        write(tmp_path, "file_name,label,patient", lambda n: f"img/{n:03}.ppm,{labels[n]},{patients[n]}", count=200)
    else:
        rows = rows_of(range(200), lambda n: labels[n], patient=lambda n: patients[n])
        write_parquet(tmp_path / "a.parquet", rows)  # type: ignore[arg-type]
    dataset = read_dataset(tmp_path, options=ReadOptions(group_column="patient"))
    sides = [
        {patients[samples.read(row)[-1]] for row in range(len(samples))} for samples in (dataset.train, dataset.val)
    ]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(patients)
    for label in (0, 1):
        share = (dataset.val.labels == label).sum() / sum(name == CLASSES[label] for name in labels)
        assert 0.1 < share < 0.3
    plain = read_dataset(tmp_path)
    assert {patients[plain.train.read(row)[-1]] for row in range(len(plain.train))} & sides[1]


def test_a_split_that_tears_groups_is_refused(tmp_path: Path) -> None:
    write(
        tmp_path,
        "file_name,label,split,site",
        lambda n: f"img/{n:03}.ppm,{label_of(n)},{'train' if n < 8 else 'val'},{n % 5}",
    )
    with pytest.raises(DataError, match=r"groups are both trained on and held out, such as that of img/\d+\.ppm and"):
        read_dataset(tmp_path, options=ReadOptions(group_column="site"))
