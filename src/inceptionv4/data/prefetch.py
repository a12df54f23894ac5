"""Prefetch: read and prepare the images of the next batches in threads, and hand them out in order.

Workers are threads: reading, decoding and resizing release Python's lock, the index is there once however many they
are, and a thread cannot be killed from under the training. What is read over a network is read by threads of its own,
far more than the processor could use for decoding: most of them wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from inceptionv4.errors import ImageError

Given = TypeVar("Given")
Item = TypeVar("Item")

BATCHES_PREFETCHED = 2
"""Batches that are prepared while one is used."""


def prefetch_batches(
    batches: Iterable[Sequence[Given]],
    read: Callable[[Given], bytes],
    prepare: Callable[[Given, bytes], Item],
    workers: int,
    io_threads: int = 0,
) -> Iterator[tuple[Sequence[Given], list[Item | ImageError]]]:
    """Each of `batches`, with what `prepare` makes of its members and of what `read` gives for them, or the
    `ImageError` that one of both raises instead.

    `workers` threads work ahead, so that `batches` is read further than its images are handed out; if 0, the caller's
    thread works when asked. `io_threads` threads read ahead of them; if 0, who prepares reads.
    """

    def attempt(given: Given, content: Callable[[], bytes]) -> Item | ImageError:
        try:
            return prepare(given, content())
        except ImageError as error:
            return error

    def begin(given: Given) -> Callable[[], Item | ImageError]:
        content = reading.submit(read, given).result if reading else partial(read, given)
        return working.submit(attempt, given, content).result if working else partial(attempt, given, content)

    working = ThreadPoolExecutor(workers, thread_name_prefix="decode") if workers else None
    reading = ThreadPoolExecutor(io_threads, thread_name_prefix="read") if io_threads else None
    most = BATCHES_PREFETCHED if working or reading else 0
    try:
        ahead: deque[tuple[Sequence[Given], list[Callable[[], Item | ImageError]]]] = deque()
        for batch in batches:
            ahead.append((batch, list(map(begin, batch))))
            if len(ahead) > most:
                first, items = ahead.popleft()
                yield first, [item() for item in items]
        for first, items in ahead:
            yield first, [item() for item in items]
    finally:
        # Those who prepare wait for those who read, and so end first.
        for pool in (working, reading):
            if pool is not None:
                pool.shutdown(cancel_futures=True)
