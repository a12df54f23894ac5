"""Work on many images, done ahead of its use and handed out in order.

Workers are threads: reading, decoding and resizing release Python's lock, the index is there once however many they
are, and a thread cannot be killed from under the training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from inceptionv4.errors import ImageError

Given = TypeVar("Given")
Item = TypeVar("Item")

BATCHES_AHEAD = 2
"""Batches that are prepared while one is used."""


def prepared(
    batches: Iterable[Sequence[Given]], prepare: Callable[[Given], Item], workers: int
) -> Iterator[tuple[Sequence[Given], list[Item | ImageError]]]:
    """Each of `batches`, with what `prepare` makes of its members, or the `ImageError` that it raises instead.

    `workers` threads work ahead, so that `batches` is read further than its images are handed out; if 0, the caller's
    thread works when asked.
    """

    def attempt(given: Given) -> Item | ImageError:
        try:
            return prepare(given)
        except ImageError as error:
            return error

    if workers == 0:
        for batch in batches:
            yield batch, list(map(attempt, batch))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead: deque[tuple[Sequence[Given], list[Future[Item | ImageError]]]] = deque()
        for batch in batches:
            ahead.append((batch, [pool.submit(attempt, given) for given in batch]))
            if len(ahead) > BATCHES_AHEAD:
                first, futures = ahead.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in ahead:
            yield first, [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
