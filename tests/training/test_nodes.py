"""Two machines that share nothing train as one; one of them is lost and comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from nodes import SCRIPT, halves, make_nodes
from runs import assert_same_run

from inceptionv4.errors import RunError
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.settings import dump
from inceptionv4.training.loop import the_run

SECONDS = 100


@pytest.fixture(scope="module")
def uninterrupted(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes on one machine."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "settings.yaml").write_text(dump(halves(textures, folder)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launcher, str(SCRIPT), str(folder / "settings.yaml")], check=True, timeout=SECONDS)
    return folder / "test/1"


def test_a_machine_is_lost_and_comes_back(textures: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """The second one, with its agent; the first waits for it, and both go on from the last state."""
    first, second = make_nodes(tmp_path, textures, halves(Path("data"), Path("runs")))
    agents = [first.start(), second.start(14, 1, "NODE")]
    try:
        assert agents[1].wait(SECONDS) == -9
        agents.append(second.start())
        assert agents[2].wait(SECONDS) == 0, second.said
        assert agents[0].wait(SECONDS) == 0, first.said
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert "lost the others" in first.said
    assert "going on after step" in first.said
    assert_same_run(first.folder / "runs/test/1", uninterrupted)
    assert not (second.folder / "runs").exists()


def test_a_run_that_another_machine_has_is_not_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen_by(*found: str | None) -> str | None:
        monkeypatch.setattr(Ranks, "gather", lambda self, value: list(found))
        return the_run(found[-1], Ranks(1, len(found)))  # type: ignore[return-value]

    assert seen_by(None, None) is None
    assert seen_by("runs/a/2", None) == "runs/a/2"
    assert seen_by("runs/a/2", "runs/a/1") == "runs/a/2"
    with pytest.raises(RunError, match="process 1 of 2 found runs/a/1 to go on with, which the first .* does not see"):
        seen_by(None, "runs/a/1")
