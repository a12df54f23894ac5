"""What is missing, damaged or out of place in a run: it ends as if nothing had been, or nothing sound is touched."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
from runs import assert_same_run, settings, stop_after

from inceptionv4.config import CheckpointConfig, Config, ScheduleConfig, TrainingConfig, load_config
from inceptionv4.errors import Error, RunError, StoppedError, UsageError
from inceptionv4.evaluation.metrics import Metrics
from inceptionv4.training import loop
from inceptionv4.training.loop import train
from inceptionv4.training.run.find import find_run
from inceptionv4.training.run.recovery import inspect_run
from inceptionv4.training.run.state import saved_states
from inceptionv4.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

STATE = "checkpoints/step-{:08}.safetensors"
LAST, BEST = "checkpoints/last.safetensors", "checkpoints/best.safetensors"


def short(data: Path, output: Path, epochs: int = 2, **checkpoint: float) -> Config:
    """Two epochs of six steps."""
    return settings(
        data,
        output,
        seed=3,  # by which the second epoch is the better one
        training=TrainingConfig(batch_size=30, ema_decay=0.9, precision="fp32"),
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=0.5),
        checkpoint=CheckpointConfig(**checkpoint),
    )


@pytest.fixture(scope="module", autouse=True)
def smooth_accuracy() -> Iterator[None]:
    """The loss decides which epoch is the best: on 45 images, top-1 differs by chance from processor to processor."""
    plain = loop.evaluate_backend
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            loop,
            "evaluate_backend",
            lambda *given, **options: _smooth(plain(*given, **options)),
        )
        yield


def _smooth(metrics: Metrics) -> Metrics:
    return dataclasses.replace(metrics, top1=math.exp(-metrics.loss))


@pytest.fixture(scope="module")
def finished(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, with a state after each; the better epoch is the second."""
    run = Path(train(short(textures, tmp_path_factory.mktemp("finished"))))
    assert load_checkpoint(run / BEST).training["epoch"] == 2
    return run


