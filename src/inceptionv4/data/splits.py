"""Which part of the data a name speaks of, in every spelling: `train`, `Testing`, `seg_val`, `cats-train-0-of-2`.

The words are those of Hugging Face's data sets. They count in any case, between any separators, and with `set`, `data`
or `images` behind them. A name with words of two kinds, such as `trainval`, speaks of no part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from inceptionv4.data.options import ReadOptions
from inceptionv4.data.table import NONE, TRAIN, VAL
from inceptionv4.errors import DataError

TRAIN_WORDS = ("train", "training")
HELD_OUT_WORDS = ("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation")
"""In the order in which they count: of several parts, the first is held out and the others are left out."""
TEST_WORDS = HELD_OUT_WORDS[4:]
USUAL = frozenset((
    "set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "picture", "pictures", "photo",
    "photos", "folder", "dir", "directory", "split", "subset", "part", "partial", "seg", "of", "the",
))  # fmt: skip
"""Words around a split's that say nothing more."""
TOKEN = re.compile(r"[a-z]+")
GLUED = re.compile(rf"({'|'.join((*TRAIN_WORDS, *HELD_OUT_WORDS))})(set|data|dataset|images|imgs|folder)s?")
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class SplitName:
    """What a name says: its split's word in small letters, and the other words that are not usual."""

    word: str
    rest: tuple[str, ...]

    @property
    def split(self) -> int:
        """`TRAIN` or `VAL`."""
        return TRAIN if self.word in TRAIN_WORDS else VAL


def split_name(name: str) -> SplitName | None:
    """The part that `name` speaks of; None if it speaks of none, or of two."""
    words, rest = [], []
    for token in TOKEN.findall(HUMP.sub(" ", name).lower()):
        glued = GLUED.fullmatch(token)
        word = glued[1] if glued else token
        if word in TRAIN_WORDS or word in HELD_OUT_WORDS:
            words.append(word)
        elif token not in USUAL:
            rest.append(token)
    kinds = {_kind(word) for word in words}
    return SplitName(words[0], tuple(rest)) if len(kinds) == 1 else None


def _kind(word: str) -> str:
    return "train" if word in TRAIN_WORDS else "test" if word in TEST_WORDS else "val"


def has_word(name: str) -> bool:
    """Whether a split's word, of any kind, is among those of `name`."""
    return any(token in TRAIN_WORDS or token in HELD_OUT_WORDS for token in TOKEN.findall(HUMP.sub(" ", name).lower()))


def speaks_of_both(names: Iterable[str]) -> bool:
    """Whether each of `names` speaks of a part, and some of training and some of held-out images."""
    found = [split_name(name) for name in names]
    return None not in found and {name.split for name in found if name} == {TRAIN, VAL}


@dataclass(frozen=True)
class Parts:
    """The split of each name, in order: `TRAIN`, `VAL`, `NONE` where there is no split, or None for a part left out."""

    splits: tuple[int | None, ...]
    reasons: tuple[str, ...]
    """Of each name, why it is left out; empty if it is not."""


def split_files(paths: Iterable[str], options: ReadOptions, location: str) -> Parts:
    """The parts that files belong to, by their paths below `location`: their names, or else the folders around them.

    Raises:
        DataError: a part that `options` name is not there; or the folders of the files tell several data sets.
    """
    paths = tuple(paths)
    if options.train is not None:
        return _named(paths, options, location)
    words = [None if is_below(path, options.test) else _file_word(path) for path in paths]
    kept_apart = [is_below(path, options.test) for path in paths]
    if options.test is not None and not any(kept_apart):
        raise no_part("test", options.test, paths, location)
    return _by_words(words, kept_apart)


def split_values(values: Iterable[str], options: ReadOptions, location: str) -> Parts:
    """The parts that the values of a table's column stand for.

    Raises:
        DataError: a part that `options` name is not among them.
    """
    values = tuple(values)
    for role in ("train", "val", "test"):
        wanted = getattr(options, role)
        if wanted is not None and wanted not in values:
            raise no_part(role, wanted, values, location)
    if options.train is not None:
        named = {options.train: TRAIN, options.val: VAL}
        splits = tuple(named.get(value) for value in values)
        reasons = (_reason(split, value == options.test) for split, value in zip(splits, values, strict=True))
        return Parts(splits, tuple(reasons))
    words = [None if value == options.test else _word(value) for value in values]
    return _by_words(words, [value == options.test for value in values])


