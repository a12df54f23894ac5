"""Signals that ask a process to stop, and its exit, even while threads are blocked.

SIGTERM, SIGINT and SIGHUP ask to stop: the work in hand is finished and saved first. A terminal sends SIGHUP when it
closes. A process that was started to ignore SIGHUP, as by `nohup`, goes on ignoring it.

Python's own exit joins the threads that are at work, however long that takes; daemon threads end when they return from
C, which is an abort ("terminate called without an active exception") if C++ is in between. `end` avoids both.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

from inceptionv4.errors import OutputError, StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], Any]


def handle(numbers: Iterable[signal.Signals], handler: Handler) -> dict[signal.Signals, Any]:
    """Have `handler` called for signals; returns what was in its place. SIGHUP that is ignored stays so."""

    def receive(number: int, frame: FrameType | None) -> Any:
        if number == signal.SIGHUP:
            _leave_terminal()
        return handler(number, frame)

    wanted = [number for number in numbers if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, receive) for number in wanted}


def _leave_terminal() -> None:
    """Print to nowhere what would be printed to a terminal that is closed, where to write is an error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)


class StopRequests:
    """While this context manager is open, the first of `SIGNALS` is noted, and the second one ends at once.

    Only a main thread can listen; in any other, nothing is noted.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = handle(SIGNALS, self._note)
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
        if self.received is not None and number == signal.SIGHUP:
            return  # of a terminal that closes, shell and system both send one: no user is impatient
        if self.received is not None:
            raise StoppedError(number, "stopped at once by a second signal; the last saved state is sound")
        self.received = signal.Signals(number)


def asked_for(counts: Sequence[float]) -> signal.Signals | None:
    """The signal that `StopRequests.counts` speak of, or None."""
    return next((number for number, count in zip(SIGNALS, counts, strict=True) if count), None)


_has_left_behind = False


def leave_threads_behind() -> None:
    """Say that threads are at work that nobody waits for: `end` then ends without Python's own end."""
    global _has_left_behind
    _has_left_behind = True


def end(code: int) -> NoReturn:
    """`sys.exit(code)`, or at once if threads were left behind."""
    if not _has_left_behind:
        sys.exit(code)
    end_at_once(code)


def end_at_once(code: int) -> NoReturn:
    """End with what was printed, and with nothing else that Python does at its end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, OutputError, ValueError, RuntimeError, AttributeError):  # gone, or amid a write
            stream.flush()
    os._exit(code)
