"""Which settings a run goes on with: its own, by their meaning; others where they change nothing; no others."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import settings

from inceptionv4.config import Config, LossConfig, ScheduleConfig, TrainingConfig, load_config
from inceptionv4.errors import DataError, UsageError
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.settings import Given, build, dump, flatten
from inceptionv4.training.loop import train
from inceptionv4.training.run import resumption
from inceptionv4.training.run.find import find_run
from inceptionv4.training.run.folder import RunFolder
from inceptionv4.training.run.history import read_log
from inceptionv4.training.run.settings import MAY_CHANGE, differences, recorded_settings, settle
from inceptionv4.training.schedule import learning_rate
from inceptionv4.weights.checkpoint import load_checkpoint, save_checkpoint

OTHER: dict[str, Any] = {
    "recipe": "other",
    "output": "elsewhere",
    "seed": 1,
    "data.path": "elsewhere",
    "data.val_fraction": 0.3,
    "data.layout": "folder",
    "data.label_column": "breed",
    "data.image_column": "picture",
    "data.split_column": "part",
    "data.group_column": "patient",
    "data.train": "one",
    "data.val": "two",
    "data.test": "three",
    "data.sampling": "balanced",
    "data.repeats": 2,
    "data.on_error": "raise",
    "data.scaled_decoding": False,
    "data.workers": 3,
    "image.size": 331,
    "image.crop": 0.8,
    "image.crop_mode": "border",
    "image.mean": [0.5, 0.5, 0.4],
    "image.std": [0.5, 0.5, 0.4],
    "image.interpolation": "bilinear",
    "image.exif_orientation": False,
    "augment.area": [0.2, 1.0],
    "augment.aspect": [0.8, 1.25],
    "augment.flip": 0.1,
    "augment.rotate": 3,
    "augment.mixup": 0.3,
    "augment.cutmix": 0.3,
    "augment.policy": "augmix",
    "augment.policy_operations": 3,
    "augment.policy_strength": 8,
    "augment.erase": 0.1,
    "augment.color": 0.1,
    "model.width": 0.5,
    "model.dropout": 0.3,
    "model.weights": "others",
    "optimizer.name": "sgd",
    "optimizer.lr": 0.5,
    "optimizer.reference_batch": 64,
    "optimizer.weight_decay": 0.1,
    "optimizer.betas": [0.8, 0.99],
    "optimizer.momentum": 0.8,
    "optimizer.decay": 0.8,
    "optimizer.eps": 1.0,
    "optimizer.layer_decay": 0.9,
    "optimizer.clip_norm": None,
    "schedule.name": "linear",
    "schedule.epochs": 31,
    "schedule.warmup_epochs": 2.0,
    "schedule.first_size": 128,
    "schedule.final_factor": 0.1,
    "schedule.decay_epochs": 3.0,
    "schedule.decay_factor": 0.9,
    "loss.name": "bce",
    "loss.smoothing": 0.2,
    "loss.focal_gamma": 1.0,
    "loss.teacher": "others",
    "loss.teacher_share": 0.4,
    "loss.teacher_temperature": 2.0,
    "loss.class_weights": "balanced",
    "training.batch_size": 16,
    "training.freeze": "stem",
    "training.patience": 3,
    "training.accumulate": 2,
    "training.ema_decay": 0.9,
    "training.precision": "bf16",
    "training.eval_precision": "bf16",
    "training.sync_norms": True,
    "training.tracker": "tensorboard",
    "training.compile": "blocks",
    "training.activation_checkpointing": "blocks",
    "training.device": "cpu",
    "checkpoint.keep": 1,
    "checkpoint.every_minutes": 1.0,
}
"""Another value for each setting there is."""
BEGUN = dataclasses.replace(Config(), training=TrainingConfig(precision="fp32", eval_precision="fp32"))


def change(config: Config, key: str, value: Any) -> Config:
    return build(Config, {name: Given(old, name) for name, old in flatten(config).items()} | {key: Given(value, key)})


def test_every_setting_is_in_the_table() -> None:
    assert set(OTHER) == set(flatten(BEGUN))
    assert set(MAY_CHANGE) <= set(OTHER)


@pytest.mark.parametrize("key", sorted(OTHER))
def test_each_setting_changes_freely_or_is_refused_by_name(key: str) -> None:
    asked = change(BEGUN, key, OTHER[key])
    assert flatten(asked) != flatten(BEGUN)
    if key in MAY_CHANGE:
        kept, words = settle(asked, BEGUN, "runs/a/1")
        assert differences(asked, BEGUN) == []
        assert kept == (BEGUN if key == "recipe" else asked)
        assert len(words) == (key not in ("recipe", "output"))
        assert all(word.startswith(f"{key}: ") for word in words)
    else:
        assert differences(asked, BEGUN) == [key]
        with pytest.raises(UsageError, match=f"^runs/a/1 cannot go on with {key} .* \\(begun with .*--model.weights"):
            settle(asked, BEGUN, "runs/a/1")


def test_all_that_is_refused_is_named() -> None:
    asked = change(change(change(BEGUN, "optimizer.name", "sgd"), "training.batch_size", 8), "schedule.epochs", 29)
    with pytest.raises(UsageError) as error:
        settle(asked, BEGUN, "runs/a/1")
    for words in (
        "optimizer.name sgd (begun with adamw)",
        "training.batch_size 8 (begun with 32)",
        "schedule.epochs 29 (begun with 30)",
    ):
        assert words in str(error.value)


def test_auto_is_the_precision_that_the_run_began_with() -> None:
    begun = dataclasses.replace(BEGUN, training=TrainingConfig(precision="bf16", eval_precision="fp32"))
    kept, words = settle(Config(), begun, "runs/a/1")
    assert (kept, words) == (begun, [])


def test_the_first_process_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines of one training may be unlike: here the first computes in bf16, and this is the second."""
    monkeypatch.setattr("inceptionv4.runtime.device.computes_bf16", lambda device: False)
    monkeypatch.setattr(Ranks, "broadcast", lambda self, value: ("bf16", "fp32"))
    config, device = resumption.Resumption(RunFolder(None, Ranks())).settle(Config(), Ranks(1, 2))
    assert (config.training.precision, config.training.eval_precision, device.precision) == ("bf16", "fp32", "bf16")


