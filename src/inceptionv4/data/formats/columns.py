"""Which columns of a table hold the image, the class, the split and the group; and what a cell says.

A name counts whatever its type, and no column is taken by its type alone. Two columns that both may be meant are
refused: `data.label_column`, `data.image_column` and `data.split_column` decide. A split's column is known by its name,
or by its values where these are all words such as `train` and `test`. One that has such a word and a few others may be
the split, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inceptionv4.class_names import normal
from inceptionv4.data.options import ReadOptions
from inceptionv4.data.split_names import has_word, speaks_of_both, split_name
from inceptionv4.errors import DataError

LABELS = ("label", "labels", "class", "class_name", "target", "category")
FILES = (
    "file_name", "file_names", "filename", "filenames", "file", "file_path", "filepath", "filepaths", "path",
    "img_path", "image_path", "image", "img", "image_name", "image_file",
)  # fmt: skip
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png")
SPLITS = ("split", "subset", "partition")
FEW = 4
"""The most texts of a column that may be the names of parts."""
NO_COLUMN = "none"
"""What `data.split_column` calls no column."""
YES_OR_NO = frozenset(("0", "1", "true", "false", "yes", "no", "t", "f", "y", "n", "0.0", "1.0"))
MISSING = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
))  # fmt: skip
"""What pandas reads as no value, and pandas is what such tables are mostly written and read with."""


class NoColumnError(DataError):
    """A table has no column that is called as an image or a class is: it may be about something else."""

    def __init__(self, role: str, message: str) -> None:
        super().__init__(message)
        self.role = role


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are read; None: there is none."""

    image: str
    label: str
    split: str | None
    group: str | None


def choose_columns(
    names: Sequence[str],
    options: ReadOptions,
    where: str,
    *,
    images: Callable[[str], bool] = lambda name: True,
    image_names: Sequence[str] = FILES,
    labels: Sequence[str] = (),
    cells: Callable[[str], Sequence[str]] = lambda name: (),
) -> Columns:
    """The columns of a table whose header is `names`; `images` says which may hold images, `labels` which ones the
    table itself calls the class, and `cells` what a column says, each text once.

    Raises:
        NoColumnError: none is called as an image or a class is.
        DataError: a column is not there, is there twice, or several may be meant.
    """
    where = f"{where} has the columns {', '.join(map(repr, names))}"
    image = _choose("image", options.image_column, names, [n for n in names if images(n)], image_names, where)
    others = [name for name in names if name != image]
    label = _choose("label", options.label_column, others, others, LABELS, where, sure=labels)
    split = _choose_split(options.split_column, [n for n in others if n != label], cells, where)
    group = options.group_column and _choose("group", options.group_column, others, others, (), where)
    assert image is not None
    assert label is not None
    return Columns(image, label, split, group)


def _choose(
    role: str,
    wanted: str | None,
    names: Sequence[str],
    candidates: Sequence[str],
    known: Sequence[str],
    columns: str,
    *,
    sure: Sequence[str] = (),
    needed: bool = True,
) -> str | None:
    if wanted is not None:
        found = [name for name in names if name == wanted] or [n for n in names if _plain(n) == _plain(wanted)]
        if len(found) == 1 and found[0] in candidates:
            return found[0]
        problem = "no such one" if not found else "several of that name" if len(found) > 1 else "that one has no images"
        raise DataError(f"data.{role}_column is {wanted!r}, but {columns}: {problem}")
    called = [name for name in candidates if _plain(name) in known]
    if len(known_sure := [name for name in sure if name in called]) == 1:
        called = known_sure
    elif sure:
        called = [*sure, *(name for name in called if name not in sure)]
    if role == "image" and known is IMAGES and "image" in called:
        called = ["image"]  # beside a `mask` or a `thumbnail`, as Hugging Face calls it
    if role == "image" and not called and len(candidates) == 1:
        called = list(candidates)
    if len(called) == 1:
        return called[0]
    if not called and not needed:
        return None
    if len(called) > len(set(called)):
        raise DataError(f"{columns}, of which two are called {called[0]!r}; rename or remove one of them")
    if called:
        raise DataError(f"{columns}, of which several may be the {role}: {', '.join(called)}; {_cure(role)}")
    raise NoColumnError(role, f"{columns}; none is called as the {role} is ({', '.join(known[:5])}); {_cure(role)}")


