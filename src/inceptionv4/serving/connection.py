"""Connections of uvicorn's, not too many, none of which waits for ever for a request to begin.

When a server drains, every response says `Connection: close` (`uploads.CloseWhileDraining`), and is the last one. A
connection on which nothing is under way is left open for a moment, as its next request may be on its way; then it is
closed on this side alone, and on both when the client has seen that. Closed at once, the client's system would reset
it, and the request would be lost without an answer.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from inceptionv4.serving.limits import HEAD_SECONDS, PARTING_SECONDS, WRITE_SECONDS


class Connections(ServerState):
    """Those that are open, up to `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.draining = False
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
    _parting: asyncio.TimerHandle | None = None
    _has_parted: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.server_state.add(self)
        self._watch()
        if self.server_state.draining:  # it was accepted just before
            self.shutdown()

    @property
    def is_waiting(self) -> bool:
        """For the head of a request."""
        return self.conn.their_state is h11.IDLE

    def data_received(self, data: bytes) -> None:
        if self._has_parted:
            return  # nothing can be answered any more
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.server_state.draining:  # the response had begun before, so that it did not say that it is the last
            self.shutdown()

    def shutdown(self) -> None:
        """Part with the client, unless a response is under way."""
        if self._parting is None and (self.cycle is None or self.cycle.response_complete):
            self._parting = self.loop.call_later(PARTING_SECONDS, self._part)

    def _part(self) -> None:
        if self.is_waiting and not self.transport.is_closing():
            self._has_parted = True
            self._unset_keepalive_if_required()
            self.transport.write_eof()
            self._parting = self.loop.call_later(PARTING_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.discard(self)
        self._unwatch()
        if self._parting is not None:
            self._parting.cancel()
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
