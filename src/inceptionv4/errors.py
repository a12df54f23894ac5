"""Every error that this package raises on purpose, with the exit code of the command line.

    Error                     1  anything that failed though it was asked for properly
    ├── CheckpointError       1  a checkpoint that is damaged, or of another program
    │   └── UnreadableError   1  one that may be sound: the system cannot read it now, or another version wrote it
    ├── RunError              1  a run folder that cannot be written
    ├── StorageError          1  object storage that cannot be reached, or that refuses
    │   └── ChangedError      1  an object that was replaced while it was read
    ├── ServingError          1  a request that gets no answer; `status` says why, as HTTP counts
    ├── AnswerError           1  a model's answer that is not finite
    ├── OutputError           1  standard output that cannot be written
    ├── UsageError            2  a command that asks for what is not there
    │   └── ConfigError       2  a setting that is unknown, of the wrong type or out of range
    ├── DataError             3  a data set that cannot be used as it is
    │   └── ImageError        3  one file that cannot be decoded
    ├── DivergedError         4  a loss that is no longer a number
    ├── UnfinishedError       5  all is done but what needs a program that is not here
    └── StoppedError  129, 130, 143  a signal asked to stop, and what was done is saved

A message is one paragraph: what is wrong, where (file and line, or key), and how to mend it.
Interrupts exit as the shell expects: 129 after SIGHUP, 130 after SIGINT, 143 after SIGTERM.
"""

from __future__ import annotations


class Error(Exception):
    """Anything that failed though it was asked for properly."""

    exit_code = 1


class CheckpointError(Error):
    """A checkpoint that is damaged, or of another program."""


class UnreadableError(CheckpointError):
    """A checkpoint that may be sound: the system cannot read it now, or another version of this program wrote it."""


class RunError(Error):
    """A run folder that cannot be written."""


class StorageError(Error):
    """Object storage that cannot be reached, or that refuses."""


class ChangedError(StorageError):
    """An object that was replaced while it was read: what was listed no longer tells what is there."""


class ServingError(Error):
    """A request that gets no answer, of whoever's making; a client is told the message and `status`, one of HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AnswerError(Error):
    """A model's answer, logits or an embedding, that is NaN or infinite."""


class OutputError(Error):
    """Standard output that cannot be written, such as to a full disk."""


class UsageError(Error):
    """A command that asks for what is not there."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(Error):
    """A data set that cannot be used as it is."""

    exit_code = 3


class ImageError(DataError):
    """One file that cannot be decoded."""


class DivergedError(Error):
    """A loss that is no longer a number."""

    exit_code = 4


class UnfinishedError(Error):
    """All is done but what needs a program that is not here; the message says how to finish it where that is."""

    exit_code = 5


class StoppedError(Error):
    """A signal asked to stop; the shell is told which."""

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal
