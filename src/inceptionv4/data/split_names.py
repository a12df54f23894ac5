"""Which part of the data a name speaks of, in every spelling: `train`, `Testing`, `seg_val`, `cats-train-0-of-2`.

The words are those of Hugging Face's data sets. They count in any case, between any separators, and with `set`, `data`
or `images` behind them. A name with words of two kinds, such as `trainval`, speaks of no part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from inceptionv4.data.table import TRAIN, VAL

TRAIN_WORDS = ("train", "training")
HELD_OUT_WORDS = ("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation")
"""In the order in which they count: of several parts, the first is held out and the others are left out."""
TEST_WORDS = HELD_OUT_WORDS[4:]
USUAL = frozenset((
    "set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "picture", "pictures", "photo",
    "photos", "folder", "dir", "directory", "split", "subset", "part", "partial", "seg", "of", "the",
))  # fmt: skip
"""Words around a split's that say nothing more."""
PIECES = USUAL | {"shard", "shards", "chunk", "file", "batch", "parquet", "tar", "default"}
"""Words before a split's in the name of a file that say nothing more."""
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
        if (word := _split_word(token)) is not None:
            words.append(word)
        elif token not in USUAL:
            rest.append(token)
    kinds = {kind_of_word(word) for word in words}
    return SplitName(words[0], tuple(rest)) if len(kinds) == 1 else None


def _split_word(token: str) -> str | None:
    glued = GLUED.fullmatch(token)
    word = glued[1] if glued else token
    return word if word in TRAIN_WORDS or word in HELD_OUT_WORDS else None


def kind_of_word(word: str) -> str:
    """`train`, `val` or `test`: words of one kind are one part."""
    return "train" if word in TRAIN_WORDS else "test" if word in TEST_WORDS else "val"


def split_word(name: str) -> str | None:
    """The split's word of `name`; None if it speaks of no part, or of two."""
    found = split_name(name)
    return None if found is None else found.word


def has_word(name: str) -> bool:
    """True if a split's word, of any kind, is among those of `name`."""
    return any(token in TRAIN_WORDS or token in HELD_OUT_WORDS for token in TOKEN.findall(HUMP.sub(" ", name).lower()))


def speaks_of_both(names: Iterable[str]) -> bool:
    """True if each of `names` speaks of a part, some of training and some of held-out images, and they differ in the
    split's word alone, which captions do not.
    """
    found = [split_name(name) for name in names]
    known = [name for name in found if name is not None]
    both = {name.split for name in known} == {TRAIN, VAL}
    return both and len(known) == len(found) and len({name.rest for name in known}) == 1


@dataclass(frozen=True)
class SplitPath:
    """What the path of a file says: the split's word of its name, or else of the nearest folder around it, and the
    words before it, which name the data set where several lie side by side.
    """

    word: str
    before: tuple[str, ...]


def split_path(path: str) -> SplitPath | None:
    """The part that the file at `path` is of; None if no name in it speaks of one."""
    names = path.split("/")
    at = next((number for number in reversed(range(len(names))) if split_name(names[number])), None)
    if at is None:
        return None
    *folders, name = [HUMP.sub(" ", name).lower() for name in names[: at + 1]]
    start, word = next((token.start(), word) for token in TOKEN.finditer(name) if (word := _split_word(token[0])))
    before = re.findall(r"[a-z0-9]+", " ".join((*folders, name[:start])))
    return SplitPath(word, tuple(text for text in before if _names_data("".join(TOKEN.findall(text)), word)))


def _names_data(letters: str, split: str) -> bool:
    """True if a word before that of the split names a data set, and is no piece, number or the split's word again."""
    word = _split_word(letters)
    if word is not None:
        return kind_of_word(word) != kind_of_word(split)
    return len(letters) > 1 and letters not in PIECES
