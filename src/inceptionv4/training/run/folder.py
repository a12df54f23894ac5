"""The run folder of a training, which is this process's own while it is open."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from inceptionv4.config import Config
from inceptionv4.errors import RunError
from inceptionv4.printable import note
from inceptionv4.runtime.device import Device
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.runtime.storage import PathOrUri, is_uri
from inceptionv4.training.run.find import create_run
from inceptionv4.training.run.lock import RunLock
from inceptionv4.training.run.remote_run import RemoteRun


class RunFolder:
    """A run's place and, on the first process, the folder that is written; a context manager.

    `place` is what people call it, None before `begin`; `path` is where the first process writes. That is the place
    itself, under a lock, or for a URI a local copy of it. The other processes hold nothing.
    """

    def __init__(self, place: PathOrUri | None, ranks: Ranks) -> None:
        """`place` is the run to go on with, or None.

        Raises:
            RunError: another process is writing the run, or the first process does not see it.
            StorageError: it is in object storage, which cannot be reached, or refuses.
        """
        self.ranks = ranks
        self.place = agree(place, ranks)
        self.path = Path()
        self.warnings: list[str] = []
        """What a user should know of the lock and the remote run."""
        self._held: RunLock | RemoteRun | None = None
        if self.place is not None:
            self._open(self.place)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send what is to be sent, and let other processes have the run.

        Raises:
            StorageError: the storage cannot be reached, or refuses; the local copy is kept.
        """
        if isinstance(self._held, RunLock):
            self._held.release()
        elif self._held is not None:
            self._held.close()

    @property
    def is_writer(self) -> bool:
        """Whether this process holds the folder."""
        return self._held is not None

    def begin(self, config: Config, device: Device) -> None:
        """Make a new run folder, with its settings and environment.

        Raises:
            RunError: the folder cannot be written.
            StorageError: the storage cannot be reached, or refuses.
        """
        self.place = self.ranks.broadcast(create_run(config, device) if self.ranks.first else "")
        self._open(self.place)

    def accept(self) -> None:
        """Say that the training goes on: from here on, what is at a URI follows."""
        if isinstance(self._held, RemoteRun):
            self._held.follow()

    def push(self) -> None:
        """Send what changed to where the run belongs.

        Raises:
            StorageError: the storage cannot be reached, or refuses; the next time there is more to send.
            RunError: another process has taken the run.
        """
        if isinstance(self._held, RemoteRun):
            self._held.push()

    def name(self, text: str) -> str:
        """A text in which files of a remote run have the names that people call them by."""
        return text.replace(str(self.path), str(self.place)) if isinstance(self._held, RemoteRun) else text

    def _open(self, place: PathOrUri) -> None:
        if not self.ranks.first:
            return
        if is_uri(place):
            self._held = RemoteRun(str(place), announce=note)
            try:
                self.path = self._held.pull()
            except BaseException:
                self._held.close()
                raise
        else:
            self.path = Path(place)
            self._held = RunLock(self.path)
        self.warnings += [self._held.warning] if self._held.warning else []


def agree(place: PathOrUri | None, ranks: Ranks) -> PathOrUri | None:
    """The run that the first process found, for all.

    Raises:
        RunError: the first found none, but another did: a training that went on would begin anew, unnoticed.
    """
    found = ranks.gather(place)
    for rank, other in enumerate(found):
        if found[0] is None and other is not None:
            raise RunError(
                f"process {rank} of {ranks.count} found {other} to go on with, which the first process does not see; "
                "keep runs where all machines see them (--output on a shared disk, or s3://...), or move that folder"
            )
    return found[0]
