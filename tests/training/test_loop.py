"""Training as a whole: it learns, it writes a complete run, it stops before damage."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import settings

from inceptionv4.config import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    load_config,
)
from inceptionv4.data.loader import Batch
from inceptionv4.errors import ConfigError, DivergedError, RunError
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.spec import Preprocessing
from inceptionv4.training import build_model
from inceptionv4.training.loop import train
from inceptionv4.training.optimizer import ModelEma
from inceptionv4.training.run.state import saved_states
from inceptionv4.training.schedule import learning_rate
from inceptionv4.training.train_step import TrainStep
from inceptionv4.weights.checkpoint import load_checkpoint, save_checkpoint


def config(data: Path, output: Path) -> Config:
    """A quarter of the width, one batch of epochs: seconds on two cores."""
    return Config(
        recipe="test",
        output=str(output),
        data=DataConfig(path=str(data), workers=0),
        image=Preprocessing(size=75, crop=1.0),
        augment=AugmentConfig(area=(0.5, 1.0)),
        model=ModelConfig(width=0.25),
        schedule=ScheduleConfig(epochs=3, warmup_epochs=0.5),
        training=TrainingConfig(batch_size=16, ema_decay=0.9, precision="fp32"),
    )


@pytest.fixture(scope="module")
def run(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(textures, tmp_path_factory.mktemp("runs")))


def test_it_learns(run: Path, textures: Path) -> None:
    evaluation = evaluate(run, textures)
    assert evaluation.metrics.images == 45
    assert evaluation.metrics.top1 >= 0.9


def test_a_run_folder_holds_everything_and_agrees_with_itself(run: Path, textures: Path) -> None:
    files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert files == [
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        *(f"checkpoints/step-000000{step}.safetensors" for step in (11, 22, 33)),
        "config.yaml",
        "environment.json",
        "log.jsonl",
        "plots/curves.png",
        "plots/inputs.png",
        "results.csv",
    ]
    assert run.parts[-2:] == ("test", "1")
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 34))  # 3 epochs of 180 // 16
    with (run / "results.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert [row["epoch"] for row in epochs] == ["1", "2", "3"]
    for row in epochs:
        losses = [step["loss"] for step in steps if step["epoch"] == int(row["epoch"])]
        assert float(row["train_loss"]) == pytest.approx(np.mean(losses), rel=1e-5)

    last, best = (load_checkpoint(run / "checkpoints" / f"{name}.safetensors") for name in ("last", "best"))
    assert last.training["metrics"]["top1"] == pytest.approx(float(epochs[-1]["top1"]), rel=1e-5)
    assert best.training["metrics"]["top1"] == pytest.approx(max(float(row["top1"]) for row in epochs), rel=1e-5)
    measured = dataclasses.asdict(evaluate(run, textures).metrics)  # by the rewritten network
    assert best.training["metrics"] == pytest.approx(measured, rel=1e-5)
    assert best.spec.classes == ("brick", "grass", "gravel")
    with Image.open(run / "plots/curves.png") as curves:
        assert curves.width > curves.height > 300


def test_the_saved_settings_repeat_the_run_to_the_last_bit(run: Path) -> None:
    again = train(load_config(file=run / "config.yaml"))
    assert again.parts[-2:] == ("test", "2")
    first, second = (load_checkpoint(folder / "checkpoints/last.safetensors").weights for folder in (run, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (run / "log.jsonl").read_text() == (again / "log.jsonl").read_text()


def results(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_an_evaluation_in_a_training_is_what_evaluate_finds(
    asked: Any, textures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a training in bf16 on a CPU: in fp32, if nothing else is asked for, and said wherever its figures are."""
    settings = config(textures, tmp_path)
    run = train(
        dataclasses.replace(
            settings,
            schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
            training=dataclasses.replace(settings.training, precision="bf16", eval_precision=asked, device="cpu"),
        )
    )
    (row,) = results(run)
    found = evaluate(run, textures, device="cpu")
    assert found.precision == "fp32"
    assert row["eval_precision"] == ("fp32" if asked == "auto" else "bf16")
    assert ("threads, bf16 (evaluated in fp32)" in capfd.readouterr().err) is (asked == "auto")
    same = float(row["val_loss"]) == pytest.approx(found.metrics.loss, rel=1e-5)
    assert same is (asked == "auto")