def test_settings_of_older_states() -> None:
    """They may say `auto`, whose meaning is in the run's environment, and have no precision of evaluations."""
    older = dataclasses.asdict(Config())
    del older["training"]["eval_precision"]
    older = json.loads(json.dumps(older))
    begun = recorded_settings({"config": older}, "a state", "bf16")
    assert (begun.training.precision, begun.training.eval_precision) == ("bf16", "bf16")
    assert differences(Config(), begun) == []
    older["data"]["gone"] = 1
    with pytest.raises(UsageError, match=r"a state was written by another version .* unknown setting data\.gone"):
        recorded_settings({"config": older}, "a state", "bf16")


@pytest.fixture(scope="module")
def begun(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch, in what `auto` is here."""
    config = settings(
        textures,
        tmp_path_factory.mktemp("begun"),
        training=TrainingConfig(batch_size=30, ema_decay=0.9),
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
    )
    return Path(train(config))


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "test/1"))


def test_the_precision_is_written_down(begun: Path) -> None:
    written = load_config(file=begun / "config.yaml").training
    state = load_checkpoint(begun / "checkpoints/last.safetensors").training
    described = json.loads((begun / "environment.json").read_text())["device"].rpartition(", ")[2]
    assert written.precision == state["config"]["training"]["precision"] == described
    assert written.precision in ("fp32", "bf16")
    assert written.eval_precision == state["config"]["training"]["eval_precision"] == state["eval_precision"] == "fp32"


def test_it_goes_on_in_the_precision_that_it_began_in(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for `auto` where `auto` is another one."""
    run = copy_of(begun, tmp_path)
    config = load_config(file=run / "config.yaml")
    own = config.training.precision
    asked = dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, precision="auto", eval_precision="auto"),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5),
    )
    chosen: list[str] = []
    original = resumption.select_device

    def select(name: str, precision: Any) -> Any:
        chosen.append(precision)
        return original(name, precision)

    monkeypatch.setattr(resumption, "select_device", select)
    monkeypatch.setattr("inceptionv4.runtime.device.computes_bf16", lambda device: own != "bf16")
    train(asked, run=run)
    assert set(chosen) == {own}
    assert load_checkpoint(run / "checkpoints/last.safetensors").training["config"]["training"]["precision"] == own


