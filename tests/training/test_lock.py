"""Two processes do not write one run."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3
from runs import settings

from inceptionv4.config import CheckpointConfig, ScheduleConfig
from inceptionv4.errors import RunError, StorageError
from inceptionv4.runtime import storage
from inceptionv4.settings import dump
from inceptionv4.training.loop import train
from inceptionv4.training.run import lease
from inceptionv4.training.run.lease import Lease
from inceptionv4.training.run.lock import RunLock, describe_reach

HOLD = "import sys, time; from pathlib import Path; from inceptionv4.training.run.lock import RunLock;"
HOLD += "lock = RunLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def holder(run: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(RunError, match=rf"{tmp_path} is in use by process {process.pid} on \S+ since .* UTC; wait"):
        RunLock(tmp_path)
    # The kernel gives the lock of a killed process up; what is left of it says nothing.
    process.kill()
    process.communicate()
    assert f"process {process.pid}" in (tmp_path / "lock").read_text()
    taken = RunLock(tmp_path)
    assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()
    taken.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_somebody_removed_is_not_removed_once_more(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    (tmp_path / "lock").unlink()
    second = RunLock(tmp_path)
    first.release()
    with pytest.raises(RunError, match="is in use by"):
        RunLock(tmp_path)
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    """Holders come and go, each of which removes the file: never are there two."""
    held, most, taken = [0], [0], [0]
    guard = threading.Lock()

    def compete() -> None:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                own = RunLock(tmp_path)
            except RunError:
                continue
            with guard:
                held[0] += 1
                taken[0] += 1
                most[0] = max(most[0], held[0])
            time.sleep(0.0005)
            with guard:
                held[0] -= 1
            own.release()

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert taken[0] > 50


def test_a_run_that_is_trained_is_not_resumed(textures: Path, tmp_path: Path) -> None:
    """The first goes on, undisturbed, to its end."""
    schedule, checkpoint = ScheduleConfig(epochs=1, warmup_epochs=0.5), CheckpointConfig(every_minutes=0)
    config = settings(textures, tmp_path, schedule=schedule, checkpoint=checkpoint)
    (tmp_path / "settings.yaml").write_text(dump(config))
    line = [sys.executable, "-m", "inceptionv4", "train", "--config", str(tmp_path / "settings.yaml")]
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "test/1/log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RunError, match=rf"test/1 is in use by process {first.pid} on ") as error:
            train(config, run=tmp_path / "test/1")
    finally:
        first.send_signal(signal.SIGCONT)
    assert error.value.exit_code == 1
    assert first.communicate()[1].count("\n") > 3
    assert first.returncode == 0
    assert log.read_text().count("\n") == 11
    assert not (tmp_path / "test/1/lock").exists()
    train(config, run=tmp_path / "test/1")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_it_says_so(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    taken = RunLock(tmp_path)
    assert re.search(r"cannot be locked \(.*\): nothing keeps another process from training it", taken.warning)
    taken.release()


MOUNTS = {
    "ext4 / rw": "",
    "nfs4 /mnt/runs rw,vers=4.2,local_lock=none": "",
    "nfs /mnt/runs rw,vers=3,local_lock=all": "nfs at /mnt/runs",
    "nfs /mnt/runs rw,vers=3,nolock,local_lock=none": "nfs at /mnt/runs",
    "nfs4 /mnt/runs rw,local_lock=posix": "",
    "nfs4 /mnt/runs rw,local_lock=flock": "nfs4 at /mnt/runs",
    "lustre /mnt rw,flock": "",
    "lustre /mnt rw,localflock": "lustre at /mnt",
    "lustre /mnt rw": "lustre at /mnt",
    "ceph /mnt/runs rw": "",
    "cifs /mnt/runs rw": "",
    "cifs /mnt/runs rw,nobrl": "cifs at /mnt/runs",
    "fuse.s3fs /mnt/runs rw": "fuse.s3fs at /mnt/runs",
    "9p /mnt rw": "9p at /mnt",
    "nfs /mnt/ru rw,nolock": "",
    "nfs /mnt/runs/a/1/deeper rw,nolock": "",
    r"nfs /mnt/runs\040of\040mine rw,nolock": "",
}


@pytest.mark.parametrize("mount", MOUNTS)
def test_what_another_machine_sees_of_a_lock(mount: str, tmp_path: Path) -> None:
    kind, point, options = mount.split()
    table = tmp_path / "mountinfo"
    lines = ["22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro", "damaged line"]
    lines.append(f"35 22 0:30 / {point} rw,relatime shared:2 master:1 - {kind} server:/export {options}")
    table.write_text("\n".join(lines) + "\n")
    said = describe_reach(Path("/mnt/runs/a/1"), table)
    assert MOUNTS[mount] in said
    assert bool(said) == bool(MOUNTS[mount])
    assert describe_reach(Path("/mnt/runs of mine/1"), table) == "" or "/mnt" in mount
    assert describe_reach(tmp_path, tmp_path / "no table") == ""


def test_a_space_in_the_name_of_a_mount(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("35 22 0:30 / /mnt/my\\040runs rw - nfs server:/export rw,nolock\n")
    assert "nfs at /mnt/my runs" in describe_reach(Path("/mnt/my runs/1"), table)


def test_this_machine_s_own_table_is_read(tmp_path: Path) -> None:
    assert isinstance(describe_reach(tmp_path), str)
    assert Path("/proc/self/mountinfo").read_text().count(" - ") > 0


RUN = "s3://bucket/runs/test/1"


@pytest.fixture(params=["rclone", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One without conditional writes, and one with them; a lease that is not renewed for a second is given up."""
    (tmp_path / "served/bucket").mkdir(parents=True)
    server = s3.moto(tmp_path / "log") if request.param == "moto" else s3.rclone(tmp_path / "served", tmp_path / "log")
    with s3.running(server) as running:
        s3.use(monkeypatch, running.port)
        if request.param == "moto":
            s3.make_bucket(running.port)
        monkeypatch.setattr(storage, "patience", lambda: 1.2)
        yield request.param


