"""One process at a time writes a run folder: the lock that says which.

The lock is the kernel's (`flock`) on the file `lock` in the run folder. The kernel gives it up when its process ends,
however it ends, so that a lock that is left behind never stands in anybody's way. The file's text is for people.
Between machines the lock is as good as their file system: NFS, Lustre and Ceph pass it on, unless they are mounted
otherwise. Where it may not be passed on, `RunLock.warning` says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from inceptionv4.errors import RunError
from inceptionv4.runtime.files import try_lock

LOCK = "lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors by which a file system says that it has no locks."""


class RunLock:
    """The right to write a run folder, from when it is made until `release`.

    `warning` is empty, or says that another machine may not see the lock.
    """

    def __init__(self, run: Path) -> None:
        """Raises:
        RunError: another process has the run, or the folder cannot be written.
        """
        self.path = run / LOCK
        self.warning = ""
        while True:
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise RunError(f"cannot write {self.path}: {error.strerror or error}") from None
            self._take(run)
            if self._is_in_place():
                break
            os.close(self._file)  # its holder removed it after we had opened it
        if not self.warning:
            self.warning = describe_reach(run)
        with contextlib.suppress(OSError):  # a full disk: the text is for people only
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, describe_process().encode(), 0)

    def release(self) -> None:
        """Let other processes have the run."""
        with contextlib.suppress(OSError):  # the folder may be gone, or read-only by now
            if self._is_in_place():  # or somebody removed it, and it is another one's
                self.path.unlink()
        os.close(self._file)

    def _take(self, run: Path) -> None:
        try:
            if try_lock(self._file, fcntl.LOCK_EX):
                return
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(self._file)
                raise RunError(f"cannot lock {self.path}: {error.strerror or error}") from None
            self.warning = (
                f"{run} cannot be locked ({error.strerror}): nothing keeps another process from training it, too"
            )
            return
        holder = os.pread(self._file, 1000, 0).decode(errors="replace").strip() or "another process"
        os.close(self._file)
        raise RunError(f"{run} is in use by {holder}; wait for it, or stop it")

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False


def describe_process() -> str:
    """Name the process that calls, for whoever has to find it: number, machine, time."""
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Mount:
    """Where a folder lies: a line of `/proc/self/mountinfo` (proc_pid_mountinfo(5))."""

    point: str
    kind: str
    options: frozenset[str]


def describe_reach(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> str:
    """A warning if another machine may not see the locks in `folder`; nothing if it does, or cannot see the folder.

    `table` lists the mounts; where the system has none, nothing is known and nothing is said.
    """
    try:
        text = table.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    place = str(folder.resolve())
    mounts = [mount for mount in map(_read_mount, text.splitlines()) if mount is not None]
    # Of two mounts at one point the later one hides the earlier.
    around = [mount for mount in mounts if place == mount.point or place.startswith(mount.point.rstrip("/") + "/")]
    mount = max(reversed(around), key=lambda mount: len(mount.point), default=None)
    if mount is None or not _locks_stay_here(mount):
        return ""
    return (
        f"another machine may not see the lock of {folder} ({mount.kind} at {mount.point}): "
        "train it on one machine at a time"
    )


def _read_mount(line: str) -> Mount | None:
    before, separator, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if not separator or len(left) < 6 or len(right) < 3:
        return None
    point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), left[4])  # a space is \040
    return Mount(point, right[0], frozenset(left[5].split(",")) | frozenset(right[2].split(",")))


def _locks_stay_here(mount: Mount) -> bool:
    """Whether a file system that other machines mount, too, keeps `flock` to this one."""
    match mount.kind:
        case "nfs" | "nfs4":  # nfs(5)
            return bool(mount.options & {"nolock", "local_lock=flock", "local_lock=all"})
        case "lustre":  # mount.lustre(8)
            return "flock" not in mount.options
        case "cifs" | "smb3":  # mount.cifs(8)
            return "nobrl" in mount.options
        case "9p" | "virtiofs" | "beegfs":
            return True
    return mount.kind.startswith("fuse.")  # sshfs, s3fs, gcsfuse and most others keep them to themselves
