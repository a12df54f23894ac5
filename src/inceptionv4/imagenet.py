"""ImageNet-1k's classes: a wnid and a name for each of the 1000, in the order of published logits (sorted by wnid).

A wnid is the name of the class's folder in the data set; the name is WordNet's first word for it, and two pairs that
share theirs are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources


@cache
def names_of_wnids() -> dict[str, str]:
    """`{"n01440764": "tench", ...}`, in the order of published logits."""
    text = (resources.files("inceptionv4") / "imagenet.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def class_names() -> tuple[str, ...]:
    """`("tench", "goldfish", ...)`: 1000 different names."""
    return tuple(names_of_wnids().values())


def canonical(classes: Sequence[str]) -> tuple[str, ...]:
    """The same classes, with names for wnids: what is the same class in two data sets is then called the same."""
    names = names_of_wnids()
    return tuple(names.get(name, name) for name in classes)