def _choose_split(
    wanted: str | None, names: Sequence[str], cells: Callable[[str], Sequence[str]], columns: str
) -> str | None:
    """The column that says which part a row is of, by its name or by what it says; None: there is none.

    Raises:
        DataError: several may be meant; or one may be that has other words, too, or yes and no, such as `is_train`.
    """
    if wanted == NO_COLUMN:
        return None
    if wanted is not None:
        return _choose("split", wanted, names, names, SPLITS, columns)
    if chosen := _choose("split", None, names, names, SPLITS, columns, needed=False):
        return chosen
    said = {name: {cell for cell in cells(name) if cell} for name in names}
    spoken = [name for name, texts in said.items() if speaks_of_both(texts)]
    if len(spoken) > 1:
        raise DataError(f"{columns}, of which several may be the split: {', '.join(spoken)}; {_cure('split')}")
    if spoken:
        return spoken[0]
    for name, texts in said.items():
        if 1 < len(texts) <= FEW and any((found := split_name(text)) and not found.rest for text in texts):
            shown = ", ".join(text[:40] for text in sorted(texts))
            raise DataError(
                f"{columns}, of which {name!r} may be the split: it has {shown}; say with --data.split-column {name}, "
                "--data.train and --data.val which rows are held out, or say --data.split-column none"
            )
        if has_word(name) and texts and {text.lower() for text in texts} <= YES_OR_NO:
            raise DataError(
                f"{columns}, of which {name!r} may say which rows are held out; write a column `split` of train and "
                "val, or say --data.split-column none if it does not"
            )
    return None


def _cure(role: str) -> str:
    return f"say with --data.{role}-column which one it is"


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def read_classes(texts: Sequence[str], where: Callable[[int], str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes, sorted as text, and the label of each cell; `texts` has no blanks around it.

    Raises:
        DataError: a cell says no class, or may say none; or one class is written in two ways.
    """
    numbers: dict[str, int] = {}
    rows = np.empty(len(texts), np.int32)
    spellings: dict[str, tuple[str, int]] = {}
    for row, text in enumerate(texts):
        if text in MISSING:
            called = f"{text!r}, which pandas reads as no class; rename the class if it is one" if text else "no class"
            raise DataError(f"{where(row)} has the label {called}" if text else f"{where(row)} has no label")
        name = normal(text)
        if name not in numbers:
            other, first = spellings.setdefault(_as_number(name), (name, row))
            if other != name:
                raise DataError(
                    f"{where(row)} has the label {name!r} and {where(first)} {other!r}: the same number; "
                    "write it in one way"
                )
            numbers[name] = len(numbers)
        rows[row] = numbers[name]
    classes = tuple(sorted(numbers))
    order = np.empty(len(numbers), np.int32)
    for number, name in enumerate(classes):
        order[numbers[name]] = number
    return classes, order[rows]


def _as_number(text: str) -> str:
    """What a text stands for: `1` and `1.0` for one number, all others for themselves."""
    try:
        value = float(text)
    except ValueError:
        return text
    return str(value) if re.fullmatch(r"[+-]?\d+(\.\d*)?", text) else text


def number_groups(values: Sequence[str | None]) -> np.ndarray:
    """The number of each cell's group, int32; an empty cell is a group of its own."""
    numbers: Mapping[object, int] = {}
    found = np.empty(len(values), np.int32)
    for row, value in enumerate(values):
        text = "" if value is None else normal(value.strip())
        key = ("row", row) if text in MISSING else _as_number(text)
        found[row] = numbers.setdefault(key, len(numbers))  # type: ignore[attr-defined]
    return found
