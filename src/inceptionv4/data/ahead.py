"""Work on many samples, done ahead of its use and handed out in order.

Workers are threads: reading, decoding and resizing release Python's lock, the index is there once however many they
are, and a thread cannot be killed from under the training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from inceptionv4.errors import ImageError

Item = TypeVar("Item")

BATCHES_AHEAD = 2
"""Batches that are prepared while one is used."""


def prepared(
    batches: Iterable[np.ndarray], prepare: Callable[[int], Item], workers: int
) -> Iterator[tuple[np.ndarray, list[Item | ImageError]]]:
    """Each of `batches`, with what `prepare` makes of its numbers, or the `ImageError` that it raises instead.

    `workers` threads work ahead; if 0, the caller's thread works when asked.
    """

    def attempt(number: int) -> Item | ImageError:
        try:
            return prepare(number)
        except ImageError as error:
            return error

    if workers == 0:
        for batch in batches:
            yield batch, list(map(attempt, batch.tolist()))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead: deque[tuple[np.ndarray, list[Future[Item | ImageError]]]] = deque()
        for batch in batches:
            ahead.append((batch, [pool.submit(attempt, number) for number in batch.tolist()]))
            if len(ahead) > BATCHES_AHEAD:
                first, futures = ahead.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in ahead:
            yield first, [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
