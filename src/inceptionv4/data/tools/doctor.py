"""What may go wrong with some data, found before a training finds it. Every image is decoded; none is changed."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from inceptionv4.data.decode import DAMAGE, decode, open_image
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import MAX_BAD_SHARE
from inceptionv4.data.metadata import read_orientation
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.prefetch import prefetch_batches
from inceptionv4.data.tools.duplicates import equal_pairs, near_pairs, perceptual_hash
from inceptionv4.errors import ImageError
from inceptionv4.runtime.progress import Progress
from inceptionv4.spec import Preprocessing

TOGETHER = 64
"""Images that are examined as one batch."""
EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""What files of a format, as Pillow calls it, are named."""
LONG = 3.0
"""Longer over shorter side from which a picture is called long."""
FEW = 20
"""Training images below which a class is called small."""
UNEVEN = 10.0
"""Largest over smallest class from which classes are called uneven."""
DIM = 16
"""Grey levels from black, or from white, within which 99 of 100 pixels of a picture called nearly black or white lie.

That of 12 bits in a file of 16 has no more.
"""
SHOW_ALL = "; --image.crop_mode border --image.crop 1 shows all of it"
HALF = 0.5
"""Share of a picture that is much to leave out."""


@dataclass(frozen=True)
class Report:
    """What was found. Files are named as errors name them."""

    location: str
    layout: str
    train: int
    val: int
    left_out: tuple[str, ...] = ()
    """How many images are left out, and by which rule."""
    unreadable: list[str] = field(default_factory=list)
    """Reasons, each with its file."""
    unreadable_val: int = 0
    """How many of them are held out."""
    misnamed: list[tuple[str, str]] = field(default_factory=list)
    """Files whose extension says something else than their content, and what that is."""
    identical: list[list[str]] = field(default_factory=list)
    """Groups of files with the same bytes."""
    similar: list[list[str]] = field(default_factory=list)
    """Groups of files that look alike and have other bytes."""
    contradictory: list[list[str]] = field(default_factory=list)
    """Groups, identical or similar, in which not all have the same class."""
    leaked: list[list[str]] = field(default_factory=list)
    """Groups, identical or similar, of which some are trained on and some held out."""
    class_counts: dict[str, int] = field(default_factory=dict)
    """Training images of each class."""
    small: list[str] = field(default_factory=list)
    """Files whose shorter side is below the network's input and will be enlarged."""
    long: list[str] = field(default_factory=list)
    """Files that are at least three times as long as wide."""
    blank: list[str] = field(default_factory=list)
    """Files that are nearly black or white throughout."""
    kinds: dict[str, int] = field(default_factory=dict)
    """How many are CMYK, grey, of 16 bits, transparent, animated, turned by their EXIF tag."""
    cut_off: tuple[float, float] = (0.0, 0.0)
    """Mean and largest share of a picture that the evaluation's crop leaves out."""

    @property
    def failures(self) -> list[str]:
        """Why a training on these data would fail, or its evaluation; none if it would not."""
        reasons = []
        bad = len(self.unreadable) - self.unreadable_val
        if bad > MAX_BAD_SHARE * self.train:
            reasons.append(f"{bad} of {self.train} training images cannot be decoded, more than {MAX_BAD_SHARE:.0%}")
        if self.unreadable_val:
            reasons.append(f"{self.unreadable_val} held-out images cannot be decoded, and every one is evaluated")
        if self.train - bad < 2:
            reasons.append("fewer than two images are left to train on")
        return reasons


@dataclass(frozen=True)
class Finding:
    """One check of a report, in words."""

    level: Literal["ok", "note", "warning", "error"]
    check: str
    count: int
    words: str
    """What was found, or what to do about it."""
    examples: list[str] = field(default_factory=list)


