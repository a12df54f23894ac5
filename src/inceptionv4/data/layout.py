"""What folders mean, on a disk or inside an archive: which class, and which part of the data.

    train/cat/1.jpg   val/cat/2.jpg      split as the folders say
    cat/1.jpg         dog/2.jpg          no split: a share of each class will be held out

A folder around it all is looked through, also inside a part. Classes are sorted as text, as torchvision sorts them.
What may be read in two ways is refused: `data.train` and `data.val` decide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inceptionv4.data.class_names import class_name
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.splits import HELD_OUT_WORDS, TEST_WORDS, SplitName, is_below, no_part, split_name
from inceptionv4.data.table import NONE, TRAIN, VAL, counted
from inceptionv4.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CURE = "say which with --data.train and --data.val (`--data.train .`: all folders are classes)"
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
        apart = [folder for folder in folders if is_below(folder, options.test)]
        if not apart:
            raise no_part("test", options.test, _tops(folders), location)
        reasons.update(dict.fromkeys(apart, f"{options.test}/ is kept apart, as data.test says"))
    rest = [folder for folder in folders if folder not in reasons]
    if not rest:
        raise DataError(f"{location}: all images are in {options.test}/, which data.test keeps apart")
    if options.train is not None:
        prefixes, root = _named_parts(rest, options, location)
        others = "named by neither data.train nor data.val"
    else:
        prefixes, root = _find_parts(rest, location, reasons)
        others = "in no part that is known (train, val, test, ...)"
    meanings: list[tuple[int, str] | None] = []
    prefixes = _look_through(prefixes, rest)
    for folder in folders:
        meaning = None if folder in reasons else _split_and_class(folder, prefixes, location)
        if meaning is None:
            reasons.setdefault(folder, f"{folder[: folder.find('/', len(root)) + 1]} is {others}")
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


def _tops(folders: Sequence[str], root: str = "") -> list[str]:
    return sorted({folder[len(root) :].partition("/")[0] for folder in folders})


def _named_parts(folders: Sequence[str], options: ReadOptions, location: str) -> tuple[dict[str, int], str]:
    """The parts that the user names, each a folder below `location` or below the folder around everything."""
    root = _wrapping_folder(folders)
    prefixes = {}
    for role, split in (("val", VAL), ("train", TRAIN if options.val else NONE)):  # the first that fits counts
        wanted = getattr(options, role)
        if wanted is None:
            continue
        part = "" if wanted.strip("/") == "." else wanted.strip("/") + "/"
        there = [start for start in ("", root) if any(folder.startswith(start + part) for folder in folders)]
        if not there:
            raise no_part(role, wanted, _tops(folders, root), location)
        prefixes[root if not part else there[0] + part] = split
    return prefixes, root


def _find_parts(folders: Sequence[str], location: str, reasons: dict[str, str]) -> tuple[dict[str, int], str]:
    """The prefixes of the parts, and what precedes them all. Adds to `reasons` the folders of parts left out."""
    root = _wrapping_folder(folders)
    inside: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        top, _, rest = folder[len(root) :].partition("/")
        inside[top].append(rest)
    flat = {top for top, rests in inside.items() if "" in rests}
    named = {top: name for top in inside if (name := split_name(top)) is not None}
    groups: dict[tuple[str, ...], dict[str, SplitName]] = defaultdict(dict)
    for top, name in named.items():
        groups[name.rest][top] = name
    pairs = [group for group in groups.values() if {name.split for name in group.values()} == {TRAIN, VAL}]
    if pairs:
        return _parts_of_pair(pairs, inside, flat, root, location, reasons), root
    exact = groups.get((), {})
    others = [top for top in inside if top not in exact]
    if exact and not others and flat:
        raise _no_class_folder(f"{root}{min(flat)}/", location)
    if exact and not flat & set(exact):
        if deep := [top for top in others if top not in flat]:
            raise DataError(
                f"{location}: {' and '.join(sorted(exact))} may be a part of the data or a class beside "
                f"{', '.join(deep[:5])}; {CURE}"
            )
        _refuse_twice(exact, location)
        # A lone train or val folder is data without a split, not a class called train.
        first = min(exact, key=lambda top: (*HELD_OUT_WORDS,).index(exact[top].word) if exact[top].split == VAL else -1)
        for top in exact:
            if top != first:
                _leave_out(f"{root}{top}/", folders, reasons, f"{top}/ is left out: {first}/ is the part that is used")
        return {f"{root}{first}/": NONE}, root
    _refuse_parts_below(inside, root, location)
    _refuse_equal_folders(inside, flat, location)
    return {root: NONE}, root


def _parts_of_pair(
    pairs: Sequence[dict[str, SplitName]],
    inside: dict[str, list[str]],
    flat: set[str],
    root: str,
    location: str,
    reasons: dict[str, str],
) -> dict[str, int]:
    """The part to train on and the one to hold out, of folders whose names differ in the split's word alone."""
    if len(pairs) > 1:
        names = ", ".join(sorted(top for pair in pairs for top in pair))
        raise DataError(f"{location}: the folders {names} may be several splits; {CURE}")
    (group,) = pairs
    train = [top for top, name in group.items() if name.split == TRAIN]
    held_out = sorted((top for top in group if top not in train), key=lambda top: HELD_OUT_WORDS.index(group[top].word))
    unlabelled = [top for top in held_out if inside[top] == [""] and group[top].word in TEST_WORDS]
    for top in unlabelled:
        reasons[f"{root}{top}/"] = f"{top}/ has no class folders, so no labels"
    held_out = [top for top in held_out if top not in unlabelled]
    chosen = held_out[:1]
    _refuse_twice({top: group[top] for top in (*train, *held_out)}, location)
    if direct := [top for top in (*train, *held_out) if top in flat]:
        raise _no_class_folder(f"{root}{direct[0]}/", location)
    for top in held_out[1:]:
        for rest in inside[top]:
            reasons[f"{root}{top}/{rest}"] = f"{top}/ is left out: {chosen[0]}/ is held out"
    if not chosen:
        return {f"{root}{train[0]}/": NONE}
    return {f"{root}{train[0]}/": TRAIN, f"{root}{chosen[0]}/": VAL}


