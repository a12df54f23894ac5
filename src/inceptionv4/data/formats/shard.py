"""The samples of one tar shard, read as webdataset's own reader reads them.

    photos/0007.cls   photos/0007.jpg   photos/0007.seg.png

A member's key ends at the first dot after its last slash (`photos/0007`); the rest, in lower case, is its field (`cls`,
`jpg`, `seg.png`). Members of one key follow each other and are one sample. Its image is the one field that is an
image's extension and no more; its label is the number in `cls`. All other fields are counted.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inceptionv4.data.formats.tar import list_members
from inceptionv4.data.layout import EXTENSIONS, is_sidecar
from inceptionv4.data.table import StringArray
from inceptionv4.errors import DataError

KEY = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<field>[^/]*)", re.DOTALL)
META = re.compile(r"__[^/]*__($|/)")
"""What webdataset keeps for its own use, such as `__index__/...`."""
NUMBER = re.compile(rb"\s*\d{1,9}\s*")
LONGEST_LABEL = 100
"""Bytes of a number and the blanks around it."""
HIDDEN, NAMELESS, LONE = "hidden", "without an extension", "cls without an image"
"""Keys of `Shard.left_out`, beside the names of fields."""


@dataclass(frozen=True)
class Shard:
    """The images of one shard: their names, and int64 arrays of class numbers, offsets and sizes.

    `left_out` counts the members that are neither an image nor its label, by their field.
    """

    names: StringArray
    numbers: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    left_out: Counter[str] = field(default_factory=Counter)


def read_shard(shard: Path) -> Shard:
    """Read the members of one shard.

    Raises:
        DataError: it is damaged, an image has no label, or which image or label a sample has is not certain.
    """
    left_out: Counter[str] = Counter()
    images: list[tarfile.TarInfo] = []
    numbers: list[int] = []
    with shard.open("rb") as file:
        for key, fields in _samples(shard, left_out):
            image = _image(shard, key, fields)
            if image is not None and "cls" not in fields:
                raise DataError(
                    f"{shard}: {fields[image].name} has no {key}.cls beside it, only {_listed(fields)}; "
                    "give each image the number of its class"
                )
            left_out.update(name for name in fields if name not in ("cls", image))
            if image is None:
                left_out[LONE] += "cls" in fields
                continue
            label = fields["cls"]
            file.seek(label.offset_data)
            numbers.append(_label(file.read(min(label.size, LONGEST_LABEL + 1)), f"{shard}:{label.name}"))
            images.append(fields[image])
    return Shard(
        StringArray.of(member.name for member in images),
        np.array(numbers, np.int64),
        np.array([member.offset_data for member in images], np.int64),
        np.array([member.size for member in images], np.int64),
        +left_out,
    )


def _samples(shard: Path, left_out: Counter[str]) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The key of each sample, and its members by their fields."""
    keys: set[str] = set()
    key, fields = None, dict[str, tarfile.TarInfo]()
    # A link comes after all plain members, but lies where its own header does.
    for member in sorted(list_members(shard), key=lambda member: member.offset):
        match = KEY.fullmatch(member.name)
        if is_sidecar(member.name) or META.match(member.name):
            left_out[HIDDEN] += 1
        elif match is None:
            left_out[HIDDEN if member.name.rpartition("/")[2].startswith(".") else NAMELESS] += 1
        else:
            if match["key"] != key:
                if key is not None:
                    yield key, fields
                key, fields = match["key"], {}
                if key in keys:
                    raise DataError(
                        f"{shard}: the members of the sample {key} do not follow each other, so that webdataset reads "
                        f"two samples ({member.name} comes after those of another); pack it again, sorted by name"
                    )
                keys.add(key)
            name = match["field"].lower()
            if name in fields:
                raise DataError(
                    f"{shard}: the sample {key} has two members for {name}, {fields[name].name} and {member.name}; "
                    "remove one, or give them different keys"
                )
            fields[name] = member
    if key is not None:
        yield key, fields


def _image(shard: Path, key: str, fields: dict[str, tarfile.TarInfo]) -> str | None:
    """The field that is the image of a sample; None if it has none."""
    images = [name for name in fields if f".{name}" in EXTENSIONS]
    dotted = [name for name in fields if "." in name and name.endswith(EXTENSIONS)]
    labelled = next((name for name in dotted if f"{name.rpartition('.')[0]}.cls" in fields), None)
    if labelled or (dotted and not images):
        raise DataError(
            f"{shard}: {fields[labelled or dotted[0]].name} is no image of its own: a key ends at the first dot, so it "
            f"belongs to the sample {key}, which has {_listed(fields)}; rename the members so that their names "
            "have no dot but that of .jpg and .cls"
        )
    if len(images) > 1:
        raise DataError(
            f"{shard}: the sample {key} has several images, {_listed(images)}; keep one under a plain extension, and "
            f"rename the others, as {key}.mask.{images[1]}"
        )
    return images[0] if images else None


def _listed(names: dict[str, tarfile.TarInfo] | list[str]) -> str:
    return ", ".join([*names][:5]) + (", ..." if len(names) > 5 else "")


def _label(content: bytes, name: str) -> int:
    if len(content) > LONGEST_LABEL or not NUMBER.fullmatch(content):
        raise DataError(f"{name} holds {content[:20]!r}, not the number of a class")
    return int(content)
