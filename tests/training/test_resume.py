"""A training that was stopped anywhere ends as if it never had been, to the last bit; and nothing is ever lost."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_run, settings, stop_after

from inceptionv4 import Classifier
from inceptionv4.config import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from inceptionv4.errors import CheckpointError, DataError, RunError, StoppedError, UsageError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.settings import dump
from inceptionv4.spec import Preprocessing
from inceptionv4.training import loop
from inceptionv4.training.loop import train
from inceptionv4.training.recorder import Recorder
from inceptionv4.training.run.find import find_run
from inceptionv4.training.run.recovery import inspect_run
from inceptionv4.training.run.state import saved_states
from inceptionv4.weights import checkpoint
from inceptionv4.weights.checkpoint import load_checkpoint

LAST_STEP = 22  # two epochs of 180 // 16


@pytest.fixture(scope="module")
def whole(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(textures, tmp_path_factory.mktemp("whole")))


MODERN = {
    "augment": AugmentConfig(policy="augmix", erase=0.5, mixup=0.2, cutmix=1.0),
    "loss": LossConfig(name="bce", class_weights="balanced"),
    "schedule": ScheduleConfig(name="one_cycle", epochs=2, warmup_epochs=0.5, first_size=75),
    "image": Preprocessing(size=107, crop=1.0),
    "optimizer": OptimizerConfig(layer_decay=0.9),
}
"""What `settings` leaves out, growing images among it."""


@pytest.mark.parametrize(
    "optimizer", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rmsprop", "sgd", "modern"))]
)
def test_stopped_at_any_step_it_ends_the_same(
    optimizer: Any, textures: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the first epoch, at its last step, after its evaluation, and near the end; with other workers."""
    change: dict[str, Any] = {}
    stops = [(1, 0), (2, 3), (11, 1), (12, 0), (21, 2)]
    if optimizer == "modern":
        change = {**MODERN, "data": DataConfig(path=str(textures), workers=0, repeats=2)}
        stops = [(3, 3), (11, 0), (16, 1)]
    elif optimizer != "adamw":
        change["optimizer"] = OptimizerConfig(name=optimizer, lr=0.01)
        change["training"] = TrainingConfig(batch_size=16, ema_decay=0.9, precision="fp32", accumulate=2)
        change["schedule"] = ScheduleConfig(epochs=1, warmup_epochs=0.5)
        stops = [(2, 1), (7, 0)]
    config = settings(textures, tmp_path, **change)
    reference = whole if optimizer == "adamw" else train(settings(textures, tmp_path / "whole", **change))
    run = None
    for step, workers in stops:
        with monkeypatch.context() as patched:
            stop_after(step, signal.SIGTERM, patched)
            with pytest.raises(StoppedError, match=f"SIGTERM after step {step}; .* --resume") as error:
                train(dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers)), run=run)
        assert error.value.exit_code == 143
        run = tmp_path / "test/1"
        assert len((run / "log.jsonl").read_text().splitlines()) == step
        assert Classifier.load(run / "checkpoints/last.safetensors").spec.classes == ("brick", "grass", "gravel")
    assert_same_run(train(config, run=run), reference)


