"""What a training sees after a stop is what it would have seen: the same samples, the same pixels, step by step."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run, settings, stop_after

from inceptionv4.config import CheckpointConfig, Config, DataConfig, ScheduleConfig, TrainingConfig
from inceptionv4.errors import StoppedError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.settings import dump
from inceptionv4.training import loop
from inceptionv4.training.loop import train
from inceptionv4.training.train_step import TrainStep
from inceptionv4.weights import checkpoint

STEPS = 11
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def one_epoch(data: Path, output: Path, workers: int, accumulate: int) -> Config:
    return settings(
        data,
        output,
        data=DataConfig(path=str(data), workers=workers, sampling="balanced"),
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
        training=TrainingConfig(batch_size=16, ema_decay=0.9, precision="fp32", accumulate=accumulate),
        checkpoint=CheckpointConfig(every_minutes=0),
    )


def note_batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int], str]]:
    """Of each step from here on its number, its samples and a hash of their pixels."""
    seen: list[tuple[int, list[int], str]] = []
    original = TrainStep.step

    def step(self: TrainStep, batch: Any, number: int, lr: float) -> Any:
        pixels = hashlib.sha256(batch.images.numpy().tobytes())
        if batch.color_factors is not None:
            pixels.update(batch.color_factors.numpy().tobytes())
        seen.append((number, batch.indices.tolist(), pixels.hexdigest()))
        return original(self, batch, number, lr)

    monkeypatch.setattr(TrainStep, "step", step)
    return seen


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("accumulate", "stops", "workers"),
    [
        (2, (10,), (3,)),
        *(pytest.param(count, (0, 1, 10, STEPS), (0, 1, 3), marks=pytest.mark.slow) for count in (1, 2, 3)),
    ],
)
def test_the_rest_of_an_epoch_is_the_same(
    accumulate: int,
    stops: tuple[int, ...],
    workers: tuple[int, ...],
    textures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped before its first step, after the first, after the tenth, and after its last; with other workers."""
    with monkeypatch.context() as patched:
        whole = note_batches(patched)
        train(one_epoch(textures, tmp_path / "whole", 0, accumulate))
    assert len(whole) == STEPS
    assert len({pixels for _, _, pixels in whole}) == STEPS
    for stop, count in itertools.product(stops, workers):
        folder = tmp_path / f"{stop} {count}"
        config = one_epoch(textures, folder, count, accumulate)
        with monkeypatch.context() as patched:
            if stop:
                stop_after(stop, signal.SIGTERM, patched)
            else:
                patched.setattr(loop, "draw_inputs", interrupt)  # which comes before the first step
            with pytest.raises((StoppedError, KeyboardInterrupt)):
                train(config)
        with monkeypatch.context() as patched:
            rest = note_batches(patched)
            train(one_epoch(textures, folder, 3 - count, accumulate), run=folder / "test/1")
        assert rest == whole[stop:], (stop, count)
        assert_same_run(folder / "test/1", tmp_path / "whole/test/1")


PLACES = ("forward", "evaluation", "save")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", PLACES)
def test_each_signal_in_each_place_saves_first(
    place: str, number: signal.Signals, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = one_epoch(textures, tmp_path, 0, 1)
    owner, name = {
        "forward": (InceptionV4, "forward"),
        "evaluation": (loop, "evaluate_backend"),
        "save": (checkpoint, "_write"),
    }[place]
    original, calls = getattr(owner, name), itertools.count(1)

    def spoilt(*arguments: Any, **options: Any) -> Any:
        if next(calls) == (1 if place == "evaluation" else 5):
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, spoilt)
        with pytest.raises(StoppedError, match=rf"{number.name} after step \d+; everything is saved") as error:
            train(config)
    assert error.value.exit_code == SIGNALS[number]
    whole = train(one_epoch(textures, tmp_path / "whole", 0, 1))
    assert_same_run(Path(train(config, run=tmp_path / "test/1")), Path(whole))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [*itertools.product(SIGNALS, SIGNALS)])
def test_a_second_signal_in_a_save_leaves_the_state_before(
    first: signal.Signals, second: signal.Signals, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = one_epoch(textures, tmp_path, 0, 1)
    original = checkpoint._write

    def write(tensors: Any, metadata: Any, path: Path) -> None:
        original(tensors, metadata, path)
        if ".step-00000007." in path.name:
            os.kill(os.getpid(), second)

    with monkeypatch.context() as patched:
        stop_after(7, first, patched)
        patched.setattr(checkpoint, "_write", write)
        with pytest.raises(StoppedError, match="by a second signal; the last saved state is sound") as error:
            train(config)
    assert error.value.exit_code == SIGNALS[second]
    run = tmp_path / "test/1"
    assert checkpoint.load_checkpoint(run / "checkpoints/last.safetensors").training["step"] == 6
    whole = train(one_epoch(textures, tmp_path / "whole", 0, 1))
    assert_same_run(Path(train(config, run=run)), Path(whole))


FULL = """
set -e
mount -t tmpfs -o size={small} tmpfs {disk}
status=0
{python} -m inceptionv4 train --config {settings} || status=$?
ls -a {disk}/test/1/checkpoints >&2
mount -o remount,size=200M {disk}
{python} -m inceptionv4 train --config {settings} --resume auto
cp -r {disk}/test/1 {kept}
exit $status
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(textures: Path, tmp_path: Path) -> None:
    """A small tmpfs in a namespace of its own has room for three states and no more; later there is room."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("file systems may not be mounted here")
    whole = Path(train(one_epoch(textures, tmp_path / "whole", 0, 1)))
    size = (whole / "checkpoints/last.safetensors").stat().st_size
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "settings.yaml").write_text(dump(one_epoch(textures, disk, 0, 1)))
    script = FULL.format(
        small=int(3.5 * size),
        disk=disk,
        python=sys.executable,
        settings=tmp_path / "settings.yaml",
        kept=tmp_path / "kept",
    )
    done = subprocess.run([unshare, "-m", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stderr.split())
    assert f"error: cannot write {disk}/test/1/checkpoints/step-0000000" in said
    print(said.partition("error: ")[2].partition("; free some space")[0])
    listed = done.stderr.partition("free some space")[2].splitlines()
    assert not [name for name in listed if name.startswith(".") and name not in (".", "..")]
    assert "going on after step" in said.partition("free some space")[2]
    assert_same_run(tmp_path / "kept", whole)
