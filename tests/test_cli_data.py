"""`inceptionv4 data` as its users type it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inceptionv4.cli.data import in_units, parse_size
from inceptionv4.data.index import read_dataset
from inceptionv4.data.tools.doctor import examine
from inceptionv4.errors import UsageError

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_inspect(command: Command, textures: Path) -> None:
    result = command("data", "inspect", textures)
    assert result.code == 0
    assert "train/ and val/ folders" in result.out
    assert "225: 180 to train on, 45 held out" in result.out
    assert [line.split() for line in result.out.splitlines() if line.startswith("grass")] == [["grass", "60", "15"]]
    [mosaic] = Path.cwd().iterdir()
    assert f"The first images of each class: {mosaic.name}" in result.out
    assert Image.open(io.BytesIO(mosaic.read_bytes())).format == "PNG"
    facts = json.loads(command("data", "inspect", textures, "--json", "--mosaic", "it.png").out)
    assert (facts["train"], facts["images"], facts["mosaic"]) == ([60, 60, 60], 225, "it.png")
    assert Path("it.png").read_bytes() == mosaic.read_bytes()


def test_inspect_draws_nothing_into_the_data(
    command: Command, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(textures, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data/train")
    result = command("data", "inspect", "..")
    assert result.code == 2
    assert "say with --mosaic FILE where to" in result.err
    assert not list((tmp_path / "data").rglob("*.png"))


def test_doctor_exits_with_three_if_training_would_fail(command: Command, textures: Path, tmp_path: Path) -> None:
    sound = command("data", "doctor", textures)
    assert sound.code == 0
    assert "180 images to train on, 45 held out" in sound.out
    shutil.copytree(textures, tmp_path / "data")
    (tmp_path / "data/val/grass/000.jpg").write_bytes(b"")
    bad = command("data", "doctor", tmp_path / "data")
    assert bad.code == 3
    assert "would fail: 1 held-out images cannot be decoded" in bad.err
    assert "val/grass/000.jpg is empty" in bad.out
    as_json = command("data", "doctor", tmp_path / "data", "--json")
    assert as_json.code == 3
    report = examine(tmp_path / "data")
    expected = json.loads(json.dumps(asdict(report) | {"failures": report.failures}))
    assert json.loads(as_json.out) == expected
    nothing = command("data", "doctor", tmp_path / "here")
    assert (nothing.code, nothing.out) == (3, "")


def test_pack_says_how_to_train_on_what_it_wrote(command: Command, textures: Path) -> None:
    result = command("data", "pack", textures, "out", "--shard-size", "100k", "--short-side", "110")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "inceptionv4 train --data out"
    images, shards = len(read_dataset("out").all()), len(list(Path("out").glob("*.tar")))
    assert f"{images} images" in result.out
    assert f"in {shards} shards" in result.out
    assert max(path.stat().st_size for path in Path("out").glob("*.tar")) <= 100 * 1024
    assert command("data", "pack", textures, "out").code == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("256M", 2**28), ("256MB", 2**28), ("1.5g", 3 * 2**29), ("10k", 10240), ("100KiB", 102400), ("1000", 1000)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "0", "10T", "ten"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 256M or 1G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e12, "3,000 GB")]
)
def test_sizes_are_written(size: float, text: str) -> None:
    assert in_units(size) == text


@pytest.mark.parametrize(
    "options",
    [
        ("--short-side", "0"),
        ("--val-fraction", "1"),
        ("--shard-size", "none"),
        ("--shard-size", "9" * 400),
        ("--shard-size", "0.1"),
        ("--seed", "-1"),
        ("--seed", str(2**63)),
    ],
    ids=lambda options: " ".join(options)[:30],
)
def test_bad_options_are_refused_before_anything_is_written(
    command: Command, textures: Path, options: tuple[str, str]
) -> None:
    result = command("data", "pack", textures, "out", *options)
    assert result.code == 2
    assert options[0] in result.err
    assert not Path("out").exists()
