"""Which part of the data files, rows of tables and listed pictures are of, by names and by what the user says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from inceptionv4.data.options import ReadOptions
from inceptionv4.data.split_names import (
    HELD_OUT_WORDS,
    PIECES,
    TEST_WORDS,
    TRAIN_WORDS,
    kind_of_word,
    split_name,
    split_path,
    split_word,
)
from inceptionv4.data.table import NONE, TRAIN, VAL
from inceptionv4.errors import DataError

APART = "kept apart, as data.test says"
NO_LABELS = "a test without labels"


@dataclass(frozen=True)
class Parts:
    """The split of each name, in order: `TRAIN`, `VAL`, `NONE` where there is no split, or None for a part left out."""

    splits: tuple[int | None, ...]
    reasons: tuple[str, ...]
    """The reason why each name is left out; empty if it is not."""


def split_files(
    paths: Iterable[str], options: ReadOptions, location: str, apart: Mapping[str, str] = MappingProxyType({})
) -> Parts:
    """The parts that files belong to, by their paths below `location`: their names, or else the folders around them.
    `apart` says of files that are left out in any case why they are.

    Raises:
        DataError: a part that `options` name is not there; or the files tell several data sets.
    """
    paths = tuple(paths)
    if options.train is not None:
        return _named(paths, options, location)
    reasons = [apart.get(path) or (APART if is_below(path, options.test) else "") for path in paths]
    if options.test is not None and APART not in reasons:
        raise no_part("test", options.test, paths, location)
    names = [None if reason else split_path(path) for path, reason in zip(paths, reasons, strict=True)]
    parts = _by_words([name.word if name else None for name in names], reasons)
    first: dict[tuple[str, ...], str] = {}
    for path, name, split in zip(paths, names, parts.splits, strict=True):
        if split is not None:
            first.setdefault(name.before if name else _folders(path), path)
    if len(first) > 1:
        raise DataError(
            f"{location} has files of several data sets, such as {' and '.join(list(first.values())[:2])}; give those "
            "of one alone, or say with --data.train and --data.val how the names of its parts begin"
        )
    return parts


def _folders(path: str) -> tuple[str, ...]:
    """The folders around a file, which name a data set."""
    return tuple(name for name in path.split("/")[:-1] if name.lower() not in PIECES)


def split_values(
    values: Sequence[str],
    options: ReadOptions,
    location: str,
    where: Callable[[int], str],
    unlabelled: Sequence[bool],
) -> Parts:
    """The parts that the values of a table's column stand for. `where` names a row, and `unlabelled` says which rows
    have no label: a test of such rows alone is left out.

    Raises:
        DataError: a part that `options` name is not among them; or a value speaks of no part.
    """
    for role in ("train", "val", "test"):
        wanted = getattr(options, role)
        if wanted is not None and wanted not in values:
            raise no_part(role, wanted, values, location)
    if options.train is not None:
        named = {options.train: TRAIN, options.val: VAL}
        splits = tuple(named.get(value) for value in values)
        return Parts(splits, tuple(_reason(s, value == options.test) for s, value in zip(splits, values, strict=True)))
    words = {value: split_word(value) for value in set(values) if value != options.test}
    if "" in words and len(words) > 1:
        raise DataError(f"{where(values.index(''))} has no split, which other rows have; fill the column or remove it")
    if strange := sorted(value for value, word in words.items() if value and word is None):
        raise DataError(
            f"{where(values.index(strange[0]))} has the split {strange[0]!r}; expected "
            f"{', '.join(TRAIN_WORDS + HELD_OUT_WORDS)}, or say with data.train"
        )
    labelled = {value for value, bare in zip(values, unlabelled, strict=True) if not bare}
    tests = {value for value, word in words.items() if word in TEST_WORDS}
    bare_tests = tests - labelled if labelled else set()
    reasons = [APART if value == options.test else NO_LABELS if value in bare_tests else "" for value in values]
    return _by_words([None if reason else words[value] for value, reason in zip(values, reasons, strict=True)], reasons)


def split_listed(paths: Iterable[str], options: ReadOptions, location: str) -> Parts:
    """The parts that the folders of listed pictures speak of, where no column does: `train/cat/1.jpg`.

    Raises:
        DataError: a part that `options` name is not there; or some pictures lie in parts and others in none.
    """
    paths = tuple(paths)
    if options.train is not None:
        return _named(paths, options, location)
    apart = [APART if is_below(path, options.test) else "" for path in paths]
    if options.test is not None and APART not in apart:
        raise no_part("test", options.test, paths, location)
    names = [[found for name in path.split("/")[:-1] if (found := split_name(name))] for path in paths]
    by_rest: dict[tuple[str, ...], set[int]] = {}
    for name in (name for found in names for name in found):
        by_rest.setdefault(name.rest, set()).add(name.split)
    pairs = [rest for rest, splits in by_rest.items() if splits == {TRAIN, VAL}]
    if not pairs:
        return _by_words([None] * len(paths), apart)
    words = [next((name.word for name in reversed(found) if name.rest in pairs), None) for found in names]
    outside = next((path for path, word, reason in zip(paths, words, apart, strict=True) if not (word or reason)), "")
    if len(pairs) > 1 or outside:
        what = f"but {outside} in none" if outside else "and these may be several splits"
        raise DataError(
            f"{location}: pictures lie in folders of training and of held-out ones, {what}; write a column `split`, or "
            "say with --data.train and --data.val which folders they are"
        )
    return _by_words(words, apart)


def _by_words(words: Sequence[str | None], apart: Sequence[str]) -> Parts:
    """The parts of names that have these words; of those that are left out in any case, `apart` says why."""
    known = {word for word in words if word is not None}
    held_out = next((word for word in HELD_OUT_WORDS if word in known), None)
    # `val` and `validation` are one part, as are `test` and `eval`; a test beside a validation is left out.
    kind = None if held_out is None else kind_of_word(held_out)
    splits: list[int | None] = []
    reasons: list[str] = []
    for word, reason in zip(words, apart, strict=True):
        split: int | None = NONE
        if not reason and word is None and known:
            reason = "in no part that is known (train, val, test, ...)"
        elif word is not None:
            split = TRAIN if word in TRAIN_WORDS else VAL
            if split == VAL and kind_of_word(word) != kind:
                reason = f"{word}, as another part is held out"
        splits.append(None if reason else split)
        reasons.append(reason)
    return Parts(tuple(splits), tuple(reasons))


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
    return APART if is_test else "named by neither data.train nor data.val"


def is_below(path: str, part: str | None) -> bool:
    """True if a file is of the part: in that folder, or of a name that begins so."""
    if part is None:
        return False
    part = part.strip("/")
    rest = path.removeprefix(part)
    return part == "." or (path.startswith(part) and not rest[:1].isalnum())


def no_part(role: str, wanted: str, names: Iterable[str], location: str) -> DataError:
    known = sorted(set(names))
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return DataError(f"data.{role} is {wanted!r}, but {location} has no such part; it has {shown or 'none'}")
