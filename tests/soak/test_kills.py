"""Two hundred kills at random moments, many of them inside of a save: the end is that of an undisturbed training."""

from __future__ import annotations

from pathlib import Path

from runs import assert_same_run, settings
from test_resume import command, kill_and_resume

from inceptionv4.config import CheckpointConfig, ScheduleConfig
from inceptionv4.training.loop import train


def test_two_hundred_kills(textures: Path, tmp_path: Path) -> None:
    schedule = ScheduleConfig(epochs=400, warmup_epochs=0.5)
    config = settings(textures, tmp_path, schedule=schedule, checkpoint=CheckpointConfig(every_minutes=0))
    killed, inside = kill_and_resume(command(config, tmp_path), tmp_path / "test/1", kills=200, seed=0)
    print(f"killed {killed} times, {inside} of them inside of a save")
    assert killed == 200
    assert inside >= 50
    whole = train(settings(textures, tmp_path / "whole", schedule=schedule))
    tensors = assert_same_run(tmp_path / "test/1", Path(whole))
    print(f"{tensors} tensors compared, and not a bit is different")
    assert not (tmp_path / "test/1/aside").exists()