def test_a_lease_has_one_holder(store: str) -> None:
    said: list[str] = []
    first = Lease(RUN, "one machine")
    time.sleep(0.6)
    with pytest.raises(RunError, match=rf"{RUN} is in use by process {os.getpid()} on .*; wait for it, or stop it"):
        Lease(RUN, "another machine", said.append)
    (line,) = said
    assert re.fullmatch(rf"{RUN} may be in use by process {os.getpid()} on .* UTC: looking for 1\.2 s", line)
    first.check()
    first.release()
    assert storage.find(f"{RUN}/lock") is None
    started = time.monotonic()
    Lease(RUN, "another machine").release()
    assert time.monotonic() - started < 1  # there was nothing to watch


def test_the_lease_of_a_killed_process_is_taken(store: str) -> None:
    killed = Lease(RUN, "one machine")
    killed._done.set()  # it renews no more
    started = time.monotonic()
    second = Lease(RUN, "another machine")
    assert time.monotonic() - started >= 1.2
    second._done.set()
    started = time.monotonic()
    third = Lease(RUN, "another machine")  # whose other processes are known to be dead
    assert time.monotonic() - started < 1
    for late in (killed, second):
        with pytest.raises(RunError, match="is in use by process .*, which took it meanwhile; stop one of the two"):
            late.check()
        late.release()  # which leaves the third's
    third.check()
    third.release()


def test_one_that_slept_while_another_finished_finds_out(store: str) -> None:
    """The other one took the lease and let it go: there is none any more, and the first must not take it back."""
    first = Lease(RUN, "one machine")
    first._done.set()
    first._thread.join()
    second = Lease(RUN, "another machine")
    second.release()
    assert storage.find(f"{RUN}/lock") is None
    with pytest.raises(RunError, match="is in use by another process, which took it meanwhile"):
        first.check()
    first.release()
    assert storage.find(f"{RUN}/lock") is None


def test_a_moment_without_the_storage_loses_no_lease(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its object was found, or not even that."""
    own = Lease(RUN, "one machine")

    def fail(uri: str) -> bytes:
        raise StorageError("the line is cut")

    for name in ("read_all", "find"):
        with monkeypatch.context() as patched:
            patched.setattr(storage, name, fail)
            with pytest.raises(StorageError, match="the line is cut"):
                own.check()
            time.sleep(2 * 1.2 / lease.BEATS)
        own.check()
        assert own._thread.is_alive()
    own.release()


def test_one_that_was_away_finds_out(store: str) -> None:
    """It was stopped for longer than its lease, as by a laptop's lid, and another one went on."""
    first = Lease(RUN, "one machine")
    storage.write(f"{RUN}/lock", b'{"token": "another", "process": "process 7 on elsewhere"}')
    deadline = time.monotonic() + 5
    while not first._lost and time.monotonic() < deadline:
        time.sleep(0.05)
    storage.delete(f"{RUN}/lock")
    with pytest.raises(RunError, match="in use by process 7 on elsewhere, which took it meanwhile"):
        first.check()
    first.release()


def test_an_object_that_is_no_lease_is_watched_too(store: str) -> None:
    storage.write(f"{RUN}/lock", b"\xff no lease")
    own = Lease(RUN, "one machine")
    own.check()
    own.release()


def test_a_beat_that_fails_is_made_up_for(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Lease(RUN, "one machine")
    original = storage.write

    def fail(*arguments: Any, **options: Any) -> bool:
        raise StorageError("the line is cut")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write", fail)
        time.sleep(3 * 1.2 / lease.BEATS)
        beat = own._beat
    assert storage.write is original
    time.sleep(2 * 1.2 / lease.BEATS)
    assert own._beat > beat
    assert own._thread.is_alive()
    own.release()
