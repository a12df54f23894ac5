"""The command line: what it prints, what it exits with, and that it asks for nothing heavy before it must."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from inceptionv4.cli import main
from inceptionv4.config import Config, load_config, recipes
from inceptionv4.errors import Error
from inceptionv4.settings import build, read_yaml

TINY = (
    *("--image.size", 75, "--image.crop", 1, "--model.width", 0.1, "--training.batch-size", 8),
    *("--schedule.warmup-epochs", 0, "--data.workers", 0),
)
ONE_EPOCH = ("--schedule.epochs", 1)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "inceptionv4", *arguments], capture_output=True, text=True, cwd=cwd)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    result = run("--help")
    assert result.returncode == 0
    for name in ("train", "evaluate", "predict", "serve", "benchmark"):
        assert re.search(rf"\b{name}\b", result.stdout)
    code = (
        "import sys; from inceptionv4.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'starlette'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) > 8, reason="GCC's OpenMP on Linux, and few cores")
@pytest.mark.parametrize(("given", "count"), [({}, "1000"), ({"OMP_WAIT_POLICY": "passive"}, "0")])
def test_threads_that_wait_give_their_core_away(given: dict[str, str], count: str) -> None:
    """As OpenMP itself says, once torch is there."""
    command = [sys.executable, "-m", "inceptionv4", "doctor"]
    environment = {"OMP_DISPLAY_ENV": "verbose", "PATH": os.environ["PATH"], **given}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr
    assert f"GOMP_SPINCOUNT = '{count}'" in said


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("recipe", recipes())
def test_printed_settings_are_settings(command: Callable, recipe: str, tmp_path: Path) -> None:
    result = command("train", "--recipe", recipe, "--optimizer.lr", "0.25", "--data", "here", "--print-config")
    assert result.code == 0
    printed = build(Config, read_yaml(result.out, "printed"))
    assert (printed.recipe, printed.optimizer.lr, printed.data.path) == (recipe, 0.25, "here")
    (tmp_path / "mine.yaml").write_text(result.out)
    assert load_config(file=tmp_path / "mine.yaml") == printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute", "x"], 'Did you mean "evaluate"'),
        (["evaluate", "x"], "--data"),
        (["evaluate", "x", "--dat", "y"], "--data"),
        (["predict", "x"], "no images given"),
        (["predict", "x", "a.jpg", "--json", "--csv"], "--json or --csv, not both"),
        (["predict", "x", "a.jpg", "--top", "0"], "--top must be at least 1"),
        (["train", "--recipe", "digit"], "did you mean digits?"),
        (
            ["train", "--optimizer.lrr", "1"],
            "unknown setting optimizer.lrr (--optimizer.lrr); did you mean optimizer.lr?",
        ),
        (["train", "--optimizer.lr", "-1"], "optimizer.lr must be > 0, got -1 (--optimizer.lr)"),
        (["train", "--optimizer.lr", "fast"], "optimizer.lr must be a number, got 'fast' (--optimizer.lr)"),
        (["train", "--image.size", "74"], "image.size must be >= 75, got 74 (--image.size)"),
        (["train", "--config", "missing.yaml"], "cannot read the settings in missing.yaml"),
        (["train"], "data.path is not set: say which images to train on with --data FOLDER"),
        (["train", "--data", "digits", "--training.device", "abacus"], "no device 'abacus' here"),
        (["train", "--data", "digits", "--model.weights", "nowhere"], "no model at nowhere"),
    ],
)
def test_usage_errors_exit_with_2_and_leave_nothing(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_lack_of_memory_is_said_in_a_line(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy's, torch's, and that of an accelerator; another error of torch's keeps its traceback."""
    for lack in (
        lambda: np.empty(2**50),
        lambda: torch.empty(2**50),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
    ):
        monkeypatch.setattr("inceptionv4.cli.resolve", lambda *_, lack=lack: next(iter(lack())))
        result = command("train", "--data", "digits")
        assert result.code == 1
        assert re.search("error: there is not enough memory: .*; take fewer images at once", result.err)
        assert "Traceback" not in result.err
    monkeypatch.setattr("inceptionv4.cli.resolve", lambda *_: torch.ones(2, 3) @ torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(["train", "--data", "digits"])


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300"])
def test_a_plan_of_no_time_or_without_end_is_refused(command: Callable, seconds: str) -> None:
    result = command("plan", "--data", "digits", "--seconds", seconds)
    assert (result.code, "--seconds must be above 0 and at most 86400, a day" in result.err) == (2, True)


def test_a_typo_in_a_file_is_named_with_its_line(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 1\noptimizer:\n  weight_decai: 0.1\n")
    result = command("train", "--config", tmp_path / "mine.yaml")
    assert result.code == 2
    assert f"unknown setting optimizer.weight_decai ({tmp_path}/mine.yaml:3); did you mean" in result.err


def test_every_error_has_the_exit_code_of_the_table() -> None:
    import inceptionv4.errors as errors

    assert errors.__doc__ is not None
    table = dict(re.findall(r"(?:[│├└─ ]+)(\w*Error)\s+(\d)", errors.__doc__))
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Error)}
    assert {name: str(kind.exit_code) for name, kind in kinds.items()} == table


