"""The end of a process, without those of its threads that do not come to theirs.

Python's own end joins the threads that are at work, however long that is; those it does not join it ends when they
return from C, which is an abort ("terminate called without an active exception") if C++ is in between.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

from inceptionv4.errors import OutputError

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
