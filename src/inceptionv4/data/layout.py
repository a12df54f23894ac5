"""What names mean: of folders, on a disk or inside an archive, which class and which split; of other parts which split.

    train/cat/1.jpg   val/cat/2.jpg      split as the folders say
    cat/1.jpg         dog/2.jpg          no split: a share of each class will be held out

A folder around it all is looked through. Classes are sorted as text, as torchvision sorts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from inceptionv4.data.table import NONE, TRAIN, VAL
from inceptionv4.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation", "dev", "test", "eval")


@dataclass(frozen=True)
class Layout:
    """The meaning of some folders: arrays over them of splits (int8) and labels (int32, -1: part of neither split)."""

    splits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    words: str
    root: str
    """What all paths begin with before their class folder; empty where the splits have folders of their own."""


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden ones are not."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def is_hidden(path: str) -> bool:
    """Whether a path inside an archive is one that a file browser would not show."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def read_layout(folders: Sequence[str], location: str) -> Layout:
    """The meaning of `folders`, each a path that ends in `/` and directly holds images, relative to `location`.

    Raises:
        DataError: a folder holds images but is no class folder.
    """
    root = _wrapping_folder(folders)
    inside = [folder[len(root) :].partition("/")[0] for folder in folders]
    train, val = (next((name for name in names if name in inside), None) for names in (TRAIN_FOLDERS, VAL_FOLDERS))
    if train and val:
        prefixes, words = {f"{root}{train}/": TRAIN, f"{root}{val}/": VAL}, f"{train}/ and {val}/ folders"
    else:
        # A lone train or val folder is data without a split, not a class called train.
        root += f"{train or val}/" if train or val else ""
        prefixes, words = {root: NONE}, "class folders"
    meanings = [_split_and_class(folder, prefixes, location) for folder in folders]
    classes = tuple(sorted({name for _, name in filter(None, meanings)}))
    numbers = {name: number for number, name in enumerate(classes)}
    return Layout(
        splits=np.array([meaning[0] if meaning else NONE for meaning in meanings], np.int8),
        labels=np.array([numbers[meaning[1]] if meaning else -1 for meaning in meanings], np.int32),
        classes=classes,
        words=words + read_splits(inside)[1],
        root=root,
    )


def read_splits(parts: Iterable[str]) -> tuple[dict[str, int], str]:
    """The split of each part of the data, by what the parts are called, and in words which of them are left out.

    One part is held out, the first of `VAL_FOLDERS` that is there: a test beside a validation is not in the answer. Of
    a part that is called otherwise the split is `NONE`.
    """
    parts = set(parts)
    held_out = [name for name in VAL_FOLDERS if name in parts]
    splits = {name: TRAIN if name in TRAIN_FOLDERS else VAL if name in held_out else NONE for name in parts}
    for name in held_out[1:]:
        del splits[name]
    return splits, f", {' and '.join(held_out[1:])} left out" if held_out[1:] else ""


def _wrapping_folder(folders: Sequence[str]) -> str:
    """The folder around everything, as `photos/`, or nothing; what is left of each path still has a class folder."""
    root = ""
    while True:
        rest = [folder[len(root) :] for folder in folders]
        first = rest[0].partition("/")[0]
        if first in TRAIN_FOLDERS + VAL_FOLDERS or any(
            not path.startswith(first + "/") or path.count("/") < 2 for path in rest
        ):
            return root
        root += first + "/"


def _split_and_class(folder: str, prefixes: dict[str, int], location: str) -> tuple[int, str] | None:
    for prefix, split in prefixes.items():
        if folder.startswith(prefix):
            name = folder[len(prefix) :].partition("/")[0]
            if not name:
                raise DataError(
                    f"{location}: images lie in no class folder, directly in {folder or 'the top'}; "
                    f"move them into folders of their classes, such as {folder}cat/"
                )
            return split, name
    return None
