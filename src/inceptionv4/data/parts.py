"""Which folders are the parts of the data: the training images, the held-out ones, and what is left out.

    train/cat/     val/cat/
    Training/cat/  Testing/cat/
    seg_train/seg_train/cat/  seg_test/seg_test/cat/

Two folders are parts if their names differ in the split's word alone. Folders that may be parts or classes are refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from inceptionv4.data.options import ReadOptions
from inceptionv4.data.split_names import HELD_OUT_WORDS, TEST_WORDS, SplitName, split_name
from inceptionv4.data.splits import no_part
from inceptionv4.data.table import NONE, TRAIN, VAL
from inceptionv4.errors import DataError

CURE = "say which with --data.train and --data.val (`--data.train .`: all folders are classes)"


def top_folders(folders: Sequence[str], root: str = "") -> list[str]:
    """The first folder of each path below `root`, each once, sorted."""
    return sorted({folder[len(root) :].partition("/")[0] for folder in folders})


def named_parts(folders: Sequence[str], options: ReadOptions, location: str) -> tuple[dict[str, int], str]:
    """The parts that the user names, each a folder below `location` or below the folder around everything."""
    root = wrapping_folder(folders)
    prefixes = {}
    for role, split in (("val", VAL), ("train", TRAIN if options.val else NONE)):  # the first that fits counts
        wanted = getattr(options, role)
        if wanted is None:
            continue
        part = "" if wanted.strip("/") == "." else wanted.strip("/") + "/"
        there = [start for start in ("", root) if any(folder.startswith(start + part) for folder in folders)]
        if not there:
            raise no_part(role, wanted, top_folders(folders, root), location)
        prefixes[root if not part else there[0] + part] = split
    return prefixes, root


def find_parts(folders: Sequence[str], location: str, reasons: dict[str, str]) -> tuple[dict[str, int], str]:
    """The prefixes of the parts, and what precedes them all. Adds to `reasons` the folders of parts left out."""
    root = wrapping_folder(folders)
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
        raise no_class_folder(f"{root}{min(flat)}/", location)
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
    trained = {name for top in train for rest in inside[top] for name in rest.split("/")}
    unlabelled = [top for top in held_out if group[top].word in TEST_WORDS and _has_no_classes(inside[top], trained)]
    for top in unlabelled:
        for rest in inside[top]:
            reasons[f"{root}{top}/{rest}"] = f"{top}/ has no class folders, so no labels"
    held_out = [top for top in held_out if top not in unlabelled]
    chosen = held_out[:1]
    _refuse_twice({top: group[top] for top in (*train, *held_out)}, location)
    if direct := [top for top in (*train, *held_out) if top in flat]:
        raise no_class_folder(f"{root}{direct[0]}/", location)
    for top in held_out[1:]:
        for rest in inside[top]:
            reasons[f"{root}{top}/{rest}"] = f"{top}/ is left out: {chosen[0]}/ is held out"
    if not chosen:
        return {f"{root}{train[0]}/": NONE}
    return {f"{root}{train[0]}/": TRAIN, f"{root}{chosen[0]}/": VAL}


def _has_no_classes(rests: Sequence[str], trained: set[str]) -> bool:
    """True if a part has its images directly in it, or in one folder that is no class of the training images."""
    return len(rests) == 1 and (rests[0] == "" or (rests[0].count("/") == 1 and rests[0].rstrip("/") not in trained))


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
    counts = Counter(name for names in below for name in names)
    often = {name for name, count in counts.items() if count >= max(2, len(below) / 2)}
    # All hold the same, or each holds some of a few that most hold, as where a patient lacks a finding.
    if len(shared := set.intersection(*below)) >= 2 or (len(often) >= 2 and often == set(counts)):
        tops, names = sorted(inside), sorted(shared if len(shared) >= 2 else often)
        raise DataError(
            f"{location}: the folders {', '.join(tops[:5])} all hold {', '.join(names[:5])}; either may be the "
            f"classes and the others parts of the data: {CURE}"
        )


def look_through(prefixes: dict[str, int], folders: Sequence[str]) -> dict[str, int]:
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


def wrapping_folder(folders: Sequence[str]) -> str:
    """The folder around everything, as `photos/`, or nothing; what is left of each path still has a class folder."""
    root = ""
    while (first := _around([folder[len(root) :] for folder in folders])) is not None:
        name = split_name(first)
        if name is not None and not name.rest:
            break
        root += first + "/"
    return root


def no_class_folder(folder: str, location: str) -> DataError:
    return DataError(
        f"{location}: images lie in no class folder, directly in {folder or 'the top'}; "
        f"move them into folders of their classes, such as {folder}cat/"
    )