def findings(report: Report) -> list[Finding]:
    """A report as a list of checks, the same ones in the same order for all data."""
    counts = sorted((count, name) for name, count in report.class_counts.items())
    (fewest, smallest), (most, largest) = counts[0], counts[-1]
    uneven = most > UNEVEN * max(fewest, 1)
    few = [f"{name}: {count}" for count, name in counts if count < FEW]
    mean_cut, largest_cut = report.cut_off
    both = [" = ".join(group) for group in report.leaked]
    return [
        _finding("error" if report.failures else "warning", "cannot be decoded", report.unreadable,
                 "repair or remove them; training leaves out up to 1 %, an evaluation none"),
        _finding("warning", "seen in training and held out", both,
                 "the score on held-out images counts these as known; remove one of each"),
        _finding("warning", "same picture, other class", [" = ".join(group) for group in report.contradictory],
                 "at most one of the labels is right"),
        _finding("note", "identical files", [" = ".join(group) for group in report.identical],
                 "they count twice in training"),
        _finding("note", "similar pictures", [" = ".join(group) for group in report.similar],
                 "the same picture in another size or quality, or nearly"),
        _finding("note", "wrong extension", [f"{name} is a {format}" for name, format in report.misnamed],
                 "read by content here; other programs may trip over them"),
        Finding("warning" if uneven else "ok", "uneven classes", len(counts) if uneven else 0,
                f"{smallest} has {fewest:,} training images, {largest} {most:,}"
                + ("; try --data.sampling balanced" if uneven else "")),
        _finding("warning", "small classes", few, f"fewer than {FEW} training images: results will vary by chance"),
        _finding("note", "small pictures", report.small, "shorter than the network's 299 px; they are enlarged"),
        _finding("note", "long pictures", report.long, f"{LONG:g} times as long as wide, or more"),
        _finding("warning", "nearly black or white", report.blank,
                 f"99 of 100 pixels within {DIM} grey levels of black or white: damaged, or few bits in a deep file"),
        Finding("note" if mean_cut > HALF or largest_cut > HALF else "ok", "cut off in evaluation", 0,
                f"the crop leaves out {mean_cut:.0%} of a picture on average, {largest_cut:.0%} at most"
                + (SHOW_ALL if mean_cut > HALF or largest_cut > HALF else "")),
        Finding("note" if report.kinds else "ok", "unusual kinds", sum(report.kinds.values()),
                ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items()) or "none"),
    ]  # fmt: skip


def _finding(level: Literal["note", "warning", "error"], check: str, examples: list[str], words: str) -> Finding:
    return Finding(level if examples else "ok", check, len(examples), words if examples else "none", examples)


@dataclass(frozen=True)
class _Image:
    """What one image shows."""

    format: str
    size: tuple[int, int]
    kinds: tuple[str, ...]
    digest: np.ndarray
    hash: np.ndarray | None
    blank: bool


def examine(
    location: str | Path,
    *,
    workers: int = 1,
    preprocessing: Preprocessing | None = None,
    options: ReadOptions = AS_FOUND,
) -> Report:
    """Decode every image at `location`, and compare each with all others.

    Raises:
        DataError: the data cannot even be indexed.
        UsageError: the layout needs an extra that is not installed.
    """
    dataset = read_dataset(location, options=options)
    samples, preprocessing = dataset.all(), preprocessing or Preprocessing()
    count = len(samples)
    held_out = np.zeros(count, bool)
    held_out[dataset.val.rows] = True
    sizes = np.zeros((count, 2), np.int32)
    digests = np.zeros((count, 4), np.uint64)
    hashes = np.zeros((count, 4), np.uint64)
    shows_something = np.zeros(count, bool)
    blank = np.zeros(count, bool)
    unreadable: dict[int, str] = {}
    misnamed: list[tuple[str, str]] = []
    kinds: Counter[str] = Counter()
    batches = (range(start, min(start + TOGETHER, count)) for start in range(0, count, TOGETHER))

    def look(index: int, content: bytes) -> _Image:
        return _look(content, samples.describe(index))

    with Progress("examining", total=count) as progress:
        for batch, images in prefetch_batches(batches, samples.read, look, workers, samples.source.io_threads):
            for index, image in zip(batch, images, strict=True):
                if isinstance(image, ImageError):
                    unreadable[index] = str(image)
                    continue
                if Path(samples.path(index)).suffix.lower() not in EXTENSIONS[image.format]:
                    misnamed.append((samples.describe(index), image.format))
                kinds.update(image.kinds)
                sizes[index], digests[index], blank[index] = image.size, image.digest, image.blank
                if image.hash is not None:
                    hashes[index], shows_something[index] = image.hash, True
            progress.advance(len(batch))

    def names(indices: Iterable[int]) -> list[str]:
        return [samples.describe(index) for index in indices]

    readable = np.flatnonzero(sizes[:, 0])
    comparable = np.flatnonzero(shows_something)
    same_bytes = readable[equal_pairs(digests[readable])]
    identical = _groups(same_bytes)
    alike = _groups(np.concatenate([same_bytes, comparable[near_pairs(hashes[comparable])]]))
    short, long = sizes.min(1), sizes.max(1)
    cuts = cut_off(sizes[readable], preprocessing)
    return Report(
        location=dataset.source.location,
        layout=dataset.layout,
        train=len(dataset.train),
        val=len(dataset.val),
        left_out=dataset.source.table.left_out,
        unreadable=list(unreadable.values()),
        unreadable_val=int(held_out[list(unreadable)].sum()),
        misnamed=misnamed,
        identical=[names(group) for group in identical],
        similar=[names(group) for group in alike if len(np.unique(digests[group], axis=0)) > 1],
        contradictory=[names(group) for group in alike if len(np.unique(samples.labels[group])) > 1],
        leaked=[names(group) for group in alike if len(np.unique(held_out[group])) > 1],
        class_counts=dict(zip(dataset.classes, dataset.train.counts.tolist(), strict=True)),
        small=names(np.flatnonzero((short > 0) & (short < preprocessing.size)).tolist()),
        long=names(np.flatnonzero((short > 0) & (long >= LONG * short)).tolist()),
        blank=names(np.flatnonzero(blank).tolist()),
        kinds=dict(kinds.most_common()),
        cut_off=(float(cuts.mean()), float(cuts.max())) if len(cuts) else (0.0, 0.0),
    )