def test_results_of_a_version_without_precisions_go_on(run: Path, textures: Path, tmp_path: Path) -> None:
    """A resumed run keeps the rows that it has; what they do not say stays empty."""
    older = shutil.copytree(run, tmp_path / "test/1")
    table = (run / "results.csv").read_text().splitlines()
    (older / "results.csv").write_text("".join(row.rpartition(",")[0] + "\n" for row in table))
    for name in ("step-00000033", "last"):
        (older / f"checkpoints/{name}.safetensors").unlink()
    for path in saved_states(older):  # older states hold no results
        state = load_checkpoint(path)
        facts = {name: fact for name, fact in state.training.items() if name != "record"}
        save_checkpoint(dataclasses.replace(state, training=facts), path)
    train(dataclasses.replace(load_config(file=older / "config.yaml"), output=str(tmp_path)), run=older)
    rows = results(older)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["eval_precision"] for row in rows] == ["", "", "fp32"]
    assert [row["top1"] for row in rows] == [row["top1"] for row in results(run)]


def test_what_is_left_out_is_listed_after_its_epoch_and_sizes_at_the_start(
    textures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(textures, tmp_path / "data")
    (tmp_path / "data/train/grass/007.jpg").write_bytes(b"no image")
    settings = dataclasses.replace(
        config(tmp_path / "data", tmp_path),
        image=Preprocessing(size=107, crop=1.0),
        model=ModelConfig(width=0.1),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5, first_size=80),
        training=TrainingConfig(batch_size=15, precision="fp32"),  # an epoch has all 180 images
    )
    train(settings)
    said = capfd.readouterr().err
    assert "images grow from 107 to 107" not in said
    assert "(train/ and val/ folders)\n" in said
    assert said.count("skipped: ") == 1
    assert said.index("epoch 1/2") < said.index("skipped: ") < said.index("epoch 2/2  training loss")
    assert "train/grass/007.jpg" in said.partition("skipped: ")[2].replace("\n", "")
    train(dataclasses.replace(settings, schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5, first_size=75)))
    assert "images grow from 75 to 107 px" in capfd.readouterr().err


