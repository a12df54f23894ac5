"""Signals that ask to stop, as the processes of a user get them: by `kill`, and by a terminal that closes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inceptionv4.errors import StoppedError
from inceptionv4.runtime.process import SIGNALS, StopRequests, asked_for, handle


@pytest.fixture(autouse=True)
def ordinary() -> Iterator[None]:
    """All signals as a shell has them, whoever started the tests."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_noted(number: signal.Signals) -> None:
    with StopRequests() as stop:
        assert asked_for(stop.counts()) is None
        signal.raise_signal(number)
        assert stop.received == asked_for(stop.counts()) == number
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_second_one_ends_at_once_but_a_second_hang_up_does_not() -> None:
    with StopRequests() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.received == signal.SIGHUP
        with pytest.raises(StoppedError, match="stopped at once by a second signal") as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.exit_code == 143
    with StopRequests() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        assert stop.received == signal.SIGTERM


def test_who_was_begun_to_ignore_hang_ups_does() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with StopRequests() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
        signal.raise_signal(signal.SIGTERM)  # what stops a job is heeded
        assert stop.received == signal.SIGTERM
    assert list(handle(SIGNALS, lambda *_: None)) == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


WAIT = """
import sys, time
from pathlib import Path
from inceptionv4.runtime.process import StopRequests
with StopRequests() as stop:
    print("ready", flush=True)
    end = time.monotonic() + 20
    while stop.received is None and time.monotonic() < end:
        time.sleep(0.01)
    for stream in (sys.stdout, sys.stderr):
        print("after", stop.received, file=stream, flush=True)
    Path(sys.argv[1]).write_text(str(stop.received and stop.received.name))
"""


CLOSE = """
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
assert os.read(terminal, 100).startswith(b"ready")
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_terminal_that_closes_is_no_error(tmp_path: Path) -> None:
    """What is printed after it goes nowhere; without that it is an error of its own, instead of a saved state."""
    said = tmp_path / "said"
    subprocess.run([sys.executable, "-c", CLOSE, WAIT, str(said)], check=True, timeout=30)
    assert said.read_text() == "SIGHUP"


def test_nohup(tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = ["nohup", sys.executable, "-c", WAIT, str(said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert said.read_text() == "SIGTERM"
