"""A training that is killed while it sends a state goes on from the one before, on another machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import s3
from runs import assert_same_run
from test_remote_run import OUTPUT, RUN, as_on_a_disk, config_of, proxy, served, whole  # noqa: F401 - fixtures

from inceptionv4.settings import dump


def test_killed_while_a_state_is_sent(
    textures: Path,
    proxy: s3.Proxy,  # noqa: F811
    served: Path,  # noqa: F811
    whole: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = config_of(textures, OUTPUT)
    (tmp_path / "settings.yaml").write_text(dump(config))
    stuck: list[str] = []

    def hang(request: str) -> str:
        if request.startswith("PUT") and "step-00000004" in request:
            stuck.append(request)
            return "hang"
        return "none"

    proxy.fault = hang
    line = [sys.executable, "-m", "inceptionv4", "train", "--config", str(tmp_path / "settings.yaml")]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not stuck and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert (served / "bucket/runs/test/1/checkpoints/last").read_text() == "step-00000003.safetensors\n"
    proxy.fault = lambda request: "none"
    elsewhere = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "another machine")}
    line = [sys.executable, "-m", "inceptionv4", "train", "--resume", RUN]
    done = subprocess.run(line, capture_output=True, text=True, env=elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{RUN}\n"
    assert "going on after step 3" in done.stderr
    assert_same_run(as_on_a_disk(served), whole)
