"""Pooled features of many images as one file, written row by row.

    .npy        float32 (images, features)
    .parquet    file (string), label (string), probability (float32), embedding (features x float32)

Rows are those of the images that could be read, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from inceptionv4.errors import UsageError
from inceptionv4.inference.classifier import Prediction
from inceptionv4.runtime.files import whole

SUFFIXES = (".npy", ".parquet")
ROWS_A_GROUP = 1024
"""Of a parquet file, which are held until they are written: 6 MB of 1536 features."""


class Writer(Protocol):
    """Takes predictions that have embeddings, one after the other."""

    def add(self, prediction: Prediction) -> None:
        """Add a row."""

    def finish(self) -> None:
        """Write what is still to be written."""


@contextmanager
def open_embeddings(path: Path, features: int) -> Iterator[Writer]:
    """A file of embeddings of so many `features`, of the kind that its name says: whole at the end, or not there.

    Raises:
        UsageError: its name is of no such kind, or pyarrow is not installed.
        RunError: the folder cannot be written, or the disk is full.
    """
    check_suffix(path)
    with whole(path) as temporary, temporary.open("wb") as file:
        writer = _Npy(file, features) if path.suffix == ".npy" else _Parquet(file, features)
        try:
            yield writer
        finally:
            writer.finish()  # of what is thrown away, too: pyarrow would do it later, when the file is closed


def check_suffix(path: Path) -> None:
    """Raise UsageError unless `path` ends in one of `SUFFIXES`."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"embeddings are written to a {' or '.join(SUFFIXES)} file, got {path}")


class _Npy:
    """A header that says so many rows, written twice: numpy leaves room for their number to grow."""

    def __init__(self, file: BinaryIO, features: int) -> None:
        self._file, self._features, self._rows = file, features, 0
        self._write_header()

    def add(self, prediction: Prediction) -> None:
        assert prediction.embedding is not None
        self._file.write(prediction.embedding.astype("<f4").tobytes())
        self._rows += 1

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._features)}
        np.lib.format.write_array_header_1_0(self._file, header)


class _Parquet:
    def __init__(self, file: BinaryIO, features: int) -> None:
        try:
            import pyarrow  # an extra
            from pyarrow import parquet
        except ImportError:
            raise UsageError("parquet files are written with pyarrow: pip install 'inceptionv4[parquet]'") from None
        self._pyarrow: Any = pyarrow
        self._schema: Any = pyarrow.schema(
            {
                "file": pyarrow.string(),
                "label": pyarrow.string(),
                "probability": pyarrow.float32(),
                "embedding": pyarrow.list_(pyarrow.float32(), features),
            }
        )
        self._writer: Any = parquet.ParquetWriter(file, self._schema)
        self._waiting: list[Prediction] = []

    def add(self, prediction: Prediction) -> None:
        self._waiting.append(prediction)
        if len(self._waiting) == ROWS_A_GROUP:
            self._write()

    def finish(self) -> None:
        self._write()
        self._writer.close()

    def _write(self) -> None:
        rows = self._waiting
        numbers = np.concatenate(
            [np.empty(0, np.float32), *(row.embedding for row in rows if row.embedding is not None)]
        )
        columns = [
            self._pyarrow.array([_utf8(row.file) for row in rows], self._schema.field("file").type),
            self._pyarrow.array([_utf8(row.label) for row in rows], self._schema.field("label").type),
            self._pyarrow.array([row.probability for row in rows], self._schema.field("probability").type),
            self._pyarrow.FixedSizeListArray.from_arrays(numbers, type=self._schema.field("embedding").type),
        ]
        self._writer.write_batch(self._pyarrow.RecordBatch.from_arrays(columns, schema=self._schema))
        rows.clear()


def _utf8(name: str) -> str:
    """A file's name may hold bytes that are no UTF-8, a column of texts may not."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