def test_stopped_in_an_evaluation_it_ends_the_same(
    textures: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(textures, tmp_path)
    original = loop.evaluate_backend

    def evaluate(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate_backend", evaluate)
        with pytest.raises(StoppedError, match="SIGINT after step 11") as error:
            train(config)
    assert error.value.exit_code == 130
    assert_same_run(train(config, run=tmp_path / "test/1"), whole)


@pytest.mark.parametrize(("place", "step"), [("forward", 5), ("save", 6)])
def test_stopped_in_a_step_or_in_a_save_it_ends_the_same(
    place: str, step: int, textures: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(textures, tmp_path, checkpoint=CheckpointConfig(every_minutes=0))
    where = (InceptionV4, "forward") if place == "forward" else (checkpoint, "_write")
    original, calls = getattr(*where), itertools.count(1)

    def spoilt(*arguments: Any) -> Any:
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(*where, spoilt)
        with pytest.raises(StoppedError, match=r"SIGTERM after step \d+; everything is saved") as error:
            train(config)
    assert error.value.exit_code == 143
    run = tmp_path / "test/1"
    assert 5 <= load_checkpoint(run / "checkpoints/last.safetensors").training["step"] <= step
    assert_same_run(train(dataclasses.replace(config, checkpoint=CheckpointConfig()), run=run), whole)


def test_two_steps_are_not_the_same(whole: Path) -> None:
    """The comparison above can fail."""
    first, second = (load_checkpoint(path).weights for path in saved_states(whole)[:2])
    assert sum(torch.equal(value, second[name]) for name, value in first.items()) < len(first) / 10


def test_a_finished_run_is_left_as_it_is(textures: Path, whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.suffix in (".safetensors", ".jsonl", ".csv")}
    config = settings(textures, whole.parents[1])
    assert find_run(config, "auto") == whole
    assert train(config, run=whole) == whole
    assert {path: path.read_bytes() for path in before} == before


def test_the_newest_states_are_kept_and_the_best(textures: Path, tmp_path: Path) -> None:
    schedule = ScheduleConfig(epochs=1, warmup_epochs=0.5)
    run = train(settings(textures, tmp_path, checkpoint=CheckpointConfig(keep=2, every_minutes=0), schedule=schedule))
    assert [path.name for path in saved_states(run)] == ["step-00000011.safetensors", "step-00000010.safetensors"]
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.safetensors", "last.safetensors", *sorted(path.name for path in saved_states(run))]
    assert (run / "checkpoints/last.safetensors").samefile(saved_states(run)[0])


def test_a_damaged_state_is_set_aside(
    textures: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(textures, tmp_path, checkpoint=CheckpointConfig(every_minutes=0))
    stop_after(4, signal.SIGTERM, monkeypatch)
    with pytest.raises(StoppedError):
        train(config)
    run = tmp_path / "test/1"
    newest = saved_states(run)[0]
    content = bytearray(newest.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    newest.write_bytes(content)
    monkeypatch.undo()
    finished = train(dataclasses.replace(config, checkpoint=CheckpointConfig()), run=run)
    words = capfd.readouterr().err
    assert f"set aside in {run / 'aside'}: {newest} is damaged" in words.replace("\n", " ")
    assert (run / "aside" / newest.name).read_bytes() == content
    assert "going on after step 3" in words
    assert_same_run(finished, whole)


def test_a_flipped_byte_anywhere_in_a_state_is_noticed(whole: Path, tmp_path: Path) -> None:
    content = saved_states(whole)[0].read_bytes()
    generator = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [generator.randrange(header) for _ in range(15)] + [generator.randrange(len(content)) for _ in range(15)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << generator.randrange(8)
        (tmp_path / "it.safetensors").write_bytes(changed)
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "it.safetensors")


def test_other_data_or_settings_are_refused(textures: Path, tmp_path: Path, whole: Path) -> None:
    config = settings(textures, whole.parents[1])
    other = dataclasses.replace(config, seed=1)
    assert find_run(other, "auto") is None
    assert find_run(config, None) is None
    with pytest.raises(UsageError, match=r"test/1 cannot go on with seed 1 \(begun with 0\): .*`--model\.weights"):
        train(other, run=whole)
    with pytest.raises(UsageError, match="is no run folder"):
        find_run(config, str(tmp_path))
    with pytest.raises(DataError, match="are not those that .* was trained on; start a new run"):
        train(dataclasses.replace(config, data=DataConfig(path=str(textures / "val"))), run=whole)


def command(config: Config, folder: Path) -> list[str]:
    file = folder / "settings.yaml"
    file.write_text(dump(config))
    return [sys.executable, "-m", "inceptionv4", "train", "--config", str(file), "--resume", "auto"]


def test_the_command_line_stops_and_goes_on(textures: Path, tmp_path: Path, whole: Path) -> None:
    line = command(settings(textures, tmp_path), tmp_path)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "test/1/log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert "SIGTERM after step " in errors
    assert "everything is saved, go on with `inceptionv4 train --resume" in errors
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == str(tmp_path / "test/1")
    assert "going on after step" in again.stderr
    assert_same_run(tmp_path / "test/1", whole)


def test_a_second_signal_ends_at_once_and_the_last_state_is_sound(
    textures: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes in the middle of the save that the first asked for."""
    config = settings(textures, tmp_path, checkpoint=CheckpointConfig(every_minutes=0))
    stop_after(7, signal.SIGTERM, monkeypatch)
    original = checkpoint._write

    def write(tensors: Any, metadata: Any, path: Path) -> None:
        original(tensors, metadata, path)
        if ".step-00000007." in path.name:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoint, "_write", write)
    with pytest.raises(StoppedError, match="stopped at once by a second signal; the last saved state is sound"):
        train(config)
    monkeypatch.undo()
    run = tmp_path / "test/1"
    assert load_checkpoint(run / "checkpoints/last.safetensors").training["step"] == 6
    assert_same_run(train(dataclasses.replace(config, checkpoint=CheckpointConfig()), run=run), whole)


def kill_and_resume(line: list[str], run: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill the command at random moments, every second time as soon as a save begins then, and let it finish at last.

    Returns how often it was killed, and how often inside of a save: that leaves a half-written file.
    """
    generator, killed, inside = random.Random(seed), 0, 0
    checkpoints = run / "checkpoints"
    while killed < kills:
        before = half_written(checkpoints)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(generator.uniform(2.5, 6))
            break
        except subprocess.TimeoutExpired:
            while killed % 2 and process.poll() is None and not half_written(checkpoints) - before:
                time.sleep(0)
            process.kill()
            process.wait()
            killed += 1
            inside += bool(half_written(checkpoints) - before)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return killed, inside


def half_written(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(".*")}


@pytest.mark.slow
def test_killed_at_random_it_ends_the_same(textures: Path, tmp_path: Path, whole: Path) -> None:
    """A state after each step, so that many a kill falls into a save."""
    config = settings(textures, tmp_path, checkpoint=CheckpointConfig(every_minutes=0))
    killed, _ = kill_and_resume(command(config, tmp_path), tmp_path / "test/1", kills=3, seed=0)
    assert killed >= 1
    assert_same_run(tmp_path / "test/1", whole)
    assert not list(tmp_path.rglob(".*"))


def test_a_log_that_cannot_be_written_stops_the_training_in_words(
    textures: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(textures, tmp_path, checkpoint=CheckpointConfig(every_minutes=0))
    original = Recorder.step

    def step(self: Recorder, line: Any) -> None:
        if line.step == 4:
            self._log.close()
            self._log = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115
        original(self, line)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "step", step)
        with pytest.raises(
            RunError, match=r"cannot write in .*test/1: No space left .* bytes free; .*--resume"
        ) as error:
            train(config)
    assert error.value.exit_code == 1
    saved = inspect_run(tmp_path / "test/1").state
    assert saved is not None
    assert saved.training["step"] == 3
    assert_same_run(train(dataclasses.replace(config, checkpoint=CheckpointConfig()), run=tmp_path / "test/1"), whole)


def test_a_full_disk_stops_the_training_and_leaves_the_state_before(
    textures: Path, tmp_path: Path, whole: Path
) -> None:
    config = settings(textures, tmp_path, checkpoint=CheckpointConfig(every_minutes=0))
    size = saved_states(whole)[0].stat().st_size
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from inceptionv4.training.run import state\n"
        "original, saves = state.save_checkpoint, 0\n"
        "def save(*arguments):\n"
        "    global saves\n"
        "    saves += 1\n"
        f"    if saves == 3: resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, resource.RLIM_INFINITY))\n"
        "    original(*arguments)\n"
        "state.save_checkpoint = save\n"
        "from inceptionv4.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    line = command(config, tmp_path)
    done = subprocess.run([sys.executable, "-c", code, *line[3:]], capture_output=True, text=True)
    assert done.returncode == 1
    words = re.search(r"step-00000003\.safetensors: .*, for ([\d,]+) bytes of .*, with [\d,]+ bytes free", done.stderr)
    assert words, done.stderr
    assert 0.9 * size < int(words[1].replace(",", "")) <= size
    assert "free some space" in done.stderr
    run = tmp_path / "test/1"
    found = inspect_run(run)
    assert found.state is not None
    assert (found.state.training["step"], found.unsound) == (2, {})
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    assert_same_run(train(dataclasses.replace(config, checkpoint=CheckpointConfig()), run=run), whole)