def test_a_precision_that_is_not_to_be_had_is_refused(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(begun, tmp_path)
    config = load_config(file=run / "config.yaml")

    def select(name: str, precision: str) -> None:
        raise UsageError(f"{name} does not compute in {precision}; ask for fp32 or fp16")

    monkeypatch.setattr(resumption, "select_device", select)
    with pytest.raises(UsageError, match=r"was trained in \w+, and auto does not compute in .*`--model\.weights"):
        train(config, run=run)


def test_comments_and_order_count_for_nothing(begun: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    run = copy_of(begun, tmp_path)
    sections = yaml.safe_load((run / "config.yaml").read_text())
    text = "# mine\n" + yaml.safe_dump(dict(reversed(sections.items())), default_flow_style=None)
    (run / "config.yaml").write_text(text)
    ended = command("train", "--resume", run)
    assert (ended.code, ended.out.strip()) == (0, str(run)), ended.err
    assert (run / "config.yaml").read_text() == text
    assert find_run(load_config(file=begun / "config.yaml"), "auto") == begun


def test_a_changed_file_of_settings_is_refused(begun: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """The state knows with which settings it was trained, whatever is written into `config.yaml` later."""
    run = copy_of(begun, tmp_path)
    sections = yaml.safe_load((run / "config.yaml").read_text())
    sections["optimizer"] |= {"name": "sgd", "lr": 0.1}
    sections["training"]["batch_size"] = 60
    (run / "config.yaml").write_text(yaml.safe_dump(sections))
    ended = command("train", "--resume", run)
    assert ended.code == 2
    for words in ("optimizer.name sgd (begun with adamw)", "optimizer.lr 0.1", "training.batch_size 60"):
        assert words in ended.err


def test_more_epochs_follow_the_schedule_of_the_longer_training(
    begun: Path, textures: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run = copy_of(begun, tmp_path)
    ended = command("train", "--resume", run, "--schedule.epochs", "2", "--checkpoint.keep", "1")
    assert ended.code == 0, ended.err
    said = " ".join(ended.err.split())
    assert "schedule.epochs: 1 before, 2 from here on" in said
    assert "checkpoint.keep: 3 before, 1 from here on" in said
    config = load_config(file=run / "config.yaml")
    assert (config.schedule.epochs, config.checkpoint.keep) == (2, 1)
    records, _ = read_log((run / "log.jsonl").read_bytes())
    before = load_config(file=begun / "config.yaml")
    expected = [learning_rate(step, before if step < 6 else config, 6) for step in range(12)]
    assert [record.learning_rate for record in records] == expected
    last, following = (f"{rate:.3g}" for rate in expected[5:7])
    assert f"as in a training of 2 epochs: {following} in the next step, after {last} in the last one" in said
    assert expected[6] > expected[5]
    # From there on it is a run of two epochs: no option is needed, and the settings before are kept.
    assert command("train", "--resume", run).code == 0
    assert load_config(file=run / "aside/config.yaml") == before
    fewer = command("train", "--resume", run, "--schedule.epochs", "1")
    assert (fewer.code, "schedule.epochs 1 (begun with 2)" in fewer.err) == (2, True)


def test_data_may_move_but_not_change(begun: Path, textures: Path, tmp_path: Path) -> None:
    run = copy_of(begun, tmp_path)
    config = load_config(file=run / "config.yaml")
    moved = tmp_path / "moved"
    shutil.copytree(textures, moved)
    there = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(moved)))
    assert find_run(dataclasses.replace(there, output=str(tmp_path)), "auto") is None  # `auto` takes no such liberty
    train(there, run=run)
    assert load_config(file=run / "config.yaml").data.path == str(moved)
    # One image of the held-out ones is another class's now; the names that are trained on are the same.
    (moved / "val/brick/000.jpg").rename(moved / "val/grass/zzz.jpg")
    with pytest.raises(DataError, match="are not those that .* was trained on"):
        train(there, run=run)


def test_a_table_with_other_labels_is_other_data(textures: Path, tmp_path: Path) -> None:
    """The images have the same names, and two of them changed their classes."""
    lines = []
    for split in ("train", "val"):
        for path in sorted((textures / split).rglob("*.jpg")):
            lines.append(f"{path.relative_to(textures)},{path.parent.name},{split}")
    shutil.copytree(textures, tmp_path / "data")
    table = tmp_path / "data/table.csv"
    table.write_text("\n".join(["file_name,label,split", *lines]))
    config = settings(table, tmp_path, schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5))
    run = Path(train(config))
    assert train(config, run=run) == run
    lines[0], lines[60] = lines[0].replace(",brick,", ",grass,"), lines[60].replace(",grass,", ",brick,")
    table.write_text("\n".join(["file_name,label,split", *lines]))
    with pytest.raises(DataError, match="are not those that"):
        train(config, run=run)


def test_another_teacher_under_the_same_name_is_refused(begun: Path, textures: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    shutil.copyfile(begun / "checkpoints/best.safetensors", teacher)
    schedule, loss = ScheduleConfig(epochs=1, warmup_epochs=0.5), LossConfig(teacher=str(teacher))
    config = settings(textures, tmp_path, schedule=schedule, loss=loss)
    run = Path(train(config))
    assert train(config, run=run) == run
    model = load_checkpoint(teacher)
    weights = dict(model.weights)
    weights["classifier.bias"] = weights["classifier.bias"] + 1
    save_checkpoint(dataclasses.replace(model, weights=weights), teacher)
    with pytest.raises(UsageError, match=r"loss\.teacher is not the model any more that .*test/1 has learnt from"):
        train(config, run=run)


def test_other_settings_with_its_model_are_a_new_run(
    begun: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(begun, tmp_path)
    options = ("--resume", run, "--optimizer.name", "sgd", "--output", tmp_path)
    refused = command("train", *options)
    assert (refused.code, f"--model.weights {run}`" in " ".join(refused.err.split())) == (2, True)
    began = command("train", *options, "--model.weights", run)
    assert (began.code, began.out.strip()) == (0, str(tmp_path / "test/2")), began.err
    new, old = (load_config(file=folder / "config.yaml") for folder in (tmp_path / "test/2", run))
    assert differences(new, old) == ["model.weights", "optimizer.name"]
    # The new run goes on as any other; with its settings in a file of their own, one more begins.
    again = command("train", "--resume", tmp_path / "test/2")
    assert (again.code, again.out.strip()) == (0, str(tmp_path / "test/2")), again.err
    shutil.copyfile(run / "config.yaml", tmp_path / "mine.yaml")
    file = ("--config", tmp_path / "mine.yaml", "--output", tmp_path)
    third = command("train", "--resume", run, "--model.weights", run, *file)
    assert (third.code, third.out.strip()) == (0, str(tmp_path / "test/3")), third.err


def test_without_its_settings_a_run_takes_those_that_are_given(
    begun: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run = copy_of(begun, tmp_path)
    (run / "config.yaml").unlink()
    missing = command("train", "--resume", run)
    assert (missing.code, "has no config.yaml any more; give its settings" in missing.err) == (2, True)
    ended = command("train", "--resume", run, "--config", begun / "config.yaml")
    assert ended.code == 0, ended.err
    assert (run / "config.yaml").read_text() == dump(load_config(file=begun / "config.yaml"))
    other = command("train", "--resume", run, "--config", begun / "config.yaml", "--seed", "3")
    assert (other.code, "seed 3 (begun with 0)" in other.err) == (2, True)


def test_auto_passes_over_runs_of_other_settings_but_not_over_damaged_ones(begun: Path, tmp_path: Path) -> None:
    run = copy_of(begun, tmp_path)
    config = dataclasses.replace(load_config(file=run / "config.yaml"), output=str(tmp_path))
    assert find_run(config, "auto") == run
    (tmp_path / "test/2").mkdir()
    (tmp_path / "test/2/config.yaml").write_text("a_setting_of_another_version: 1\n")
    assert find_run(config, "auto") == run
    longer = dataclasses.replace(config, schedule=ScheduleConfig(epochs=3, warmup_epochs=0.5))
    assert find_run(longer, "auto") == run
    (tmp_path / "test/2/config.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(UsageError, match=r"test/2/config\.yaml is damaged"):
        find_run(config, "auto")
    (tmp_path / "test/2/config.yaml").write_text("seed: [")
    with pytest.raises(UsageError, match=r"test/2/config\.yaml.* is not YAML"):
        find_run(config, "auto")


@pytest.mark.parametrize("ways", [("cpu", "cuda"), ("cuda", "cpu")])
def test_from_a_processor_to_an_accelerator_and_back(ways: tuple[str, str], begun: Path) -> None:
    """They do not describe themselves by the same words."""
    state = load_checkpoint(begun / "checkpoints/last.safetensors")
    kinds = {
        "cpu": {"processor": "A", "instructions": "AVX2", "threads": "2", "torch": "2", "processes": "1"},
        "cuda": {"processor": "H100", "torch": "2", "processes": "1"},
    }
    before, now = (kinds[way] for way in ways)
    state = dataclasses.replace(state, training={**state.training, "machines": [{"step": 0, **before}]})
    found = resumption.Resumption(RunFolder(None, Ranks()), state=state)
    assert found.machines(now, "bf16") == [{"step": 0, **before}, {"step": 6, **now}]
    assert f"processor {before['processor']} before, {now['processor']} now" in found.words[0]
    assert "threads" in found.words[0]
    assert "is the same to 0.01 of itself in bf16" in found.words[0]
    assert found.machines(before, "bf16") == [{"step": 0, **before}]


def test_on_another_machine_it_says_so_and_stays_close(
    begun: Path, textures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here it is a processor with fewer instructions, in fp32."""
    config = settings(
        textures,
        tmp_path,
        training=TrainingConfig(batch_size=30, ema_decay=0.9, precision="fp32"),
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
    )
    run = Path(train(config))
    longer = dataclasses.replace(config, schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5))
    here, there = (Path(shutil.copytree(run, tmp_path / name)) for name in ("here", "there"))
    train(longer, run=here)
    assert "goes on elsewhere" not in capfd.readouterr().err
    (tmp_path / "longer.yaml").write_text(dump(longer))
    line = [sys.executable, "-m", "inceptionv4", "train", "--config", str(tmp_path / "longer.yaml"), "--resume"]
    less = os.environ | {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*line, str(there)], capture_output=True, text=True, env=less, check=True)
    said = " ".join(done.stderr.split())
    assert "goes on elsewhere (instructions" in said
    assert "the loss of the next step is the same to 1e-05 of itself in fp32" in said
    losses = [[record.loss for record in read_log((run / "log.jsonl").read_bytes())[0]] for run in (here, there)]
    assert losses[0][:6] == losses[1][:6]
    assert losses[0] != losses[1]
    assert losses[1][6] == pytest.approx(losses[0][6], rel=1e-5)
    machines = load_checkpoint(there / "checkpoints/last.safetensors").training["machines"]
    assert [machine["step"] for machine in machines] == [0, 6]