def split_listed(paths: Iterable[str], options: ReadOptions, location: str) -> Parts:
    """The parts that the folders of listed pictures speak of, where no column does: `train/cat/1.jpg`.

    Raises:
        DataError: a part that `options` name is not there; or some pictures lie in parts and others in none.
    """
    paths = tuple(paths)
    if options.train is not None:
        return _named(paths, options, location)
    kept_apart = [is_below(path, options.test) for path in paths]
    if options.test is not None and not any(kept_apart):
        raise no_part("test", options.test, paths, location)
    names = [[found for name in path.split("/")[:-1] if (found := split_name(name))] for path in paths]
    by_rest: dict[tuple[str, ...], set[int]] = {}
    for name in (name for found in names for name in found):
        by_rest.setdefault(name.rest, set()).add(name.split)
    pairs = [rest for rest, splits in by_rest.items() if splits == {TRAIN, VAL}]
    if not pairs:
        return _by_words([None] * len(paths), kept_apart)
    words = [next((name.word for name in reversed(found) if name.rest in pairs), None) for found in names]
    outside = next(
        (path for path, word, apart in zip(paths, words, kept_apart, strict=True) if not (word or apart)), ""
    )
    if len(pairs) > 1 or outside:
        what = f"but {outside} in none" if outside else "and these may be several splits"
        raise DataError(
            f"{location}: pictures lie in folders of training and of held-out ones, {what}; write a column `split`, or "
            "say with --data.train and --data.val which folders they are"
        )
    return _by_words(words, kept_apart)


def _by_words(words: list[str | None], kept_apart: list[bool]) -> Parts:
    """The parts of names that have these words."""
    known = {word for word in words if word is not None}
    held_out = next((word for word in HELD_OUT_WORDS if word in known), None)
    # `val` and `validation` are one part, as are `test` and `eval`; a test beside a validation is left out.
    kind = None if held_out is None else _kind(held_out)
    splits: list[int | None] = []
    for word, apart in zip(words, kept_apart, strict=True):
        if apart:
            splits.append(None)
        elif word is None:
            splits.append(None if known else NONE)
        elif word in TRAIN_WORDS:
            splits.append(TRAIN)
        else:
            splits.append(VAL if _kind(word) == kind else None)
    reasons = tuple(
        "" if split is not None else _why_left_out(word, apart)
        for split, word, apart in zip(splits, words, kept_apart, strict=True)
    )
    return Parts(tuple(splits), reasons)


def _why_left_out(word: str | None, kept_apart: bool) -> str:
    if kept_apart:
        return "kept apart, as data.test says"
    return (
        "in no part that is known (train, val, test, ...)" if word is None else f"{word}, as another part is held out"
    )


def _named(paths: tuple[str, ...], options: ReadOptions, location: str) -> Parts:
    splits: list[int | None] = []
    for path in paths:
        is_val = is_below(path, options.val)
        is_test = is_below(path, options.test)
        is_train = is_below(path, options.train) and not is_val and not is_test
        splits.append(VAL if is_val else TRAIN if is_train else None)
    for role, split in (("train", TRAIN), ("val", VAL)):
        wanted = getattr(options, role)
        if wanted is not None and split not in splits:
            raise no_part(role, wanted, paths, location)
    if options.test is not None and not any(is_below(path, options.test) for path in paths):
        raise no_part("test", options.test, paths, location)
    return Parts(
        tuple(splits),
        tuple(_reason(split, is_below(path, options.test)) for split, path in zip(splits, paths, strict=True)),
    )


def _reason(split: int | None, is_test: bool) -> str:
    if split is not None:
        return ""
    return "kept apart, as data.test says" if is_test else "named by neither data.train nor data.val"


def is_below(path: str, part: str | None) -> bool:
    """Whether a file is of the part: in that folder, or of a name that begins so."""
    if part is None:
        return False
    part = part.strip("/")
    rest = path.removeprefix(part)
    return part == "." or (path.startswith(part) and not rest[:1].isalnum())


def _word(name: str) -> str | None:
    found = split_name(name)
    return None if found is None else found.word


def _file_word(path: str) -> str | None:
    """The split's word of a file's name, or else of the nearest folder around it that has one."""
    for name in reversed(path.split("/")):
        if (word := _word(name)) is not None:
            return word
    return None


def no_part(role: str, wanted: str, names: Iterable[str], location: str) -> DataError:
    known = sorted(set(names))
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return DataError(f"data.{role} is {wanted!r}, but {location} has no such part; it has {shown or 'none'}")
