"""Embeddings as files: whole, in order, of the images that could be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from inceptionv4.errors import RunError, UsageError
from inceptionv4.inference import embeddings
from inceptionv4.inference.classifier import ClassScore, Prediction
from inceptionv4.inference.embeddings import open_embeddings


def predictions(count: int, features: int = 7) -> list[Prediction]:
    rows = np.random.default_rng(0).normal(size=(count, features)).astype(np.float32)
    return [
        Prediction(f"{number}.jpg", (ClassScore(str(number % 3), number / count),), embedding=row)
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 99, 1000, 2500])
def test_npy_is_what_numpy_reads(tmp_path: Path, count: int) -> None:
    rows = predictions(count)
    with open_embeddings(tmp_path / "a.npy", 7) as writer:
        for row in rows:
            writer.add(row)
    array = np.load(tmp_path / "a.npy")
    assert (array.shape, array.dtype) == ((count, 7), np.float32)
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), [row.embedding for row in rows] or array)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 12])
def test_parquet_is_a_table(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "ROWS_A_GROUP", 5)
    rows = predictions(count)
    with open_embeddings(tmp_path / "a.parquet", 7) as writer:
        for row in rows:
            writer.add(row)
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["file", "label", "probability", "embedding"]
    assert table["file"].to_pylist() == [row.file for row in rows]
    assert table["label"].to_pylist() == [row.label for row in rows]
    assert table["probability"].to_pylist() == pytest.approx([row.probability for row in rows])
    assert table["embedding"].to_pylist() == [row.embedding.tolist() for row in rows if row.embedding is not None]
    assert table.schema.field("embedding").type.list_size == 7


def test_a_name_that_is_no_utf8_is_a_row(tmp_path: Path) -> None:
    row = Prediction("caf\udce9.jpg", (ClassScore("a", 1.0),), embedding=np.zeros(7, np.float32))
    with open_embeddings(tmp_path / "a.parquet", 7) as writer:
        writer.add(row)
    assert parquet.read_table(tmp_path / "a.parquet")["file"].to_pylist() == ["caf\N{REPLACEMENT CHARACTER}.jpg"]


@pytest.mark.parametrize("name", ["a.npy", "a.parquet"])
@pytest.mark.parametrize("error", [ValueError, BrokenPipeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failure(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    (tmp_path / name).write_text("before")

    def fail() -> None:
        with open_embeddings(tmp_path / name, 7) as writer:
            writer.add(predictions(1)[0])
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "before"


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"to a \.npy or \.parquet file, got a\.csv"),
        open_embeddings(Path("a.csv"), 7),
    ):
        pass
    with pytest.raises(RunError, match="No such file"), open_embeddings(tmp_path / "none/a.npy", 7):
        pass
