"""A run folder in object storage: written here, in a folder of the cache, and sent there whenever a state is saved.

What is there is always enough to go on from. Objects appear whole, and they are sent in this order:

    everything else             config.yaml, log.jsonl, results.csv, plots, the best model
    checkpoints/step-*          states that are not there as they are here
    checkpoints/last            the name of the newest state, in a line; it stands for `last.safetensors`
    states that are not kept    are removed
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType

from inceptionv4.errors import RunError, StorageError
from inceptionv4.runtime import storage
from inceptionv4.runtime.files import cache_folder, try_lock
from inceptionv4.training.state import STEP, saved_states
from inceptionv4.weights.load import LAST, POINTER

FOLDERS = ("checkpoints", "plots")
"""That every run has."""


class Mirror:
    """The run at a URI and its `folder` here, which is this process's own while it is open."""

    def __init__(self, uri: str) -> None:
        """Raises:
        RunError: another process of this machine has the run open, or the cache cannot be written.
        """
        self.uri = uri
        self.folder = cache_folder() / "runs" / uri.replace("://", "/")
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and time of change of what is there as it is here."""
        self._states: set[str] = set()
        """Names of the states that are there."""
        self._last = ""
        self._following = False
        """Whether the folder holds the run, so that what is there may follow it."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.folder.with_name(f"{self.folder.name}.lock").open("ab")
        except OSError as error:
            raise RunError(f"cannot write {self.folder}: {error.strerror or error}; set XDG_CACHE_HOME") from None
        if not try_lock(self._lock.fileno(), fcntl.LOCK_EX):
            self._lock.close()
            raise RunError(f"another process of this machine is training {uri}; wait for it, or stop it")

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send for the last time, remove the folder here, and let other processes open the run.

        What could not be fetched whole is neither sent nor removed.

        Raises:
            StorageError: the storage cannot be reached, or refuses; the folder is kept.
        """
        with self._lock:
            if not self._following:
                return
            try:
                self.send()
            except StorageError as failure:
                raise StorageError(
                    f"{failure}\nThe run is whole in {self.folder}; `--resume {self.uri}` on this machine sends it"
                ) from error
            shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self) -> Path:
        """Make an empty folder for a new run."""
        self._clear()
        self._following = True
        return self.folder

    def fetch(self) -> Path:
        """Make the folder the same as the run there, but for states that are newer than `last`.

        What a training on this machine saved and could not send is kept, if it is of the same settings and newer.

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
            self._last = storage.read_all(objects[POINTER.as_posix()].uri).decode().strip()
        ours = [path.name for path in saved_states(self.folder)[:1]]
        if ours and ours[0] > self._last and self._has_settings(storage.read_all(f"{self.uri}/config.yaml")):
            self._following = True
            return self.folder
        self._clear()
        for name, object in objects.items():
            if name != POINTER.as_posix() and not (_is_state(name) and object.name > self._last):
                path = self.folder / name
                _save(object, path)
                self._sent[name] = _stamp(path)
        self._following = True
        return self.folder

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True)

    def send(self) -> None:
        """Make the run there the same as the folder.

        Raises:
            StorageError: the storage cannot be reached, or refuses; what was there is as sound as before.
        """
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
        if states and (newest := Path(max(states)).name) != self._last:
            storage.write(f"{self.uri}/{POINTER.as_posix()}", f"{newest}\n".encode())
            self._last = newest
        for name in sorted(self._states - states):
            storage.delete(f"{self.uri}/{name}")
            self._states.remove(name)

    def _has_settings(self, settings: bytes) -> bool:
        path = self.folder / "config.yaml"
        return path.is_file() and path.read_bytes() == settings


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
