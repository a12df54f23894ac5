"""Two machines that share nothing train as one, and begin anew after the first is lost, with the meeting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nodes import SCRIPT, halves, make_nodes
from runs import assert_same_run

from inceptionv4.settings import dump

SECONDS = 200


def test_the_machine_with_the_meeting_is_lost_and_both_are_started_again(textures: Path, tmp_path: Path) -> None:
    together = tmp_path / "together"
    together.mkdir()
    (together / "settings.yaml").write_text(dump(halves(textures, together)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launcher, str(SCRIPT), str(together / "settings.yaml")], check=True, timeout=SECONDS)

    nodes = make_nodes(tmp_path, textures, halves(Path("data"), Path("runs")))
    agents = [nodes[0].start(14, 0, "NODE"), nodes[1].start()]
    try:
        assert agents[0].wait(SECONDS) == -9
        assert agents[1].wait(SECONDS) != 0, "without the meeting it ends"
        agents += [node.start() for node in nodes]
        for agent, node in zip(agents[2:], nodes, strict=True):
            assert agent.wait(SECONDS) == 0, node.said
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert "going on after step" in nodes[0].said
    assert_same_run(nodes[0].folder / "runs/test/1", together / "test/1")
