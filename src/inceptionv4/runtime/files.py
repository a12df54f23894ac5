"""Files that appear whole or not at all, and the folder of those that can be made again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from inceptionv4.errors import RunError, UsageError

Written = TypeVar("Written")


def cache_folder() -> Path:
    """Where what can be made again is kept between runs: `$XDG_CACHE_HOME/inceptionv4`, or `~/.cache/inceptionv4`.

    A user without a home, as in a container that runs under any number, has a folder among the temporary files.

    Raises:
        RunError: there is such a folder, and others may write it.
    """
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "inceptionv4"
    try:
        return Path.home() / ".cache" / "inceptionv4"
    except RuntimeError:
        return _temporary_home() / ".cache" / "inceptionv4"


def settle_home() -> None:
    """Give a user without a name and a home both, for this process: libraries look for them, and fail without.

    Raises:
        RunError: there is such a home already, and others may write it.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_temporary_home())
        os.environ.setdefault("LOGNAME", str(os.geteuid()))


def _temporary_home() -> Path:
    own = Path(tempfile.gettempdir()) / f"inceptionv4-{os.geteuid()}"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        status = own.lstat()
    except OSError as error:
        raise RunError(f"cannot write {own}: {error.strerror or error}; set HOME or XDG_CACHE_HOME") from None
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode):
        raise RunError(f"{own} may be written by others; set HOME or XDG_CACHE_HOME to a folder of your own")
    return own


def require_utf8(path: Path) -> None:
    """See that the libraries that read and write weights can open `path`: they take no other name than UTF-8.

    Raises:
        UsageError: it is none.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the name of {path} is not UTF-8, which files of weights need; rename it") from None


def require_replaceable(path: Path) -> None:
    """See that a file may take the place of `path`: of /dev/full or /dev/stdout it would make a file like any other.

    Raises:
        RunError: it may not.
    """
    try:
        is_special = os.path.lexists(path) and (not path.is_file() or path.parent.resolve() == Path("/dev"))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
    if is_special and not (path.is_symlink() and not path.exists()):
        raise RunError(f"cannot write {path}: it is no regular file; name one")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this is open, no other thread or process has `path` locked; one that is killed lets go of it.

    Raises:
        RunError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(file: int, kind: int) -> bool:
    """Lock an open file, `fcntl.LOCK_EX` or `LOCK_SH`, until it is closed; False if another one's lock forbids it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stamp(file: Path | str | int) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a path or an open file: other ones if it was written since.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(file)  # noqa: PTH116 - of open files, too
    return status.st_size, status.st_mtime_ns


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, flush it to the disk, and rename it to `path`: see `whole`."""
    with whole(path) as temporary:
        write(temporary)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; at the end it is flushed to the disk and renamed to `path`.

    Whatever happens, `path` is what it was or is complete, and nothing else is left behind.

    Raises:
        RunError: the folder cannot be written, or the disk is full; `path` is a folder, a device or a pipe.
    """
    require_replaceable(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _flush_folder(path.parent)
    except BrokenPipeError:
        raise  # of somebody who no longer listens to what is printed meanwhile
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise RunError(
            f"cannot write {path}: {error.strerror or error}, with {free:,} bytes free; "
            "free some space or write elsewhere"
        ) from None
    finally:
        # What cannot be removed now is by `remove_half_written`; it is no reason to fail, or to fail otherwise.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_together(path: Path, write: Callable[[Path], Written]) -> Written:
    """Call `write` with a path of the same name in a folder of its own, and move all the files that it leaves there to
    `path` and beside it, `path` itself last, so that whoever finds it finds the others. Returns what `write` does.

    Whatever fails in `write` leaves nothing behind, and everything as it was.

    Raises:
        RunError: the folder cannot be written, or the disk is full; `path` is a folder, a device or a pipe.
    """
    require_replaceable(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = write(Path(folder) / path.name)
            for made in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                with made.open("rb+") as file:
                    os.fsync(file.fileno())
                made.chmod(0o666 & ~_umask())
                made.replace(path.parent / made.name)
            _flush_folder(path.parent)
            return written
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; free some space or write elsewhere") from None


def link_whole(path: Path, name: Path) -> None:
    """Give a file a second name, which replaces what had it; a copy where the file system has no hard links.

    Raises:
        RunError: the folder cannot be written, or the disk is full.
    """
    temporary = name.with_name(f".{name.name}.{secrets.token_hex(4)}")
    try:
        os.link(path, temporary)  # of a file that may be another user's: it is not opened, and its mode stays
        temporary.replace(name)
        _flush_folder(name.parent)
    except OSError:
        write_whole(name, lambda copy: _copy(path, copy))
    finally:
        with contextlib.suppress(OSError):  # it has got its name; if that was of the same file, this one stayed
            temporary.unlink()


def _copy(path: Path, copy: Path) -> None:
    shutil.copyfile(path, copy)


def write_text(path: Path, text: str) -> None:
    """`write_whole` for text."""
    write_whole(path, lambda temporary: _write_text(temporary, text))


def remove_half_written(folder: Path, *patterns: str) -> None:
    """Remove what `write_whole` left in a folder when it was killed; the patterns are of the files that it wrote.

    safetensors has a temporary file of its own beside the one that it is to write.
    """
    for pattern in (*(f".{pattern}.????????" for pattern in patterns), ".tmp??????"):
        for path in folder.glob(pattern):
            if not path.is_dir():
                path.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut: on POSIX the folder is a file that must be flushed too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
