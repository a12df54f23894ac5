"""Dynamic batching: threads decode images, and one thread, which owns the model, answers them in batches.

When the model is free it takes what waits, up to the batch size that its runtime prefers. So an idle server answers an
image at once and alone, and a busy one gathers batches while the model computes; there is no delay to tune.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from inceptionv4.data.decode import decode
from inceptionv4.data.transforms import as_batch, evaluation_crop
from inceptionv4.errors import ServingError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.spec import Preprocessing

logger = logging.getLogger(__name__)

BATCH_SECONDS = 10.0
"""Seconds that the shutdown waits for the batch that the model is computing."""
WARM_UP_SECONDS = 2.0
"""Seconds that the shutdown waits for the model to warm up, while no request waits for it."""


@dataclass(frozen=True)
class _Job:
    image: Tensor
    answer: Future[Tensor] = field(default_factory=Future)


class Batcher:
    """A backend, in a thread of its own, for the coroutines of one event loop."""

    def __init__(self, backend: Backend, limit: int, observe: Callable[[int, float], None]) -> None:
        """At most `limit` images are admitted at once. `observe` is told each batch's images and seconds."""
        self.backend, self.limit, self._observe = backend, limit, observe
        self.admitted = 0
        """Images that were accepted and are not answered yet."""
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._warm: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread, and return when the model is warm.

        Raises:
            Exception: what the runtime raises at its first answer.
        """
        self._thread.start()
        self._warm.result()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def check(self, images: int) -> None:
        """Raise what `admit` would raise."""
        if self.admitted + images > self.limit:
            raise ServingError(503, f"{self.admitted} images wait already, of at most {self.limit}; try again soon")

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Count `images` among those that wait, decoding included, for as long as this is open.

        Raises:
            ServingError: 503, they would be too many.
        """
        self.check(images)
        self.admitted += images
        try:
            yield
        finally:
            self.admitted -= images

    async def infer(self, images: Tensor) -> Tensor:
        """Logits, float32 `(N, classes)`, of images as `Backend.infer` takes them.

        They may be answered in several batches and beside others' images. If this is cancelled, those whose batch has
        not begun never reach the model.

        Raises:
            ServingError: 500, the runtime failed on a batch that one of them was in.
        """
        jobs = [_Job(image) for image in images]
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify()
        answers = [asyncio.wrap_future(job.answer) for job in jobs]
        try:
            return torch.stack(await asyncio.gather(*answers))
        finally:
            for answer in answers:
                answer.cancel()

    def close(self, seconds: float = BATCH_SECONDS) -> bool:
        """Drop what waits, and wait at most so many seconds for the batch that the model has in hand, or at most
        `WARM_UP_SECONDS` for it to be warm; whether the thread has ended.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds if self._warm.done() else min(seconds, WARM_UP_SECONDS))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.backend.warm_up()
            self.backend.infer(self._example())  # an idle server's batches have one image
        except Exception as error:  # noqa: BLE001 - whatever it is, who starts the server is told
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        while (jobs := self._take()) is not None:
            if jobs:
                self._answer(jobs)

    def _example(self) -> Tensor:
        size = self.backend.spec.preprocessing.size
        return torch.zeros(1, 3, size, size, dtype=torch.uint8)

    def _take(self) -> list[_Job] | None:
        """A batch's jobs, in the order in which they came and of one type, without those whose client is gone; None
        after `close`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return None
            jobs: list[_Job] = []
            while self._jobs and len(jobs) < self.backend.batch_size:
                if jobs and self._jobs[0].image.dtype != jobs[0].image.dtype:
                    break
                job = self._jobs.popleft()
                if job.answer.set_running_or_notify_cancel():
                    jobs.append(job)
            return jobs

    def _answer(self, jobs: list[_Job]) -> None:
        start = time.perf_counter()
        try:
            logits = self.backend.infer(torch.stack([job.image for job in jobs]))
            if logits.shape != (len(jobs), len(self.backend.spec.classes)):
                raise ValueError(f"{len(jobs)} images were answered with logits of shape {tuple(logits.shape)}")
        except Exception:
            logger.exception("the model failed on a batch of %d images", len(jobs))
            for job in jobs:
                job.answer.set_exception(ServingError(500, "the model failed on this image's batch; the log says how"))
        else:
            for job, answer in zip(jobs, logits, strict=True):
                job.answer.set_result(answer)
        self._observe(len(jobs), time.perf_counter() - start)


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
