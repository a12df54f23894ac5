"""Processes that answer as one, with threads for processes: each image once, in order, whoever fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from inceptionv4.errors import DataError, StorageError
from inceptionv4.inference import distributed
from inceptionv4.inference.classifier import ClassScore, Prediction
from inceptionv4.inference.distributed import predict_distributed
from inceptionv4.runtime.distributed import Ranks


class Table:
    """Where threads put what they gather."""

    def __init__(self, count: int) -> None:
        self.values: list[Any] = [None] * count
        self.barrier = threading.Barrier(count, timeout=10)


@dataclass(frozen=True)
class Thread(Ranks):
    table: Table | None = None

    def gather(self, value: Any) -> list[Any]:
        table = self.table
        assert table is not None
        table.values[self.rank] = value
        table.barrier.wait()
        values = list(table.values)
        table.barrier.wait()
        return values


def run(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` gives, or raises, on each of `count` processes."""

    def attempt(rank: int) -> Any:
        try:
            return work(Thread(rank, count, table=table))
        except (DataError, StorageError) as error:
            return error

    table = Table(count)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(attempt, range(count)))


def answer(images: Iterable[str]) -> Iterator[Prediction]:
    return (Prediction(image, (ClassScore(f"class of {image}", 1.0),)) for image in images)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_image_is_answered_by_one_and_heard_by_all_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "ROUND", 4)
    for total in (0, 1, count, 4 * count - 1, 4 * count, 4 * count + 1, 50):
        images = [f"{number}.jpg" for number in range(total)]
        asked: list[str] = []

        def predict(own: Iterable[str]) -> Iterator[Prediction]:
            for image in own:
                asked.append(image)  # noqa: B023 - run to its end below
                yield from answer([image])

        heard = run(count, lambda ranks: list(predict_distributed(predict, images, ranks)))  # noqa: B023
        assert heard == [list(answer(images))] * count
        assert sorted(asked) == sorted(images)


def test_what_fails_on_one_fails_on_all_after_the_answers_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "ROUND", 4)
    heard: dict[int, list[str]] = {0: [], 1: []}

    def predict(own: Iterable[str]) -> Iterator[Prediction]:
        for image in own:
            if image == "11":
                raise StorageError("the line is cut")
            yield from answer([image])

    def work(ranks: Ranks) -> None:
        for prediction in predict_distributed(predict, map(str, range(40)), ranks):
            heard[ranks.rank].append(prediction.file)

    ended = run(2, work)
    assert [str(error) for error in ended] == ["the line is cut"] * 2
    assert heard[0] == heard[1]
    assert heard[0][:11] == [str(number) for number in range(11)]
    assert "11" not in heard[0]


@pytest.mark.parametrize("theirs", [["a", "b", "x", "d"], ["a", "b", "c"], ["a", "b", "c", "d", "e"]])
def test_other_images_on_another_machine_are_an_error(theirs: list[str]) -> None:
    lists = {0: ["a", "b", "c", "d"], 1: theirs}
    for error in run(2, lambda ranks: list(predict_distributed(answer, lists[ranks.rank], ranks))):
        assert isinstance(error, DataError)
        assert "the images of process 1 of 2 are not those of the first" in str(error)
