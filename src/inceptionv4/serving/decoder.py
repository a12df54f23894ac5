"""Files to pixels, in threads of their own: neither the event loop nor the model waits for a slow one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from inceptionv4.data.decode import decode
from inceptionv4.data.transforms import as_batch, evaluation_crop
from inceptionv4.spec import Preprocessing

Result = TypeVar("Result")

THREADS = min(8, os.cpu_count() or 2)
"""A picture of the most pixels that are decoded takes some 800 MB while it is, so that there are not many."""


class Decoder:
    """Threads that decode, and parse what else is long."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
        self._works: set[Future[Any]] = set()

    async def decode(self, contents: Sequence[bytes]) -> Tensor:
        """The files' pixels as a prediction prepares them: uint8 `(N, 3, size, size)`.

        Raises:
            ImageError: one of them cannot be decoded; the message calls it "the file", or by its number from 1 on.
        """
        names = ["the file"] if len(contents) == 1 else [f"file {number}" for number in range(1, len(contents) + 1)]
        works = [asyncio.ensure_future(self.run(self._prepare, *each)) for each in zip(contents, names, strict=True)]
        try:
            return as_batch(await asyncio.gather(*works), self.preprocessing.size)
        finally:
            for work in works:
                work.cancel()  # those that no thread has begun

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """What `work` returns, in one of the threads."""
        future = self._threads.submit(work, *arguments)
        self._works.add(future)
        future.add_done_callback(self._works.discard)
        return await asyncio.wrap_future(future)

    def close(self) -> bool:
        """Begin no more work, and say whether all is at its end; what nobody waits for any more may not be."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        return not any(work.running() for work in tuple(self._works))

    def _prepare(self, content: bytes, name: str) -> np.ndarray:
        picture = decode(content, name, exif_orientation=self.preprocessing.exif_orientation)
        return evaluation_crop(picture, self.preprocessing)
