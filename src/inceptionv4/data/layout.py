"""What folders mean, on a disk or inside an archive: which class, and which part of the data.

    train/cat/1.jpg   val/cat/2.jpg      split as the folders say
    cat/1.jpg         dog/2.jpg          no split: a share of each class will be held out

A folder around it all is looked through, also inside a part. Classes are sorted as text, as torchvision sorts them.
What may be read in two ways is refused: `data.train` and `data.val` decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inceptionv4.class_names import class_name
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.parts import find_parts, look_through, named_parts, no_class_folder, top_folders, wrapping_folder
from inceptionv4.data.splits import is_below, no_part
from inceptionv4.data.table import NONE, TRAIN, VAL, counted
from inceptionv4.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SIDECARS = (".ds_store", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Layout:
    """The meaning of some folders: arrays over them of splits (int8) and labels (int32, -1: left out)."""

    splits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    words: str
    root: str
    """What all paths begin with before their class folder; empty where the splits have folders of their own."""
    left_out: tuple[str, ...] = ()
    """How many images are left out, and by which rule."""


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden ones are not."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def is_hidden(path: str) -> bool:
    """Whether a path inside an archive is one that a file browser would not show."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def is_sidecar(path: str) -> bool:
    """Whether this is what a system leaves beside files, and nobody's data: macOS's `._1.jpg`, Windows' `Thumbs.db`."""
    parts = path.split("/")
    name = parts[-1].lower()
    return name.startswith("._") or name in SIDECARS or "__MACOSX" in parts


def read_layout(
    folders: Sequence[str], counts: Sequence[int], location: str, options: ReadOptions = AS_FOUND
) -> Layout:
    """The meaning of `folders`, each a path that ends in `/`, relative to `location`, and directly holds as many
    images as `counts` says.

    Raises:
        DataError: a folder holds images but is no class folder; the folders may be read in two ways; or a class is
            spelt in two ways.
    """
    reasons: dict[str, str] = {}
    """Why a folder is left out."""
    if options.test is not None:
        around = len(wrapping_folder(folders))
        apart = [path for path in folders if is_below(path, options.test) or is_below(path[around:], options.test)]
        if not apart:
            raise no_part("test", options.test, top_folders(folders, folders[0][:around]), location)
        reasons.update(dict.fromkeys(apart, f"{options.test}/ is kept apart, as data.test says"))
    rest = [folder for folder in folders if folder not in reasons]
    if not rest:
        raise DataError(f"{location}: all images are in {options.test}/, which data.test keeps apart")
    if options.train is not None:
        prefixes, root = named_parts(rest, options, location)
        others = "named by neither data.train nor data.val"
    else:
        prefixes, root = find_parts(rest, location, reasons)
        others = "in no part that is known (train, val, test, ...)"
    meanings: list[tuple[int, str] | None] = []
    prefixes = look_through(prefixes, rest)
    for folder in folders:
        meaning = None if folder in reasons else _split_and_class(folder, prefixes, location)
        if meaning is None:
            top = folder[len(root) : folder.find("/", len(root)) + 1] or "the top folder"
            reasons.setdefault(folder, f"{top} is {others}")
        meanings.append(meaning)
    classes = _class_names(filter(None, meanings), location)
    numbers = {name: number for number, name in enumerate(classes)}
    images: Counter[str] = Counter()
    for folder, meaning, count in zip(folders, meanings, counts, strict=True):
        if meaning is None:
            images[reasons[folder]] += count
    has_parts = TRAIN in prefixes.values() and VAL in prefixes.values()
    return Layout(
        splits=np.array([meaning[0] if meaning else NONE for meaning in meanings], np.int8),
        labels=np.array([numbers[class_name(meaning[1])] if meaning else -1 for meaning in meanings], np.int32),
        classes=classes,
        words=_in_words(prefixes, root) if has_parts else "class folders",
        root=root if has_parts else next(iter(prefixes)),
        left_out=tuple(f"{counted(count, 'image')}: {reason}" for reason, count in images.items()),
    )


def _in_words(prefixes: dict[str, int], root: str) -> str:
    names = [prefix[len(root) :] for prefix, _ in sorted(prefixes.items(), key=lambda item: item[1])]
    return f"{' and '.join(names)} folders"


def _split_and_class(folder: str, prefixes: dict[str, int], location: str) -> tuple[int, str] | None:
    for prefix, split in prefixes.items():
        if folder.startswith(prefix):
            name = folder[len(prefix) :].partition("/")[0]
            if not name:
                raise no_class_folder(folder, location)
            return split, name
    return None


def _class_names(meanings: object, location: str) -> tuple[str, ...]:
    """The classes, sorted; their names in the composed spelling.

    Raises:
        DataError: one part has a class in two spellings that look alike.
    """
    spellings: dict[tuple[int, str], str] = {}
    for split, name in meanings:  # type: ignore[attr-defined]
        other = spellings.setdefault((split, class_name(name)), name)
        if other != name:
            raise DataError(
                f"{location} has two folders that look alike, {other!a} and {name!a}: the same letters, "
                "composed and decomposed; put their images into one"
            )
    return tuple(sorted({name for _, name in spellings}))
