"""Whichever operation of a save fails or is its last, `last` is a whole state: the old one or the new one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import REPORTED, SAVED_NEVERTHELESS

from inceptionv4.training.run.history import bring_back
from inceptionv4.training.run.recovery import inspect_run
from inceptionv4.weights.checkpoint import load_checkpoint

SCRIPT = Path(__file__).with_name("faults.py")


def attempt_all(folder: Path, task: str) -> dict[str, int]:
    """Every fault in a run of its own, and how its process ended."""
    command = [sys.executable, str(SCRIPT), str(folder), task]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name: int(status) for name, status in map(str.split, done.stdout.splitlines())}


def check_that_all_came(ended: dict[str, int], task: str) -> None:
    """Each operation in turn, until there was none left to fail; and ten places in the file."""
    errors = {REPORTED, SAVED_NEVERTHELESS}
    for kind, expected in (("EIO", errors), ("ENOSPC", errors), ("SIGKILL", {-signal.SIGKILL})):
        statuses = [status for name, status in ended.items() if name.startswith(f"{task}{kind}-")]
        assert len(statuses) > 10, kind
        assert statuses[-1] == 0
        assert set(statuses[:-1]) == expected, kind
    # A model takes less room than a state: at the last places it is whole.
    done = {0} if task else set()
    assert {status for name, status in ended.items() if name.startswith(f"{task}full-")} - done == {REPORTED}
    killed = {status for name, status in ended.items() if name.startswith(f"{task}killed-")}
    assert killed - done == {-signal.SIGXFSZ}


def test_a_state_is_whole_whatever_fails(tmp_path: Path) -> None:
    ended = attempt_all(tmp_path, "")
    check_that_all_came(ended, "")
    steps = {}
    for name, status in ended.items():
        run = tmp_path / name
        last = load_checkpoint(run / "checkpoints/last.safetensors")
        found = inspect_run(run)
        assert found.state is not None, name
        assert [path.name for path in found.unsound] == ["step-00000003.safetensors"], name
        found.apply()
        assert (run / "aside/step-00000003.safetensors").read_bytes() == b"damaged", name
        steps[name] = found.state.training["position"]["step"]
        assert last.training["position"]["step"] in (1, steps[name]), name
        assert steps[name] == 2 or status != 0, name
        assert not [path for path in run.rglob("*") if path.name.startswith(".")], name
    assert set(steps.values()) == {1, 2}


@pytest.mark.slow
def test_a_run_can_be_mended_whatever_failed_when_it_was(tmp_path: Path) -> None:
    """What is sound is there bit for bit, and what is damaged is somewhere; the next time, the rest is done."""
    ended = attempt_all(tmp_path, "mended-")
    check_that_all_came(ended, "mended-")
    state = (tmp_path / "damaged/checkpoints/step-00000001.safetensors").read_bytes()
    for name in ended:
        run = tmp_path / name
        assert (run / "checkpoints/step-00000001.safetensors").read_bytes() == state, name
        inspect_run(run).apply()
        bring_back(run, 1, 1, None)
        again = inspect_run(run)
        assert (again.unsound, again.best) == ({}, None), name
        assert (run / "aside/step-00000003.safetensors").read_bytes() == b"damaged", name
        assert b"damaged\n" in [path.read_bytes() for path in (run / "aside").glob("log*")], name
        assert load_checkpoint(run / "checkpoints/best.safetensors").training == {"epoch": 1}, name
        assert (run / "checkpoints/last.safetensors").read_bytes() == state, name
        assert not [path for path in run.rglob("*") if path.name.startswith(".")], name
