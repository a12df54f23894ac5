"""Whichever operation of a save fails or is its last, `last` is a whole state: the old one or the new one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import REPORTED, SAVED_NEVERTHELESS

from inceptionv4.training.run.recovery import inspect_run
from inceptionv4.weights.checkpoint import load_checkpoint

SCRIPT = Path(__file__).with_name("faults.py")


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A folder of runs, each after one fault, and how their processes ended."""
    folder = tmp_path_factory.mktemp("faults")
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder, {name: int(status) for name, status in map(str.split, done.stdout.splitlines())}


def test_a_state_is_whole_whatever_fails(attempts: tuple[Path, dict[str, int]]) -> None:
    folder, ended = attempts
    steps = {}
    for name, status in ended.items():
        run = folder / name
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


def test_every_fault_came(attempts: tuple[Path, dict[str, int]]) -> None:
    """Each operation in turn, until there was none left to fail; and ten places in the file."""
    _, ended = attempts
    errors = {REPORTED, SAVED_NEVERTHELESS}
    for kind, expected in (("EIO", errors), ("ENOSPC", errors), ("SIGKILL", {-signal.SIGKILL})):
        statuses = [status for name, status in ended.items() if name.startswith(f"{kind}-")]
        assert len(statuses) > 15, kind
        assert statuses[-1] == 0
        assert set(statuses[:-1]) == expected, kind
    assert {status for name, status in ended.items() if name.startswith("full-")} == {REPORTED}
    assert {status for name, status in ended.items() if name.startswith("killed-")} == {-signal.SIGXFSZ}