def test_another_seed_is_another_run(run: Path, textures: Path, tmp_path: Path) -> None:
    settings = config(textures, tmp_path)
    short = dataclasses.replace(settings, seed=1, schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5))
    other = train(short)
    losses = [json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"] for folder in (run, other)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("bad", ["nan", "inf", "gradient"])
def test_a_loss_that_is_no_number_stops_before_the_step(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    networks = []

    class Spoiled(build_model.InceptionV4):
        calls = 0

        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            networks.append(self)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            Spoiled.calls += 1
            logits = super().forward(images)
            if Spoiled.calls == 3:
                self.before = {name: value.detach().clone() for name, value in self.named_parameters()}
                if bad == "nan":
                    return logits * math.nan
                if bad == "inf":  # of one class that is never right, so that the loss itself is inf
                    return logits - torch.tensor([0.0, 0.0, math.inf])
                logits.register_hook(lambda gradient: gradient * float("inf"))
            return logits

    monkeypatch.setattr(build_model, "InceptionV4", Spoiled)
    with pytest.raises(DivergedError, match=r"diverged in step 3: .*\.jpg.*lower --optimizer\.lr") as error:
        train(config(textures, tmp_path))
    assert error.value.exit_code == 4
    for name, value in networks[0].named_parameters():
        assert torch.equal(value, networks[0].before[name]), name
    assert not list(tmp_path.rglob("*.safetensors"))
    assert len((tmp_path / "test/1/log.jsonl").read_text().splitlines()) == 2


def test_a_loss_that_is_no_number_leaves_the_states_that_were_saved(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state after each step: the last one is that before the bad step, and the run goes on from it."""
    settings = dataclasses.replace(
        config(textures / "val", tmp_path),
        model=ModelConfig(width=0.1),
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
        training=TrainingConfig(batch_size=9, ema_decay=0.9, precision="fp32"),
        checkpoint=CheckpointConfig(every_minutes=0),
    )
    original = TrainStep.step

    def spoil(self: TrainStep, batch: Batch, number: int, lr: float) -> Any:
        if number == 2:
            next(self.network.parameters()).register_hook(lambda gradient: gradient * math.nan)
        return original(self, batch, number, lr)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "step", spoil)
        with pytest.raises(DivergedError, match="diverged in step 3") as error:
            train(settings)
    assert error.value.exit_code == 4
    run = tmp_path / "test/1"
    assert [path.name for path in saved_states(run)] == [f"step-{step:08}.safetensors" for step in (2, 1)]
    last = load_checkpoint(run / "checkpoints/last.safetensors")
    assert last.training["step"] == 2
    assert all(torch.isfinite(value).all() for value in last.weights.values())
    train(settings, run=run)
    assert len((run / "log.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_answer_that_is_no_number_in_an_evaluation_ends_the_training_with_a_word(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Statistics that overflow while the loss is sound, at the end of the second epoch. In fp32 they are dead, and the
    state of the first epoch is not replaced; in another precision only the evaluation may be, and they are saved.
    """
    settings = dataclasses.replace(
        config(textures / "val", tmp_path),
        model=ModelConfig(width=0.1),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5),
        training=TrainingConfig(batch_size=15, ema_decay=0.9, precision="fp32", eval_precision=precision),
        checkpoint=CheckpointConfig(keep=1),
    )
    original = ModelEma.update

    def spoil(self: ModelEma) -> None:
        original(self)
        if self.steps == 4:
            next(self.network.buffers()).fill_(math.nan)

    with monkeypatch.context() as patched:
        patched.setattr(ModelEma, "update", spoil)
        with pytest.raises(DivergedError, match=r"diverged in epoch 2, by step 4: .*\.jpg: the answer of") as error:
            train(settings)
    assert error.value.exit_code == 4
    assert "lower --optimizer.lr or raise --schedule.warmup_epochs" in str(error.value)
    run = tmp_path / "test/1"
    with (run / "results.csv").open() as table:
        assert [row["epoch"] for row in csv.DictReader(table)] == ["1"]
    (state,) = saved_states(run)
    if precision == "bf16":
        assert (state.name, "--training.eval_precision fp32" in str(error.value)) == ("step-00000004.safetensors", True)
        return
    assert (state.name, "was not replaced" in str(error.value)) == ("step-00000002.safetensors", True)
    train(settings, run=run)
    assert len((run / "results.csv").read_text().splitlines()) == 3


def test_an_overflow_in_fp16_advances_no_step_and_no_rate(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three batches in a row overflow: steps, rates and the average's count go on where they were before."""
    settings = dataclasses.replace(
        config(textures, tmp_path),
        model=ModelConfig(width=0.1),
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
        training=TrainingConfig(batch_size=16, ema_decay=0.9, precision="fp16"),
    )
    original, rates, skipped = TrainStep.step, [], []

    def overflow(self: TrainStep, batch: Batch, number: int, lr: float) -> Any:
        bad = number == 2 and len(skipped) < 3
        self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": 2.0**100 if bad else 2.0**7})
        step = original(self, batch, number, lr)
        assert (step is None) is bad
        (skipped if bad else rates).append((number, lr))
        return step

    monkeypatch.setattr(TrainStep, "step", overflow)
    run = train(settings)
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    expected = [learning_rate(number, settings, 11) for number in range(8)]
    assert skipped == [(2, expected[2])] * 3
    assert [step["step"] for step in steps] == list(range(1, 9))  # of eleven batches
    assert rates == list(enumerate(expected))
    assert [step["learning_rate"] for step in steps] == pytest.approx(expected)
    last = load_checkpoint(run / "checkpoints/last.safetensors")
    assert (last.training["step"], last.training["average_steps"]) == (8, 8)
    assert capfd.readouterr().err.count("moved nothing") == 3


@pytest.mark.slow
def test_rmsprop_trains_too(textures: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        config(textures, tmp_path),
        optimizer=OptimizerConfig(name="rmsprop", lr=0.02, eps=1.0, weight_decay=4e-5),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5),
    )
    run = train(settings)
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_mistakes_cost_nothing_and_leave_nothing(textures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not set.*--data FOLDER"):
        train(Config(output=str(tmp_path / "runs")))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make a run folder in .*file/test.*--output FOLDER"):
        train(config(textures, tmp_path / "file"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_held_out_images_are_known_again_and_others_all_count(textures: Path, tmp_path: Path) -> None:
    """A folder without val: the model is measured on what it has not seen, wherever the folder is by then."""
    photos = tmp_path / "photos"
    for file in (textures / "train").rglob("*.jpg"):
        target = photos / file.relative_to(textures / "train")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    settings = config(photos, tmp_path / "runs")
    run = train(dataclasses.replace(settings, schedule=ScheduleConfig(epochs=1, warmup_epochs=0.0)))
    moved = photos.rename(tmp_path / "moved")
    held_out = evaluate(run, moved)
    assert (held_out.metrics.images, held_out.images) == (36, f"the images of {moved} that were held out from training")
    everything = evaluate(run, textures / "val")
    assert (everything.metrics.images, everything.images) == (45, f"all images of {textures / 'val'}")
    moved.rename(photos)
    (photos / "grass" / "new.jpg").write_bytes((photos / "grass" / "001.jpg").read_bytes())
    changed = evaluate(run, photos)
    assert changed.metrics.images == 181
    assert "it has seen many of these" in changed.images


def test_class_weights_and_balanced_sampling_change_the_training(textures: Path, tmp_path: Path) -> None:
    """Of 60 bricks, 60 grasses and 6 gravels, the gravels' share of the loss grows; each setting is its own run."""
    shutil.copytree(textures, tmp_path / "data")
    for path in sorted((tmp_path / "data/train/gravel").iterdir())[6:]:
        path.unlink()
    losses = {}
    for name, change in (
        ("plain", {}),
        ("weighted", {"loss": {"class_weights": "balanced"}}),
        ("balanced", {"data": {"sampling": "balanced"}}),
    ):
        settings = config(tmp_path / "data", tmp_path / name)
        settings = dataclasses.replace(settings, schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5))
        for section, values in change.items():
            changed = dataclasses.replace(getattr(settings, section), **values)
            settings = dataclasses.replace(settings, **{section: changed})
        log = (train(settings) / "log.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in log]
    # The first step sees other images, or weighs the same ones otherwise.
    assert len({run[0] for run in losses.values()}) == 3


def test_tensorboard_gets_the_figures_of_the_log(textures: Path, tmp_path: Path, run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(textures, tmp_path)
    settings = dataclasses.replace(
        settings,
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
        training=dataclasses.replace(settings.training, tracker="tensorboard"),
    )
    tracked = train(settings)
    events = EventAccumulator(str(tracked / "tensorboard"))
    events.Reload()
    steps = [json.loads(line) for line in (tracked / "log.jsonl").read_text().splitlines()]
    for name in ("loss", "learning_rate", "gradient_norm"):
        scalars = events.Scalars(f"training/{name}")
        assert [scalar.step for scalar in scalars] == [step["step"] for step in steps]
        assert [scalar.value for scalar in scalars] == pytest.approx([step[name] for step in steps])
    last = load_checkpoint(tracked / "checkpoints/last.safetensors")
    assert [scalar.value for scalar in events.Scalars("held out/top1")] == pytest.approx(
        [last.training["metrics"]["top1"]]
    )


def test_the_curves_can_be_drawn_again(run: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    before = (run / "plots/curves.png").read_bytes()
    (run / "plots/curves.png").unlink()
    assert command("plot", run).out == f"{run}/plots/curves.png\n"
    assert (run / "plots/curves.png").read_bytes() == before
    nothing = command("plot", tmp_path)
    assert (nothing.code, "is no run folder" in nothing.err) == (2, True)


def test_the_inputs_are_drawn_as_the_network_saw_them(run: Path) -> None:
    with Image.open(run / "plots/inputs.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert picture.height > 300
    # Sixteen tiles in two rows of eight, each of some texture.
    tile = pixels[10:154, 10:154]
    assert tile.std() > 5


@pytest.mark.parametrize(("name", "power"), [("sgd", 1.0), ("rmsprop", 1.0), ("adamw", 0.5)])
def test_a_batch_of_all_images_there_are_has_the_rate_of_its_own_size(
    textures: Path, tmp_path: Path, name: str, power: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """4,096 images are asked for, and there are 180: the rate is for 180."""
    config = settings(
        textures,
        tmp_path,
        optimizer=OptimizerConfig(name=name, lr=0.01, reference_batch=90),  # type: ignore[arg-type]
        training=TrainingConfig(batch_size=4096),
        schedule=ScheduleConfig(name="constant", epochs=2, warmup_epochs=0),
    )
    run = Path(train(config))
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    rates = [line["learning_rate"] for line in lines if "step" in line and "learning_rate" in line]
    assert rates == pytest.approx([0.01 * 2**power] * 2)
    assert "a batch has 180 images, not training.batch_size 4,096: there are no more; the learning rate is for 180" in (
        capsys.readouterr().err
    )
