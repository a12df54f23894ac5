"""Two machines: agents of `torchrun` that meet over loopback, each with an address, a work folder, data and a cache."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from runs import settings

from inceptionv4.config import CheckpointConfig, Config, TrainingConfig
from inceptionv4.settings import dump

SCRIPT = Path(__file__).with_name("process.py")
TRAINING = TrainingConfig(batch_size=16, ema_decay=0.9, precision="fp32", accumulate=2)


@dataclass(frozen=True)
class Node:
    """A machine of two; the first one holds the meeting."""

    number: int
    folder: Path
    port: int

    def start(self, *event: object) -> subprocess.Popen[str]:
        """An agent with one process, which trains by `settings.yaml` in its folder; they talk to `said.txt` there."""
        settings = ("settings.yaml", *map(str, event))
        launcher = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}", "--rdzv-id=test"),
            # A dead machine is given up after three seconds instead of fifteen.
            f"--rdzv-conf=is_host={self.number == 0},keep_alive_interval=1,keep_alive_max_attempt=3",
            *(f"--local-addr=127.0.0.{self.number + 1}", str(SCRIPT), *settings),
        ]
        variables = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / "cache")}
        variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as all launchers in deploy/ have it
        with (self.folder / "said.txt").open("a") as said:
            return subprocess.Popen(launcher, cwd=self.folder, env=variables, stdout=said, stderr=said, text=True)

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text()


def halves(data: Path, output: Path) -> Config:
    """All that is random is on, a batch goes through in two parts, on whatever processes, and states are saved every
    second or so.
    """
    return settings(data, output, training=TRAINING, checkpoint=CheckpointConfig(every_minutes=0.02))


def make_nodes(folder: Path, data: Path, config: Config) -> list[Node]:
    """Two machines that share nothing. `config` names data and output relative to the work folders."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = [Node(number, folder / f"node{number}", port) for number in range(2)]
    for node in nodes:
        shutil.copytree(data, node.folder / config.data.path)
        (node.folder / "settings.yaml").write_text(dump(config))
    return nodes
