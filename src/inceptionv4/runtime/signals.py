"""Signals that ask to stop: the work in hand is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from inceptionv4.errors import StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """While this context manager is open, the first SIGTERM or SIGINT is noted, and the second one ends at once.

    Only a main thread can listen; in any other, nothing is noted.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def counts(self) -> list[int]:
        """How often each of `SIGNALS` was noted, to be added up over processes."""
        return [int(self.received == number) for number in SIGNALS]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise StoppedError(number, "stopped at once by a second signal; the last saved state is sound")
        self.received = signal.Signals(number)


def asked_for(counts: Sequence[float]) -> signal.Signals | None:
    """The signal that `StopRequests.counts` speak of, or None."""
    return next((number for number, count in zip(SIGNALS, counts, strict=True) if count), None)
