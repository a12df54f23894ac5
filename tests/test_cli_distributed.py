"""`evaluate` and `predict` under `torchrun`: what they print is what one process prints, and nothing twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def together(*arguments: object, processes: int = 2, lines: str = "") -> subprocess.CompletedProcess[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "inceptionv4")
    return subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        input=lines,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def alone(*arguments: object, lines: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inceptionv4", *map(str, arguments)]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=100)


def assert_code(ended: subprocess.CompletedProcess[str], code: int) -> None:
    """The first process that ended did so with `code`; torchrun's own is 1 whatever that was."""
    root = re.search(r"Root Cause.*?exitcode\s*: (-?\d+)", ended.stderr, re.DOTALL)
    assert root is not None, ended.stderr
    assert (ended.returncode, int(root[1])) == (1, code)


@pytest.fixture(scope="module")
def photographs(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 labelled images, without a split."""
    return Path(shutil.copytree(textures / "val", tmp_path_factory.mktemp("photographs") / "photographs"))


def test_an_evaluation_counts_each_image_once(narrow_model: Path, photographs: Path) -> None:
    arguments = ("evaluate", narrow_model, "--data", photographs, "--device", "cpu", "--json")
    one, two = alone(*arguments), together(*arguments)
    assert two.returncode == 0, two.stderr
    ours, theirs = json.loads(two.stdout), json.loads(one.stdout)
    assert ours["images"] == theirs["images"] == 45
    assert (ours["top1"], ours["top5"]) == (theirs["top1"], theirs["top5"])
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)


@pytest.mark.slow
def test_a_damaged_image_ends_the_evaluation_on_all(narrow_model: Path, photographs: Path, tmp_path: Path) -> None:
    shutil.copytree(photographs, tmp_path / "data")
    damaged = tmp_path / "data/grass/007.jpg"
    damaged.write_bytes(damaged.read_bytes()[:500])
    ended = together("evaluate", narrow_model, "--data", tmp_path / "data", "--device", "cpu")
    assert ended.stdout == ""
    assert f"error: {damaged}" in ended.stderr
    assert "lost the others" not in ended.stderr, "none is left waiting"
    assert_code(ended, 3)


def test_predictions_come_once_and_in_order(narrow_model: Path, photographs: Path, tmp_path: Path) -> None:
    """A folder, then a list on standard input, which only one of three processes can read, then a damaged image."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    listed = "".join(f"{photographs / 'brick' / name}.jpg\n" for name in ("003", "001"))
    arguments = ("predict", narrow_model, photographs, "-", bad, "--device", "cpu", "--json")
    one, three = alone(*arguments, lines=listed), together(*arguments, processes=3, lines=listed)
    assert one.returncode == 3
    ours, theirs = ([json.loads(line) for line in ended.stdout.splitlines()] for ended in (three, one))
    assert [line["file"] for line in ours] == [line["file"] for line in theirs]
    assert len(ours) == 48
    for our, their in zip(ours[:-1], theirs[:-1], strict=True):
        assert [guess["class"] for guess in our["predictions"]] == [guess["class"] for guess in their["predictions"]]
        for guess, same in zip(our["predictions"], their["predictions"], strict=True):
            assert guess["probability"] == pytest.approx(same["probability"], abs=1e-5)
    assert "error" in ours[-1]
    assert "1 of 48 images could not be read" in three.stderr
    assert_code(three, 3)
