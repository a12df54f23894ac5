"""Which image has which label, and which are for training: read off the layout of the files.

    train/cat/1.jpg   val/cat/2.jpg      split as the folders say
    cat/1.jpg         dog/2.jpg          a share of each class held out, chosen by the hash of the paths

A folder around it all is looked through. Classes are sorted as text, as torchvision sorts them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from inceptionv4.data.sources import Source, open_source
from inceptionv4.errors import DataError

EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"]
)
TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation", "dev", "test", "eval")


@dataclass(frozen=True)
class Samples:
    """Labelled images: `labels[i]` (int64) indexes `classes` and belongs to the file `paths[i]` of `source`."""

    source: Source
    paths: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return self.source.read(self.paths[index])

    def describe(self, index: int) -> str:
        return self.source.describe(self.paths[index])

    def fingerprint(self) -> str:
        """A hash of the classes and paths, by which a model knows the images that it was trained on."""
        text = "\n".join([*self.classes, "", *self.paths])
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """All labelled images of a place, split in two, with the name of the layout that was found there."""

    train: Samples
    val: Samples
    layout: str
    has_val_folder: bool
    ignored: int
    """Files without an image's extension."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def all(self) -> Samples:
        labels = np.concatenate([self.train.labels, self.val.labels])
        return Samples(self.train.source, [*self.train.paths, *self.val.paths], labels, self.classes)


def read_dataset(location: str | Path, val_fraction: float = 0.2) -> Dataset:
    """Index the labelled images at `location`; where there is no val folder, hold out `val_fraction` of each class.

    Raises:
        DataError: nothing there, no images, one class only, or a val label that train lacks.
    """
    source = open_source(location)
    files = source.list()
    paths = [path for path in files if PurePosixPath(path).suffix.lower() in EXTENSIONS]
    ignored = len(files) - len(paths)
    if not paths:
        other = f", only {ignored} other files" if ignored else ""
        raise DataError(f"no images in {source.location}{other}; expected class folders such as cat/1.jpg, dog/2.jpg")

    prefix = _shared_folder(paths)
    train_folder, val_folder = (_find(paths, prefix, names) for names in (TRAIN_FOLDERS, VAL_FOLDERS))
    if train_folder and val_folder:
        train = _labelled(paths, train_folder, source)
        val = _labelled(paths, val_folder, source)
        layout = f"{train_folder} and {val_folder} folders"
    else:
        # A lone train or val folder is data without a split, not a class called train.
        folder = train_folder or val_folder or prefix
        train, val = _hold_out(_labelled(paths, folder, source), folder, val_fraction)
        layout = f"class folders, {val_fraction:.0%} of each held out"

    classes = tuple(sorted(train))
    if len(classes) < 2:
        raise DataError(
            f"only one class in {source.location}, {classes[0]!r}; a classifier needs two folders of images or more"
        )
    unknown = Counter({name: len(found) for name, found in val.items() if name not in train})
    if unknown:
        names = ", ".join(f"{name!r} ({count} images)" for name, count in sorted(unknown.items()))
        raise DataError(
            f"{source.location}: {val_folder} has {names}, which {train_folder} lacks; "
            f"add training images of that class or remove it"
        )
    return Dataset(
        train=_samples(source, train, classes),
        val=_samples(source, val, classes),
        layout=layout,
        has_val_folder=bool(train_folder and val_folder),
        ignored=ignored,
    )


def relabel(samples: Samples, classes: tuple[str, ...]) -> Samples:
    """The same images labelled by `classes`, a model's: its order counts, not that of the folders.

    Raises:
        DataError: images of a class that is not among `classes`.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    strangers = [name for label, name in enumerate(samples.classes) if name not in numbers and label in samples.labels]
    if strangers:
        raise DataError(
            f"{samples.source.location} has classes that the model was not trained on: "
            f"{', '.join(map(repr, strangers[:5]))}; it knows {', '.join(map(repr, classes[:10]))}"
            f"{', ...' if len(classes) > 10 else ''}; rename the folders, or train on them"
        )
    order = np.array([numbers.get(name, -1) for name in samples.classes], dtype=np.int64)
    return Samples(samples.source, samples.paths, order[samples.labels], classes)


def _shared_folder(paths: list[str]) -> str:
    """The folder that wraps everything, as `photos/`, or nothing: what is left must still have class folders."""
    prefix = ""
    while True:
        parts = [path[len(prefix) :].split("/") for path in paths]
        first = parts[0][0]
        if first in TRAIN_FOLDERS + VAL_FOLDERS or any(len(part) < 3 or part[0] != first for part in parts):
            return prefix
        prefix += first + "/"


def _find(paths: list[str], prefix: str, names: tuple[str, ...]) -> str:
    """The first of the folders `names` below `prefix` that has images, as `train/`, or nothing."""
    present = {path[len(prefix) :].partition("/")[0] for path in paths if "/" in path[len(prefix) :]}
    return next((f"{prefix}{name}/" for name in names if name in present), "")


def _labelled(paths: list[str], folder: str, source: Source) -> dict[str, list[str]]:
    """The paths below `folder` by class, which is the next folder's name; a loose image has none and is an error."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path.startswith(folder):
            name, inside, _ = path[len(folder) :].partition("/")
            if not inside:
                raise DataError(
                    f"{source.describe(path)} lies in no class folder; move it into the folder of its class, "
                    f"such as {folder}cat/{name}"
                )
            found[name].append(path)
    return found


def _hold_out(
    found: dict[str, list[str]], folder: str, fraction: float
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Split each class by the rank of its paths' hashes: the same on every machine, whatever the order of listing.

    Paths count from `folder`, so that a wrapping folder changes nothing. A class of two images or more has at
    least one in each part; a single image is trained on.
    """
    train, val = {}, {}
    for name, paths in found.items():
        ranked = sorted(
            paths, key=lambda path: hashlib.sha256(path[len(folder) :].encode(errors="surrogateescape")).digest()
        )
        count = min(max(round(len(paths) * fraction), 1), len(paths) - 1)
        train[name], val[name] = sorted(ranked[count:]), sorted(ranked[:count])
    return train, {name: paths for name, paths in val.items() if paths}


def _samples(source: Source, found: dict[str, list[str]], classes: tuple[str, ...]) -> Samples:
    paths: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        paths += found.get(name, [])
        labels += [number] * len(found.get(name, []))
    return Samples(source, paths, np.array(labels, dtype=np.int64), classes)
