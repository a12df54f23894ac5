"""CIFAR-10 as its authors distribute it: pickled batches, or binary ones. Both are read in place.

A record is one label byte (binary form) and 3072 bytes of pixels, 32 x 32, plane by plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from pathlib import Path

import numpy as np

from inceptionv4.data.formats.source import RangeSource
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.data.table import TRAIN, VAL, StringArray, Table
from inceptionv4.errors import DataError
from inceptionv4.runtime.unpickle import unpickle

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PIXELS = 3 * 32 * 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CifarSource(RangeSource):
    """Records at their offsets in the batch files, handed out as PPM images."""

    layout_name = "cifar"

    @staticmethod
    def find(folder: Path) -> list[Path]:
        """The batch files in `folder` or in the one folder that the archive unpacks to; none if it is no CIFAR-10."""
        for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-10-batches-bin"):
            for ending in ("", ".bin"):
                batches = [place / (name + ending) for name in BATCHES]
                if all(batch.is_file() for batch in batches):
                    return batches
        return []

    @staticmethod
    def index(files: Sequence[Path], options: ReadOptions = AS_FOUND) -> Table:
        """Read the labels of the batches, the last of which is held out.

        Raises:
            DataError: a batch is damaged, or its pickle holds what a batch does not.
        """
        labels, offsets, container, names = [], [], [], []
        for number, batch in enumerate(files):
            batch_labels, batch_offsets = (_binary if batch.suffix == ".bin" else _pickled)(batch)
            if (wrong := next((label for label in batch_labels if label not in range(len(CLASSES))), None)) is not None:
                raise DataError(f"{batch} has the label {wrong}; those of CIFAR-10 are 0 to 9")
            labels += batch_labels
            offsets += batch_offsets
            container += [number] * len(batch_labels)
            names += [f"{batch.stem}/{record:05}.ppm" for record in range(len(batch_labels))]
        held_out = len(files) - 1
        return Table(
            containers=tuple(map(str, files)),
            container=np.array(container, np.int32),
            names=StringArray.of(names),
            labels=np.array(labels, np.int32),
            splits=np.array([VAL if number == held_out else TRAIN for number in container], np.int8),
            classes=CLASSES,
            layout="CIFAR-10 batches",
            place={"offset": np.array(offsets, np.int64), "size": np.full(len(labels), PIXELS, np.int64)},
        )

    def read(self, row: int) -> bytes:
        planes = np.frombuffer(super().read(row), np.uint8).reshape(3, 32, 32)
        return b"P6 32 32 255\n" + planes.transpose(1, 2, 0).tobytes()


def _binary(batch: Path) -> tuple[list[int], list[int]]:
    content = batch.read_bytes()
    record = 1 + PIXELS
    if not content or len(content) % record:
        raise DataError(f"{batch} is no CIFAR-10 batch: {len(content)} bytes are no whole records of {record}")
    return list(content[::record]), list(range(1, len(content), record))


def _pickled(batch: Path) -> tuple[list[int], list[int]]:
    """The labels, and where in the file the pixels lie: a pickle holds an array's bytes as they are."""
    content = batch.read_bytes()
    try:
        values = unpickle(content, encoding="bytes")
        labels = [index(label) for label in values[b"labels"]]  # 1.5 is refused, not cut off
        pixels = np.ascontiguousarray(values[b"data"].array(), np.uint8).reshape(len(labels), PIXELS).tobytes()
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises anything
        raise DataError(f"{batch} is no CIFAR-10 batch: {error}") from None
    start = content.find(pixels)
    if start < 0:
        raise DataError(f"{batch} was pickled again in another form; use the file as it was distributed")
    return labels, [start + PIXELS * record for record in range(len(labels))]
