"""Images in, logits out, within the limits: what lies between a request that was read and a response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from torch import Tensor

from inceptionv4.errors import ImageError, ServingError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.serving.batching import Batcher, Decoder
from inceptionv4.serving.limits import Limits
from inceptionv4.serving.uploads import ABOUT_TO_STOP

Result = TypeVar("Result")


class InferenceService:
    """A model with the threads that prepare its images and the one that answers."""

    def __init__(self, backend: Backend, limits: Limits, observe: Callable[[int, float], None]) -> None:
        self.limits = limits
        self.decoder = Decoder(backend.spec.preprocessing)
        self.batcher = Batcher(backend, limits.queue, observe)
        self.draining = False
        """No further request is accepted; those whose body has come are answered."""

    @property
    def is_ready(self) -> bool:
        return self.batcher.is_alive and not self.draining

    def check(self) -> None:
        """Refuse, before its body is read, a request that could not be accepted.

        Raises:
            ServingError: 503.
        """
        if self.draining:
            raise ServingError(503, ABOUT_TO_STOP)
        self.batcher.check(1)

    async def in_time(self, work: Awaitable[Result]) -> Result:
        """What `work` comes to, from a request's last byte on.

        Raises:
            ServingError: 503, that takes too long.
        """
        seconds = self.limits.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            raise ServingError(503, f"not answered within {seconds:g} s, for there is too much to do") from None

    async def answer(self, images: Sequence[bytes] | Tensor) -> Tensor:
        """Finite logits, float32 `(N, classes)`, of files, or of images as `Backend.infer` takes them.

        Raises:
            ServingError: 400, an image cannot be decoded, or numbers came of it that are none; 500, the model failed;
                503, there is too much to do.
        """
        with self.batcher.admit(len(images)):
            try:
                pixels = images if isinstance(images, Tensor) else await self.decoder.decode(images)
                logits = await self.batcher.infer(pixels)
            except ImageError as error:
                raise ServingError(400, str(error)) from None
        if not bool(logits.isfinite().all()):
            if pixels.is_floating_point():
                raise ServingError(400, "the model's answer to these values is not finite; are they normalised?")
            raise ServingError(500, "the model's answer is not finite; its weights are damaged")
        return logits

    def close(self) -> bool:
        """End the threads, the model's after the batch in hand; whether all have ended."""
        has_ended = self.batcher.close()
        return self.decoder.close() and has_ended