@pytest.fixture(scope="module")
def stopped(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stopped after step 8, with states after steps 6, 7 and 8."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patched:
        stop_after(8, signal.SIGTERM, patched)
        with pytest.raises(StoppedError):
            train(short(textures, folder, every_minutes=0))
    run = folder / "test/1"
    assert [path.name for path in saved_states(run)] == [Path(STATE.format(step)).name for step in (8, 7, 6)]
    return run


def copy_of(run: Path, folder: Path) -> Path:
    """A copy in which `last` and the newest state are one file, as they were."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", str(run), str(folder / "copy")], check=True)
    return folder / "copy"


def flip(path: Path, place: int) -> None:
    """Flip a bit in place, under all names of the file."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def contents(run: Path) -> dict[str, str]:
    files = (path for path in run.rglob("*") if path.is_file())
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(config: Config, run: Path, match: str) -> str:
    """See that the run cannot be gone on with, and that nothing in it changes; returns what is said."""
    before = contents(run)
    with pytest.raises(RunError, match=match) as error:
        train(config, run=run)
    assert contents(run) == before
    return str(error.value)


def test_without_its_states_a_run_goes_on_from_last(
    textures: Path, tmp_path: Path, finished: Path, stopped: Path
) -> None:
    run = copy_of(stopped, tmp_path)
    for path in saved_states(run):
        path.unlink()
    assert_same_run(Path(train(short(textures, tmp_path), run=run)), finished)
    # Of a finished run, too; and `last` is a file of its own after a copy.
    run = Path(shutil.copytree(finished, tmp_path / "another"))
    for path in saved_states(run):
        path.unlink()
    assert_same_run(Path(train(short(textures, tmp_path), run=run)), finished)
    assert [path.name for path in saved_states(run)] == [Path(STATE.format(12)).name]
    assert (run / LAST).samefile(saved_states(run)[0])


def test_a_run_with_nothing_but_its_model_is_not_begun_anew(textures: Path, tmp_path: Path, finished: Path) -> None:
    run = copy_of(finished, tmp_path)
    config = dataclasses.replace(short(textures, tmp_path), output=str(run.parents[1]))
    for path in [*saved_states(run), run / LAST]:
        path.unlink()
    said = refused(config, run, r"no state to go on from: no step-\*\.safetensors and no last")
    assert said.endswith(f"with `inceptionv4 train --resume {run} --model.weights {run}`")
    (run / LAST).write_bytes((run / BEST).read_bytes())  # a model, not a state
    refused(config, run, "holds a model, but no state")
    (run / BEST).write_bytes(b"damaged")
    said = refused(config, run, "holds a model, but no state")
    assert f"--model.weights {run / LAST}`" in said
    for name in (BEST, LAST):
        (run / name).unlink()
    refused(config, run, "begin a new run")  # two epochs are in results.csv


def test_a_run_whose_states_are_all_damaged_is_not_begun_anew(textures: Path, tmp_path: Path, stopped: Path) -> None:
    run = copy_of(stopped, tmp_path)
    for path in saved_states(run):
        flip(path, path.stat().st_size // 2)
    said = refused(short(textures, tmp_path), run, "no state to go on from")
    assert said.count("is damaged") == 3
    assert f"--model.weights {run}`" in said


def test_what_is_refused_names_a_command_that_works(
    textures: Path, tmp_path: Path, finished: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/test/1"
    shutil.copytree(finished, run)
    for path in [*saved_states(run), run / LAST]:
        path.unlink()
    before = contents(run)
    ended = command("train", "--resume", run)
    assert (ended.code, "Nothing was changed" in ended.err) == (1, True)
    words = ended.err.rpartition("`inceptionv4 ")[2].partition("`")[0].split()
    began = command(*words, "--output", tmp_path / "runs", "--schedule.epochs", "1")
    assert began.code == 0, began.err
    assert began.out.strip() == str(tmp_path / "runs/test/2")
    assert contents(run) == before
    assert load_config(file=tmp_path / "runs/test/2/config.yaml").model.weights == str(run)


def test_a_run_that_saved_nothing_begins_again(textures: Path, tmp_path: Path, finished: Path) -> None:
    """Killed before its first state, or between its first evaluation and the state."""
    run = copy_of(finished, tmp_path)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    results = (run / "results.csv").read_text().splitlines(keepends=True)
    (run / "results.csv").write_text("".join(results[:2]))
    assert_same_run(Path(train(short(textures, tmp_path), run=run)), finished)


def test_damaged_states_do_not_count_as_kept(
    textures: Path, tmp_path: Path, finished: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest is damaged, and one state is kept: what is saved from here on stays, and the damaged one, too."""
    run = copy_of(stopped, tmp_path)
    flip(run / STATE.format(8), 5000)
    damaged = (run / STATE.format(8)).read_bytes()
    config = short(textures, tmp_path, keep=1)
    with monkeypatch.context() as patched:
        stop_after(9, signal.SIGTERM, patched)
        with pytest.raises(StoppedError, match="everything is saved"):
            train(config, run=run)
    assert [path.name for path in saved_states(run)] == [Path(STATE.format(9)).name]
    assert load_checkpoint(run / LAST).training["step"] == 9
    assert (run / "aside/step-00000008.safetensors").read_bytes() == damaged
    # A damaged file that comes while the training goes on counts as little.
    (run / STATE.format(99)).write_bytes(b"damaged")
    assert_same_run(Path(train(config, run=run)), finished)
    assert [path.name for path in saved_states(run)] == [Path(STATE.format(12)).name]


def test_states_out_of_place_are_set_aside(
    textures: Path, tmp_path: Path, finished: Path, stopped: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One under the name of a later step, and one of a run with other weights."""
    other = Path(train(dataclasses.replace(short(textures, tmp_path / "other"), seed=1)))
    run = copy_of(stopped, tmp_path)
    shutil.copyfile(run / STATE.format(7), run / STATE.format(11))
    shutil.copyfile(other / STATE.format(12), run / STATE.format(12))
    assert_same_run(Path(train(short(textures, tmp_path), run=run)), finished)
    said = capfd.readouterr().err.replace("\n", " ")
    assert "step-00000011.safetensors holds the state after step 7" in said
    assert "step-00000012.safetensors is of another run than environment.json says" in said
    aside = {path.name for path in (run / "aside").glob("*.safetensors")}
    assert aside == {f"step-{step:08}.safetensors" for step in (11, 12)}


def test_states_of_two_runs_without_a_name_are_refused(textures: Path, tmp_path: Path, stopped: Path) -> None:
    other = Path(train(dataclasses.replace(short(textures, tmp_path / "other"), seed=1)))
    run = copy_of(stopped, tmp_path)
    shutil.copyfile(other / STATE.format(12), run / STATE.format(12))
    (run / "environment.json").unlink()
    refused(short(textures, tmp_path), run, "holds states of more than one run")


def test_a_lost_best_model_is_made_again_or_missed(
    textures: Path, tmp_path: Path, finished: Path, stopped: Path
) -> None:
    """After step 8 the best is the first epoch's, which the state after step 6 has and those after it have not."""
    config = short(textures, tmp_path)
    for number, damage in enumerate((Path.unlink, lambda path: flip(path, 9000))):
        run = copy_of(stopped, tmp_path / str(number))
        damage(run / BEST)
        lost = contents(run)
        shutil.move(run / STATE.format(6), tmp_path / "state")
        said = refused(config, run, "that model would be lost. Nothing was changed")
        shutil.move(tmp_path / "state", run / STATE.format(6))
        assert contents(run) == lost
        assert_same_run(Path(train(config, run=run)), finished)
    # What the message says works: the newest model takes its place.
    run = copy_of(stopped, tmp_path / "copied")
    (run / BEST).unlink()
    (run / STATE.format(6)).unlink()
    said = refused(config, run, "would be lost")
    subprocess.run(said.rpartition("by `")[2].rstrip("`").split(), check=True)
    assert_same_run(Path(train(config, run=run)), finished)


def test_a_better_model_of_a_lost_epoch_stays(textures: Path, tmp_path: Path, finished: Path) -> None:
    """The state of the second epoch is damaged. Its model, the best, is not replaced while that epoch is repeated."""
    run = copy_of(finished, tmp_path)
    best = load_checkpoint(run / BEST)
    # As if the first epoch had never been evaluated, so that the epoch which is repeated now is the best so far.
    better = {**best.training, "metrics": {**best.training["metrics"], "top1": 1.5}}
    save_checkpoint(Checkpoint(best.weights, best.spec, better), run / BEST)
    before = (run / BEST).read_bytes()
    flip(run / STATE.format(12), 9000)
    train(short(textures, tmp_path), run=run)
    assert load_checkpoint(run / LAST).training["step"] == 12
    assert (run / BEST).read_bytes() == before


def test_last_is_sound_again_when_it_was_the_damaged_state(textures: Path, tmp_path: Path, stopped: Path) -> None:
    """They are two names of one file; `predict` looks for `last` as soon as the run has gone on."""
    run = copy_of(stopped, tmp_path)
    assert (run / LAST).samefile(run / STATE.format(8))
    flip(run / LAST, 9000)
    found = inspect_run(run)
    found.apply()
    assert load_checkpoint(run / LAST).training["step"] == 7
    assert (run / LAST).samefile(run / STATE.format(7))


def fail_to_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original = safetensors.safe_open

    def read(path: Path, **options: Any) -> Any:
        if Path(path).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(path, **options)

    monkeypatch.setattr(safetensors, "safe_open", read)


@pytest.mark.parametrize("name", [STATE.format(8), STATE.format(7), BEST])
def test_what_cannot_be_read_now_is_not_called_damaged(
    name: str, textures: Path, tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk or a network that fails for a moment: the state may be read again later."""
    run = copy_of(stopped, tmp_path)
    fail_to_read(monkeypatch, Path(name).name)
    said = refused(short(textures, tmp_path), run, f"{Path(name).name} cannot be read: Input/output error")
    assert "Nothing was changed" in said


@pytest.mark.parametrize("fact", [None, 7, [], {}, {"step": "x"}, {"step": 8, "bad": []}])
def test_a_state_of_another_version_is_refused(fact: object, textures: Path, tmp_path: Path, stopped: Path) -> None:
    run = copy_of(stopped, tmp_path)
    state = load_checkpoint(run / STATE.format(8))
    save_checkpoint(dataclasses.replace(state, training={**state.training, "position": fact}), run / STATE.format(8))
    refused(short(textures, tmp_path), run, "step-00000008.* was written by another version")


def test_odd_things_in_a_run(textures: Path, tmp_path: Path, finished: Path, stopped: Path) -> None:
    """A link to nothing and a folder for a state are refused; a folder for the log, too, before anything is moved."""
    config = short(textures, tmp_path)
    run = copy_of(stopped, tmp_path)
    odd = run / STATE.format(9)
    odd.symlink_to(tmp_path / "nothing")
    refused(config, run, "step-00000009.safetensors cannot be read: No such file")
    odd.unlink()
    odd.mkdir()
    refused(config, run, "step-00000009.safetensors cannot be read: ")
    odd.rmdir()
    flip(run / STATE.format(8), 9000)
    log = (run / "log.jsonl").rename(tmp_path / "log")
    (run / "log.jsonl").mkdir()
    refused(config, run, "cannot read .*log.jsonl: Is a directory")
    (run / "log.jsonl").rmdir()
    log.rename(run / "log.jsonl")
    (run / "checkpoints/.tmpabcdef").mkdir()
    shutil.rmtree(run / "plots")
    assert_same_run(Path(train(config, run=run)), finished)
    assert (run / "plots/curves.png").exists()


def test_a_run_that_begins_again_keeps_its_log_and_says_so(
    textures: Path, tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All states of the first epoch are gone, with their folder: there may have been hours of it."""
    run = copy_of(finished, tmp_path)
    shutil.rmtree(run / "checkpoints")
    (run / "results.csv").unlink()
    log = (run / "log.jsonl").read_bytes()
    capfd.readouterr()
    assert_same_run(Path(train(short(textures, tmp_path), run=run)), finished)
    said = capfd.readouterr().err.replace("\n", " ")
    assert f"no state had been saved, so that it begins again the log as it was found is {run}/aside/log.jsonl" in said
    assert (run / "aside/log.jsonl").read_bytes() == log


def test_curves_that_cannot_be_drawn_hide_nothing(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    stop_after(7, signal.SIGTERM, monkeypatch)
    with pytest.raises(StoppedError, match="SIGTERM after step 7; everything is saved"):
        train(short(textures, tmp_path))
    assert "no curves drawn: " in capfd.readouterr().err


def test_a_run_of_an_older_version_goes_on(textures: Path, tmp_path: Path, finished: Path, stopped: Path) -> None:
    """Its states have no name of the run, no results and no labels, and call the precision `auto`."""
    run = copy_of(stopped, tmp_path)
    for path in (run / "checkpoints").iterdir():
        state = load_checkpoint(path)
        facts = {name: fact for name, fact in state.training.items() if name not in ("run", "record", "machines")}
        facts["data"] = {name: fact for name, fact in facts["data"].items() if name != "labels"}
        facts["config"]["training"] |= {"precision": "auto"}
        del facts["config"]["training"]["eval_precision"]
        save_checkpoint(dataclasses.replace(state, training=facts), path)
    described = json.loads((run / "environment.json").read_text())
    assert described.pop("run")
    assert described["device"].endswith(", fp32")
    (run / "environment.json").write_text(json.dumps(described))
    config = short(textures, tmp_path)
    asked = dataclasses.replace(config, training=dataclasses.replace(config.training, precision="auto"))
    train(asked, run=run)
    assert_same_run(run, finished)
    assert load_checkpoint(run / LAST).training["config"]["training"]["precision"] == "fp32"
    # Where nothing says any more what `auto` was, it has to be given.
    run = tmp_path / "copy"
    (run / "environment.json").unlink()
    for path in (run / "checkpoints").iterdir():
        state = load_checkpoint(path)
        state.training["config"]["training"]["precision"] = "auto"  # type: ignore[index]
        save_checkpoint(state, path)
    with pytest.raises(UsageError, match=r"does not say any more in which precision .*`--training\.precision fp32`"):
        train(asked, run=run)
    assert train(config, run=run) == run


FLIPPED = {
    "safetensors": (0, 3, 8, 40, 2000, 6000, -20000, -1),
    "jsonl": (0, 30, 200, -2, -1),
    "csv": (0, 20, 150, -2, -1),
    "json": (0, 12, 60, -2),
    "yaml": (0, 8, 60, 700, -3),
}
"""Places in a file at which a bit is flipped, by its kind: in what it says of itself, in its middle, at its end."""
FILES = (BEST, LAST, STATE.format(6), STATE.format(12), "log.jsonl", "results.csv", "environment.json", "config.yaml")


def resume_damaged(textures: Path, run: Path, finished: Path, damage: Callable[[Path], None], name: str) -> str:
    """Damage a file of a copied run, go on, and see that it ends as the finished one or that all else is untouched."""
    before = contents(run)
    damage(run / name)
    after = contents(run)
    unhurt = {file for file in before if after.get(file) == before[file]}
    try:
        config = load_config(file=run / "config.yaml") if (run / "config.yaml").exists() else short(textures, run)
        train(config, run=find_run(config, str(run)))
    except Error:
        now = contents(run)
        touched = {file for file in unhurt if now.get(file) != before[file]}
        return f"touched {touched}" if touched else "refused"
    if name == "config.yaml" and load_config(file=run / name).schedule != short(textures, run).schedule:
        return "told"  # more epochs may be asked for there
    log = (run / "log.jsonl").read_bytes() != (finished / "log.jsonl").read_bytes()
    if log:  # the one file that no state can bring back: as it was found, it is still there
        assert name == "log.jsonl"
        assert name not in after or after[name] in contents(run / "aside").values()
        shutil.copyfile(finished / "log.jsonl", run / "log.jsonl")
    assert_same_run(run, finished)
    return "a gap in the log" if log else "the same end"


@pytest.mark.parametrize("linked", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["linked", "copied"])
def test_any_one_file_lost(linked: bool, textures: Path, tmp_path: Path, finished: Path) -> None:
    """`linked` is whether `last` and the newest state are one file, which a copy of the run may lose."""
    outcomes = {}
    everything = [path.relative_to(finished).as_posix() for path in sorted(finished.rglob("*")) if path.is_file()]
    assert set(FILES) < set(everything)
    for number, name in enumerate(everything):
        run = tmp_path / str(number) / "copy"
        if linked:
            copy_of(finished, run.parent)
        else:
            shutil.copytree(finished, run)
        outcomes[name] = resume_damaged(textures, run, finished, Path.unlink, name)
    assert {name for name, outcome in outcomes.items() if outcome != "the same end"} == {"log.jsonl"}


@pytest.mark.parametrize(
    ("name", "linked"),
    [
        pytest.param(name, linked, marks=[] if (name, linked) in FAST else pytest.mark.slow)
        for FAST in [{("log.jsonl", True)}]
        for name in FILES
        for linked in (True, False)
    ],
)
def test_any_one_bit_flipped(name: str, linked: bool, textures: Path, tmp_path: Path, finished: Path) -> None:
    outcomes = set()
    for place in FLIPPED[name.rpartition(".")[2]]:
        run = tmp_path / str(place) / "copy"
        if linked:
            copy_of(finished, run.parent)
        else:
            shutil.copytree(finished, run)
        where = place if place >= 0 else (run / name).stat().st_size + place
        outcomes.add(resume_damaged(textures, run, finished, lambda path, where=where: flip(path, where), name))
        shutil.rmtree(run)
    assert outcomes <= {"the same end", "refused", "told", "a gap in the log"}
    if name.startswith("checkpoints/"):
        assert outcomes == {"the same end"}
