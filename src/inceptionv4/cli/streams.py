"""Standard output and standard error, which may be full, closed, of any encoding, or have nobody at their other end.

    standard output   what cannot be written is an OutputError, once; a reader that has enough a BrokenPipeError
    standard error    what cannot be written is lost: there is nobody to tell, and no reason to end a training

A stream that was closed before the start is not wanted, and takes everything.
"""

from __future__ import annotations

import codecs
import os
import select
import sys
from io import BufferedWriter, RawIOBase, TextIOWrapper
from typing import Any

from inceptionv4.errors import OutputError

ERRORS = "inceptionv4"
"""Name of the handler of what an encoding does not have."""


class Output(RawIOBase):
    """A file descriptor to write to, or None."""

    def __init__(self, descriptor: int | None, *, is_optional: bool) -> None:
        super().__init__()
        self.descriptor, self.is_optional = descriptor, is_optional
        self.is_lost = descriptor is None
        """Whether nothing more is written."""
        self.reader_left = False
        self.error: OutputError | None = None
        """Why something could not be written."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self.descriptor is None:
            raise OSError("the stream is closed")
        return self.descriptor

    def isatty(self) -> bool:
        return self.descriptor is not None and os.isatty(self.descriptor)

    def write(self, content: Any) -> int:
        """Write all of it.

        Raises:
            OutputError: it cannot be written; what is written later is lost without a word.
            BrokenPipeError: nobody reads it any more.
        """
        rest = memoryview(content)
        size = rest.nbytes
        while rest and not self.is_lost:
            try:
                rest = rest[os.write(self.fileno(), rest) :]
            except BlockingIOError:  # another program has made the pipe so
                select.select([], [self.fileno()], [])
            except OSError as error:
                self.is_lost, self.reader_left = True, isinstance(error, BrokenPipeError)
                if self.is_optional:
                    break
                if self.reader_left:
                    raise
                self.error = OutputError(f"standard output cannot be written: {error.strerror or error}")
                raise self.error from None
        return size


def take_streams() -> None:
    """Put our own streams in the place of Python's, if these are the process's own and not a test's."""
    codecs.register_error(ERRORS, _encode)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a list of file names, which are bytes, not always UTF-8
    sys.stdout = _take(sys.stdout, 1, is_optional=False)
    sys.stderr = _take(sys.stderr, 2, is_optional=True)


def reader_left() -> bool:
    """True if nobody reads standard output any more."""
    output = getattr(sys.stdout, "output", None)
    return isinstance(output, Output) and output.reader_left


def flush_output() -> None:
    """Write what is still to be written on standard output.

    Raises:
        OutputError: it cannot be, or something could not be before.
        BrokenPipeError: nobody reads it any more.
    """
    if sys.stdout is None:
        return
    sys.stdout.flush()
    output = getattr(sys.stdout, "output", None)
    if isinstance(output, Output) and output.error is not None:
        raise output.error


class _Text(TextIOWrapper):
    """A text stream that knows its `Output`."""

    output: Output


def _take(stream: Any, descriptor: int, *, is_optional: bool) -> Any:
    if stream is None:
        return _open(Output(None, is_optional=is_optional), "utf-8", unbuffered=False, by_line=False)
    if not isinstance(stream, TextIOWrapper) or isinstance(stream, _Text):
        return stream
    if stream is not (sys.__stdout__ if descriptor == 1 else sys.__stderr__) or stream.fileno() != descriptor:
        stream.reconfigure(errors=ERRORS)
        return stream
    stream.flush()
    return _open(
        Output(descriptor, is_optional=is_optional),
        stream.encoding,
        unbuffered=stream.write_through,
        by_line=stream.line_buffering,
    )


def _open(output: Output, encoding: str, *, unbuffered: bool, by_line: bool) -> _Text:
    buffer: Any = output if unbuffered else BufferedWriter(output)
    text = _Text(buffer, encoding, ERRORS, line_buffering=by_line, write_through=unbuffered)
    text.output = output
    return text


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a file's name as they are, and what an encoding does not have as in Python's strings."""
    assert isinstance(error, UnicodeEncodeError)
    error.end = error.start + 1
    is_byte = 0xDC80 <= ord(error.object[error.start]) <= 0xDCFF
    return codecs.lookup_error("surrogateescape" if is_byte else "backslashreplace")(error)