def test_data_errors_exit_with_3_and_leave_nothing(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "cat").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "examples/seven.png", tmp_path / "one/cat/1.png")
    for data, message in (("empty", "no images in"), ("one", "only one class in"), ("none", "there is no such folder")):
        result = command("train", "--data", tmp_path / data, "--output", tmp_path / "runs")
        assert (result.code, result.out) == (3, "")
        assert message in result.err
        assert str(tmp_path / data) in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "one"]


def test_evaluate_and_predict_refuse_what_is_missing_or_damaged(
    command: Callable, narrow_model: Path, textures: Path, tmp_path: Path
) -> None:
    image = textures / "val/brick/000.jpg"
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(narrow_model.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    for model, code, message in (
        ("nowhere", 2, "no model at nowhere"),
        (tmp_path, 2, "holds no trained model"),
        (damaged, 1, "is damaged: its contents do not match the checksum"),
    ):
        for result in (command("evaluate", model, "--data", textures), command("predict", model, image)):
            assert (result.code, result.out) == (code, "")
            assert message in result.err
    result = command("evaluate", narrow_model, "--data", tmp_path / "none")
    assert result.code == 3
    assert "no images at" in result.err


def test_a_truncated_image_in_an_evaluation_is_named(
    command: Callable, narrow_model: Path, textures: Path, tmp_path: Path
) -> None:
    shutil.copytree(textures, tmp_path / "data")
    bad = tmp_path / "data/val/gravel/007.jpg"
    os.truncate(bad, 500)
    result = command("evaluate", narrow_model, "--data", tmp_path / "data", "--json")
    assert (result.code, result.out) == (3, "")
    assert str(bad) in result.err


def test_a_run_folder_without_permission(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    command = [sys.executable, "-m", "inceptionv4", "train", "--data", "digits", "--output", str(closed)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and setpriv is not here to take that away")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--", *command]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert f"cannot make a run folder in {closed}/finetune: Permission denied; give another place" in result.stderr
    assert list(closed.iterdir()) == []


@pytest.fixture(scope="module")
def trained(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("cli")
    result = run("train", "--data", str(textures), *map(str, TINY + ONE_EPOCH), cwd=folder)
    return folder, result


def test_train_prints_its_run_and_shows_progress(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = trained
    assert result.returncode == 0, result.stderr
    assert result.stdout == "runs/finetune/1\n"
    lines = result.stderr.splitlines()
    assert lines[0].startswith("runs/finetune/1: Inception-v4, ")
    assert "3 classes, 180 images to train on, 45 held out (train/ and val/ folders)" in lines[1]
    steps = [line for line in lines if line.startswith("training epoch 1/1")]
    assert 10 <= len(steps) <= 22
    assert re.search(r"loss \d\.\d+  176/176 images  [\d.]+ img/s  ETA 0:00:00$", steps[-1])
    assert "held out: top-1" in lines[-1]
    assert sorted(path.name for path in folder.iterdir()) == ["runs"]


def test_evaluate_json_is_one_object(trained: tuple[Path, subprocess.CompletedProcess[str]], textures: Path) -> None:
    folder, _ = trained
    result = run("evaluate", "runs/finetune/1", "--data", str(textures), "--json", cwd=folder)
    metrics = json.loads(result.stdout)
    assert list(metrics) == ["top1", "top5", "loss", "images", "runtime", "precision"]
    assert metrics["images"] == 45
    assert metrics["runtime"].startswith("PyTorch, ")
    assert metrics["precision"] == "fp32"
    with (folder / "runs/finetune/1/results.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["eval_precision"] == "fp32"
    assert metrics["loss"] == pytest.approx(float(last["val_loss"]), rel=1e-4)


def test_predictions_as_table_json_and_csv(command: Callable, narrow_model: Path, textures: Path) -> None:
    folder, single = textures / "val/brick", textures / "val/gravel/003.jpg"
    files = [*sorted(map(str, folder.iterdir())), str(single)]

    lines = [json.loads(line) for line in command("predict", narrow_model, folder, single, "--json").out.splitlines()]
    assert [line["file"] for line in lines] == files
    for line in lines:
        probabilities = [guess["probability"] for guess in line["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {guess["class"] for guess in line["predictions"]} == {"brick", "grass", "gravel"}

    rows = list(csv.DictReader(io.StringIO(command("predict", narrow_model, folder, single, "--csv", "--top", 2).out)))
    assert [(row["file"], row["rank"]) for row in rows] == [(file, rank) for file in files for rank in "12"]
    assert [row["class"] for row in rows[::2]] == [line["predictions"][0]["class"] for line in lines]
    assert float(rows[0]["probability"]) == pytest.approx(lines[0]["predictions"][0]["probability"], abs=1e-6)

    table = command("predict", narrow_model, folder, single).out.splitlines()
    assert table[0].split() == ["file", "class", "probability", "then"]
    assert [line.split()[:2] for line in table[1:]] == [
        [answer["file"], answer["predictions"][0]["class"]] for answer in lines
    ]


def test_a_bad_image_among_good_ones(command: Callable, narrow_model: Path, textures: Path, tmp_path: Path) -> None:
    good = textures / "val/brick/000.jpg"
    bad = tmp_path / "bad.jpg"
    bad.write_text("this is a text")
    for flags in (["--top", 1], ["--csv", "--top", 1], ["--json"]):
        result = command("predict", narrow_model, good, bad, good, *flags)
        assert result.code == 3
        assert result.out.count(str(good)) == 2
        assert "1 of 3 images could not be read" in result.err
        assert f"{bad} is no image" in result.out + result.err
    missing = command("predict", narrow_model, tmp_path / "missing.jpg")
    assert (missing.code, missing.out) == (2, "")
    assert "no image at" in missing.err


def test_file_names_that_are_not_utf8_come_out_as_they_are(narrow_model: Path, textures: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(name, "wb") as file:  # noqa: PTH123 - pathlib refuses bytes
        file.write((textures / "val/brick/000.jpg").read_bytes())
    for flag in ("--json", "--csv"):
        command = [sys.executable, "-m", "inceptionv4", "predict", str(narrow_model), name, flag]
        result = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"})
        assert result.returncode == 0, result.stderr
        assert name in result.stdout


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_signals_end_a_run_with_their_exit_code(
    textures: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "inceptionv4", "train", "--data", str(textures), *map(str, TINY)]
    process = subprocess.Popen([*command, "--schedule.epochs=500"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "runs/finetune/1/log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