def _look(content: bytes, name: str) -> _Image:
    picture = decode(content, name)
    with open_image(content) as file:
        kinds = {
            "grey": file.mode in ("1", "L", "LA", "I;16", "I;16B", "I"),
            "CMYK": file.mode == "CMYK",
            "palette": file.mode in ("P", "PA"),
            "16 bits": file.mode.startswith("I"),
            "transparent": file.mode in ("LA", "PA", "RGBA") or "transparency" in file.info,
            "animated": _has_frames(file),
            "turned by EXIF": read_orientation(content) != 1,
        }
        format = str(file.format)
    return _Image(
        format=format,
        size=picture.size,
        kinds=tuple(kind for kind, applies in kinds.items() if applies),
        digest=np.frombuffer(hashlib.sha256(content).digest(), np.uint64),
        hash=perceptual_hash(picture),
        blank=is_blank(picture),
    )


def _has_frames(file: Image.Image) -> bool:
    """True if it is an animation; what is damaged behind the first picture does not count."""
    try:
        return bool(getattr(file, "n_frames", 1) > 1) and file.format != "MPO"
    except DAMAGE:
        return False


def is_blank(picture: Image.Image) -> bool:
    """True if a picture is nearly black or white throughout."""
    counts = np.array(picture.convert("L").histogram())
    return bool(max(counts[: DIM + 1].sum(), counts[-DIM - 1 :].sum()) >= 0.99 * counts.sum())


def cut_off(sizes: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Share of each picture that `evaluation_crop` leaves out, for `sizes` `(n, 2)` px."""
    side = math.floor(preprocessing.size / preprocessing.crop)
    match preprocessing.crop_mode:
        case "center":
            resized = np.floor(side * sizes / sizes.min(axis=1, keepdims=True))
        case "squash":
            resized = np.full(sizes.shape, side)
        case "border":
            resized = np.maximum(np.round(side * sizes / sizes.max(axis=1, keepdims=True)), 1)
    kept: np.ndarray = np.minimum(resized, preprocessing.size).prod(axis=1) / resized.prod(axis=1)
    return 1 - kept


def _groups(pairs: np.ndarray) -> list[list[int]]:
    """What is connected by pairs, each group sorted."""
    group_of: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        one, other = group_of.setdefault(first, [first]), group_of.setdefault(second, [second])
        if one is not other:
            one += other
            group_of.update(dict.fromkeys(other, one))
    distinct = {id(group): sorted(group) for group in group_of.values()}
    return sorted(distinct.values())
