"""Connections of uvicorn's, not too many, none of which waits for ever for a request to begin."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from inceptionv4.serving.limits import HEAD_SECONDS, WRITE_SECONDS


class Connections(ServerState):
    """Those that are open, up to `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._by_age: dict[Connection, None] = {}

    def add(self, newest: Connection) -> None:
        """Count one, for which the oldest one that has no request in hand has to go if there are too many.

        That may be the newest itself. Where clients are silent, whoever has something to say is heard.
        """
        self._by_age[newest] = None
        if len(self._by_age) > self.limit:
            goes = next(each for each in self._by_age if each.is_waiting)
            self.discard(goes)
            goes.transport.abort()

    def discard(self, closed: Connection) -> None:
        self._by_age.pop(closed, None)


class Connection(H11Protocol):
    """Closed if the head of a request, once its turn is there, does not come whole within `HEAD_SECONDS`, or if the
    other side does not take a response for `WRITE_SECONDS`.

    uvicorn's own limit is for silence after a response; it knows none for a first request, nor for half a head.
    """

    server_state: Connections
    _deadline: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.server_state.add(self)
        self._watch()

    @property
    def is_waiting(self) -> bool:
        """For the head of a request."""
        return self.conn.their_state is h11.IDLE

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.discard(self)
        self._unwatch()
        self._flows()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._flows()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # to close would be to wait until the other side has taken what is still to be sent

    def _flows(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._deadline is None:  # not put off by each byte
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
