"""Bodies of requests, counted as they come: what is too large, too slow or too much is refused without reading on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inceptionv4.errors import ServingError
from inceptionv4.serving.limits import BODIES_HELD, UPLOAD_SECONDS

ABOUT_TO_STOP = "the server is about to stop"
"""Why, while it drains, a request is refused."""
LINGER_SECONDS = 1.0
"""Seconds that an early answer waits for the client to notice it."""


class BodyLimiter:
    """The bodies that a server has in memory."""

    def __init__(self, limit: int, seconds: float = UPLOAD_SECONDS) -> None:
        """At most `limit` bytes each, within so many seconds."""
        self.limit, self.seconds = limit, seconds
        self._held = 0
        self._is_cut_off = False
        self._coming: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytearray]:
        """The body of a request, counted among those held while this is open.

        Raises:
            ServingError: 408, 413, 415 (it is compressed), 503.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ServingError(415, "the body is compressed, which images are anyway; send it as it is")
        declared = request.headers.get("content-length", "0")
        if int(declared) > self.limit:  # HTTP's parser has seen to it that it is a number
            raise self._too_large()
        body = bytearray()
        try:
            await self._read(request, body)
            yield body
        finally:
            self._held -= len(body)

    def cut_off(self) -> None:
        """Refuse, as the requests to come are, the bodies that have not come to their end."""
        self._is_cut_off = True
        for timeout in self._coming:
            timeout.reschedule(asyncio.get_running_loop().time())

    async def _read(self, request: Request, body: bytearray) -> None:
        try:
            async with asyncio.timeout(self.seconds) as timeout:
                self._coming.add(timeout)
                try:
                    async for part in request.stream():
                        if len(body) + len(part) > self.limit:
                            raise self._too_large()
                        if self._held + len(part) > BODIES_HELD * self.limit:
                            raise ServingError(503, "too many bytes are on their way to the model; try again soon")
                        self._held += len(part)
                        body += part
                finally:
                    self._coming.discard(timeout)
        except TimeoutError:
            if self._is_cut_off:
                raise ServingError(503, ABOUT_TO_STOP) from None
            raise ServingError(408, f"the body did not come within {self.seconds:g} s") from None

    def _too_large(self) -> ServingError:
        return ServingError(413, f"the body is larger than {self.limit:,} bytes")


class CloseWhileDraining:
    """Middleware: an answer that comes before the request has ended, or while the server drains, ends the connection.

    Otherwise the rest of the body would be read, however long it is. It is closed after a moment in which what still
    comes is thrown away: closed at once, the client's system would drop the answer unread with the connection.
    """

    def __init__(self, app: ASGIApp, is_draining: Callable[[], bool]) -> None:
        self.app, self.is_draining = app, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        ended = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

        async def receiving() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or not message.get("more_body", False)
            return message

        early = False

        async def sending(message: Message) -> None:
            nonlocal early
            if message["type"] == "http.response.start":
                early = not ended
                if early or self.is_draining():
                    MutableHeaders(scope=message)["connection"] = "close"
            elif early and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_SECONDS):
                        while not ended:
                            await receiving()
                message = {"type": "http.response.body"}
            await send(message)

        await self.app(scope, receiving, sending)
