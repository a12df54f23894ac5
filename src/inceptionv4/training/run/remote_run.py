"""A run folder in object storage: written to a local folder, and pushed whenever a state is saved.

What is there is always enough to go on from. Objects appear whole, and they are sent in this order:

    everything else             config.yaml, log.jsonl, results.csv, plots, the best model
    checkpoints/step-*          states that are not there as they are here
    checkpoints/last            the name of the newest state, in a line; it stands for `last.safetensors`
    states that are not kept    are removed

Whoever writes there holds the run's lease, and the lock on the folder here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from inceptionv4.errors import RunError, StorageError
from inceptionv4.runtime import storage
from inceptionv4.runtime.files import cache_folder, try_lock
from inceptionv4.training.run.lease import Lease
from inceptionv4.training.run.lock import LOCK
from inceptionv4.training.run.recovery import ASIDE, free_names, inspect_run
from inceptionv4.training.run.state import STEP, read_position, saved_states, step_of
from inceptionv4.weights.load import LAST, POINTER

FOLDERS = ("checkpoints", "plots")
"""The folders that every run has."""


class RemoteRun:
    """The run at a URI and its `folder` here, which are this process's own until `close`."""

    def __init__(self, uri: str, announce: Callable[[str], None] = lambda line: None) -> None:
        """Raises:
        RunError: another process has the run open, or the cache cannot be written.
        StorageError: the storage cannot be reached, or refuses.
        """
        self.uri = uri
        self.folder = cache_folder() / "runs" / uri.replace("://", "/")
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and time of change of what is there as it is here."""
        self._states: set[str] = set()
        """Names of the states that are there."""
        self._last = ""
        self._fetched = False
        """Whether the folder is a copy of what is there, and nothing more."""
        self._following = False
        """Whether what is there may follow the folder."""
        self.warning = ""
        """What a user should know of what was found here."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.folder.with_name(f"{self.folder.name}.lock").open("ab")
        except OSError as error:
            raise RunError(f"cannot write {self.folder}: {error.strerror or error}; set XDG_CACHE_HOME") from None
        if not try_lock(self._lock.fileno(), fcntl.LOCK_EX):
            self._lock.close()
            raise RunError(f"another process of this machine is training {uri}; wait for it, or stop it")
        try:
            self._lease = Lease(uri, _machine(self._lock.fileno()), announce)
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Send for the last time, remove the folder here, and let other processes open the run.

        Nothing is sent of a run that was refused. What was fetched in part, or is ahead and was refused, is kept.

        Raises:
            StorageError: the storage cannot be reached, or refuses; the folder is kept.
            RunError: another process has taken the run; the folder is kept.
        """
        with self._lock:
            try:
                if self._following:
                    self.push()
                if self._following or self._fetched:
                    shutil.rmtree(self.folder, ignore_errors=True)
            except StorageError as failure:
                raise StorageError(
                    f"{failure}. The run is whole in {self.folder}; `--resume {self.uri}` on this machine sends it"
                ) from None
            finally:
                self._lease.release()

    def pull(self) -> Path:
        """Make the folder the same as the run there.

        What a training on this machine saved and could not send is kept, if it is of this run and newer. A folder of
        another run that had this URI before is set aside, if it holds states.

        Raises:
            StorageError: the storage cannot be reached, or refuses.
            RunError: the disk is full.
        """
        objects = {found.uri[len(self.uri) + 1 :]: found for found in storage.list_objects(self.uri)}
        # A key may be anything; what would land outside of the folder is none of a run's.
        objects = {name: found for name, found in objects.items() if ".." not in name.split("/") and name[:1] != "/"}
        # Consoles and mounts write empty objects in the names of folders.
        folders = {parent.as_posix() for name in objects for parent in Path(name).parents} | set(FOLDERS)
        objects = {name: found for name, found in objects.items() if name not in folders}
        self._states = {name for name in objects if _is_state(name)}
        if POINTER.as_posix() in objects:
            self._last = storage.read_all(objects[POINTER.as_posix()]).decode(errors="replace").strip()
        if not self._is_ahead():
            self._clear()
            # What tells the run comes before its states: so a folder that was fetched in part is known, too.
            for name in sorted(objects, key=lambda name: (Path(name).parent == LAST.parent, name)):
                if name in (POINTER.as_posix(), LOCK):
                    continue
                path = self.folder / name
                if Path(name).parts[0] == ASIDE:  # only the name is needed, so that nothing else gets it
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                else:
                    _save(objects[name], path)
                self._sent[name] = _stamp(path)
            self._fetched = True
        return self.folder

    def follow(self) -> None:
        """Have what is there follow the folder from here on: the training goes on."""
        self._following = True

    def _is_ahead(self) -> bool:
        """Whether the folder holds a sound state of this run, and there is no newer one at the URI."""
        there = self._newest()
        if not any(step_of(state) >= there for state in saved_states(self.folder)) or not self._is_of_this_run():
            return False
        try:
            found = inspect_run(self.folder)
        except RunError:
            return False
        return found.state is not None and read_position(found.state).step >= there

    def _newest(self) -> int:
        """The step of the newest state at the URI, at least 1."""
        return max((step_of(Path(name)) for name in self._states), default=1)

    def _is_of_this_run(self) -> bool:
        """Whether the folder holds the run that is at the URI: it began at the same time, by the same command."""
        for name in ("environment.json", "config.yaml"):
            here = self.folder / name
            if here.is_file() and storage.find(f"{self.uri}/{name}") is not None:
                return here.read_bytes() == storage.read_all(f"{self.uri}/{name}")
        return False

    def _clear(self) -> None:
        """Make an empty folder. One with states that are not of the run there, or newer than its, is kept aside."""
        states = saved_states(self.folder)
        newer = any(step_of(state) > self._newest() for state in states)
        if newer or (states and not self._is_of_this_run()):
            place = next(free_names(self.folder.with_name(f"{self.folder.name}-unsent")))
            self.folder.rename(place)
            self.warning = f"what could not be sent to {self.uri} before is kept in {place}"
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True)

    def push(self) -> None:
        """Make the run there the same as the folder.

        Raises:
            StorageError: the storage cannot be reached, or refuses; what was there is as sound as before.
            RunError: another process has taken the run; nothing is sent.
        """
        self._lease.check()
        names = [path.relative_to(self.folder).as_posix() for path in sorted(self.folder.rglob("*")) if path.is_file()]
        files = [name for name in names if name != LAST.as_posix() and not Path(name).name.startswith(".")]
        states = {name for name in files if _is_state(name)}
        for name in sorted(files, key=lambda name: (name in states, name)):
            path = self.folder / name
            stamp = _stamp(path)
            if self._sent.get(name) != stamp:
                storage.write(f"{self.uri}/{name}", path)
                self._sent[name] = stamp
        self._states |= states
        self._lease.check()
        if states and (newest := max(map(Path, states), key=step_of).name) != self._last:
            storage.write(f"{self.uri}/{POINTER.as_posix()}", f"{newest}\n".encode())
            self._last = newest
        for name in sorted(self._states - states):
            storage.delete(f"{self.uri}/{name}")
            self._states.remove(name)


def _machine(lock: int) -> str:
    """Name the machine since its start, and the file that is locked there.

    Whoever has a lock on that very file knows that no other process of this name is alive.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        start = ""
    status = os.fstat(lock)
    return f"{socket.gethostname()} {start} {status.st_dev}:{status.st_ino}"


def _is_state(name: str) -> bool:
    path = Path(name)
    return path.parent == LAST.parent and STEP.fullmatch(path.name) is not None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _save(object: storage.Object, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            storage.download(object, file)
        finally:
            os.close(file)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; free space, or set XDG_CACHE_HOME") from None