def _refuse_twice(names: dict[str, SplitName], location: str) -> None:
    """Refuse two folders for one part, such as `train1` and `train2`, or `fold_0_val` and `fold_1_val`."""
    tops: dict[str, list[str]] = defaultdict(list)
    for top, name in names.items():
        tops["train" if name.split == TRAIN else name.word].append(top)
    for several in tops.values():
        if len(several) > 1:
            raise DataError(f"{location}: {' and '.join(sorted(several))} may be the same part of the data; {CURE}")


def _leave_out(prefix: str, folders: Sequence[str], reasons: dict[str, str], reason: str) -> None:
    reasons.update({folder: reason for folder in folders if folder.startswith(prefix)})


def _refuse_parts_below(inside: dict[str, list[str]], root: str, location: str) -> None:
    """Refuse folders that hold the parts of a split one level further down, such as `photos/train/` beside `pool/`."""
    for top, rests in inside.items():
        named = {name: found for rest in rests if (found := split_name(name := rest.partition("/")[0]))}
        train = [name for name, found in named.items() if found.split == TRAIN and not found.rest]
        held_out = [name for name, found in named.items() if found.split == VAL and not found.rest]
        if train and held_out:
            others = ", ".join(sorted(set(inside) - {top})[:5])
            raise DataError(
                f"{location}: {root}{top}/ holds {train[0]}/ and {held_out[0]}/, which may be the parts of the data, "
                f"but {others} lies beside it; say --data.train {root}{top}/{train[0]} "
                f"--data.val {root}{top}/{held_out[0]}, or --data.train . if all of these folders are classes"
            )


def _refuse_equal_folders(inside: dict[str, list[str]], flat: set[str], location: str) -> None:
    """Refuse folders that all hold the same folders: either may be the class."""
    if flat or len(inside) < 2:
        return
    below = [{rest.partition("/")[0] for rest in rests} for rests in inside.values()]
    if len(shared := set.intersection(*below)) >= 2:
        tops, names = sorted(inside), sorted(shared)
        raise DataError(
            f"{location}: the folders {', '.join(tops[:5])} all hold {', '.join(names[:5])}; either may be the "
            f"classes and the others parts of the data: {CURE}"
        )


def _look_through(prefixes: dict[str, int], folders: Sequence[str]) -> dict[str, int]:
    """The prefixes, longer by a folder around everything inside a part, as in `seg_train/seg_train/cat/`."""
    found = {}
    parts = {prefix: [path[len(prefix) :] for path in folders if path.startswith(prefix)] for prefix in prefixes}
    shared = {_around(paths) for paths in parts.values()}
    for prefix, split in prefixes.items():
        top = _around(parts[prefix])
        own = split_name(prefix.rstrip("/").rpartition("/")[2])
        again = split_name(top or "")
        is_same = again is not None and own is not None and again.word == own.word
        if top and (is_same or (prefix and len(shared) == 1)):
            prefix += top + "/"
        found[prefix] = split
    return found


def _around(paths: Sequence[str]) -> str | None:
    """The folder around all of `paths`, which have folders below it."""
    first = paths[0].partition("/")[0] if paths else ""
    if first and all(path.startswith(first + "/") and path.count("/") >= 2 for path in paths):
        return first
    return None


def _wrapping_folder(folders: Sequence[str]) -> str:
    """The folder around everything, as `photos/`, or nothing; what is left of each path still has a class folder."""
    root = ""
    while (first := _around([folder[len(root) :] for folder in folders])) is not None:
        name = split_name(first)
        if name is not None and not name.rest:
            break
        root += first + "/"
    return root


def _split_and_class(folder: str, prefixes: dict[str, int], location: str) -> tuple[int, str] | None:
    for prefix, split in prefixes.items():
        if folder.startswith(prefix):
            name = folder[len(prefix) :].partition("/")[0]
            if not name:
                raise _no_class_folder(folder, location)
            return split, name
    return None


def _no_class_folder(folder: str, location: str) -> DataError:
    return DataError(
        f"{location}: images lie in no class folder, directly in {folder or 'the top'}; "
        f"move them into folders of their classes, such as {folder}cat/"
    )


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
