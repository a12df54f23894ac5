"""One process at a time writes a run in object storage: a lease, since storage has no locks.

The object `lock` in the run names its holder, which writes it anew, with a count that goes up, six times in
`storage.patience()` (60 s). Whoever finds it watches it for as long: an object that changes has a living holder, one
that does not change is left of a killed process. No clocks are compared. Of two processes that come at once, one gets
the lease where the storage knows conditional writes, as S3 does. Elsewhere, and where both take it from a dead one, the
later one gets it, and the earlier one notices before it sends anything more.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable

from inceptionv4.errors import RunError, StorageError
from inceptionv4.runtime import storage
from inceptionv4.strict_json import from_json, to_json
from inceptionv4.training.run.lock import LOCK, describe_process

BEATS = 6
"""Times that a lease is renewed while another process would wait for it."""


class Lease:
    """The right to write the run at a URI, renewed by a thread from when it is made until `release`."""

    def __init__(self, uri: str, machine: str, announce: Callable[[str], None] = lambda line: None) -> None:
        """Take the lease, after a wait if it may have a living holder.

        `machine` tells the processes of which the caller knows that they are dead: those of the same name.

        Raises:
            RunError: another process holds it, or took it at the same time.
            StorageError: the storage cannot be reached, or refuses.
        """
        self.uri, self.machine = uri, machine
        self._object = f"{uri}/{LOCK}"
        self._token = uuid.uuid4().hex
        self._beat = 0
        self._lost = ""
        holder = _read(self._object)
        if holder is not None and holder.get("machine") != machine:
            announce(f"{uri} may be in use by {holder.get('process')}: looking for {storage.patience():g} s")
            self._watch(holder)
        if holder is None and not storage.write(self._object, self._text(), new=True):
            raise RunError(f"{uri} was taken by another process just now; wait for it, or stop it")
        if holder is not None:
            storage.write(self._object, self._text())
        self.check()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See that the lease is still this process's.

        Raises:
            RunError: another process has it.
            StorageError: the storage cannot be reached, or refuses.
        """
        holder = _read(self._object)
        if holder is None:  # whoever took it has let it go since
            self._lost = self._lost or "another process"
        elif holder.get("token") != self._token:
            self._lost = str(holder.get("process", "another process"))
        if self._lost:
            raise RunError(f"{self.uri} is in use by {self._lost}, which took it meanwhile; stop one of the two")

    def release(self) -> None:
        """Stop renewing, and remove the object if it is this process's."""
        self._done.set()
        self._thread.join()
        with contextlib.suppress(RunError, StorageError):  # the next process watches it for a minute, that is all
            self.check()
            storage.delete(self._object)

    def _watch(self, holder: dict[str, object]) -> None:
        """Raise RunError if the holder shows itself within the time of `BEATS` renewals."""
        deadline = time.monotonic() + storage.patience()
        while time.monotonic() < deadline:
            time.sleep(storage.patience() / BEATS / 2)
            now = _read(self._object)
            if now is not None and now != holder:
                raise RunError(f"{self.uri} is in use by {now.get('process')}; wait for it, or stop it")

    def _renew(self) -> None:
        while not self._done.wait(storage.patience() / BEATS):
            try:
                self.check()
                storage.write(self._object, self._text())
            except RunError:
                return  # `check` says so to the training
            except StorageError:
                continue  # it is tried again at the next beat, and before anything is sent

    def _text(self) -> bytes:
        self._beat += 1
        holder = {"token": self._token, "machine": self.machine, "process": describe_process(), "beat": self._beat}
        return to_json(holder).encode()


def _read(uri: str) -> dict[str, object] | None:
    """Who holds a lease: None if nobody does."""
    if storage.find(uri) is None:
        return None
    try:
        holder = from_json(storage.read_all(uri))
    except StorageError:
        if storage.find(uri) is None:
            return None  # it was removed in between
        raise
    except ValueError:
        return {}  # no lease of ours; whoever it is of does not renew it
    return holder if isinstance(holder, dict) else {}
