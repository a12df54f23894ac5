"""`inceptionv4 predict`: from any place, in any form, to the end."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from growth import peak_memory, write_tiny_images
from pyarrow import parquet

from inceptionv4 import Classifier
from inceptionv4.cli.predictions import MEASURED, print_table
from inceptionv4.inference.classifier import ClassScore, Prediction
from inceptionv4.runtime import progress
from inceptionv4.runtime.progress import Progress


def test_all_kinds_of_places_in_one_command(
    narrow_model: Path, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brick = textures / "val/brick"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(brick / "000.jpg", "../../up.jpg")
    command = [sys.executable, "-m", "inceptionv4", "predict", str(narrow_model), str(brick), "a.zip", "-", "--json"]
    lines = f"{brick}/00[12].jpg\ngone.jpg\n{tmp_path}/a.zip\n"
    result = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 3
    assert result.stderr == "error: 1 of 20 images could not be read; the others are answered above\n"
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    files = [*sorted(map(str, brick.iterdir())), "a.zip:../../up.jpg", f"{brick}/001.jpg", f"{brick}/002.jpg"]
    assert [answer["file"] for answer in answers] == [*files, "gone.jpg", f"{tmp_path}/a.zip:../../up.jpg"]
    first, copy = (
        {guess["class"]: guess["probability"] for guess in answer["predictions"]}
        for answer in (answers[0], answers[15])
    )
    assert copy == pytest.approx(first, abs=1e-5)
    assert "no image at gone.jpg" in answers[-2]["error"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_embeddings_beside_the_answers(
    command: Callable, narrow_model: Path, textures: Path, tmp_path: Path, suffix: str
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    places = (textures / "val/brick", bad, textures / "val/grass")
    file = tmp_path / f"out{suffix}"
    result = command("predict", narrow_model, *places, "--csv", "--top", 1, "--embeddings", file)
    assert result.code == 3
    assert "bad.jpg is no image" in result.err
    rows = list(csv.DictReader(io.StringIO(result.out)))
    expected = list(Classifier.load(narrow_model).predict([places[0], places[2]], embed=True))
    features = np.stack([answer.embedding for answer in expected if answer.embedding is not None])
    if suffix == ".npy":
        array = np.load(file)
    else:
        table = parquet.read_table(file)
        assert table["file"].to_pylist() == [row["file"] for row in rows]
        assert table["label"].to_pylist() == [row["class"] for row in rows]
        array = np.stack(table["embedding"].to_numpy())
    np.testing.assert_allclose(array, features, rtol=1e-4, atol=1e-5)
    assert [row["file"] for row in rows] == [answer.file for answer in expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bad.jpg", file.name])


def test_options_that_are_none_are_not_taken_for_files(command: Callable, narrow_model: Path) -> None:
    for option in ("--jsn", "-x", "--top5"):
        result = command("predict", narrow_model, "a.jpg", option)
        assert (result.code, result.out) == (2, "")
        assert f"unknown option: {option}" in result.err


def test_what_cannot_be_written_is_said_before_anything(
    command: Callable, narrow_model: Path, textures: Path, tmp_path: Path
) -> None:
    image = textures / "val/brick/000.jpg"
    for name, code, message in (("a.csv", 2, ".npy or .parquet"), ("none/a.npy", 1, "cannot write")):
        result = command("predict", narrow_model, image, "--embeddings", tmp_path / name)
        assert (result.code, result.out) == (code, "")
        assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_embeddings_are_not_left_half_written_by_a_reader_that_has_enough(
    narrow_model: Path, textures: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "inceptionv4", "predict", str(narrow_model), str(textures), "--json"]
    process = subprocess.Popen(
        [*command, "--embeddings", "out.npy"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, errors
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_has_no_embeddings(
    command: Callable, narrow_model: Path, textures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    exported = tmp_path / "a.onnx"
    assert command("export", narrow_model, "--format", "onnx", "--output", exported).code == 0
    image = textures / "val/brick/000.jpg"
    result = command("predict", exported, image, "--embeddings", tmp_path / "a.npy")
    assert (result.code, result.out) == (2, "")
    assert "name the run or the checkpoint" in result.err
    assert not (tmp_path / "a.npy").exists()
    plain, crops = (
        command("predict", model, image, "--json", "--tta", "crops12") for model in (narrow_model, exported)
    )
    ours, theirs = (json.loads(result.out)["predictions"] for result in (plain, crops))
    assert [guess["class"] for guess in ours] == [guess["class"] for guess in theirs]
    assert ours[0]["probability"] == pytest.approx(theirs[0]["probability"], abs=1e-4)


def test_evaluate_averages_over_crops(command: Callable, narrow_model: Path, textures: Path) -> None:
    classifier = Classifier.load(narrow_model)
    right, loss, images = 0, 0.0, 0
    for name in classifier.spec.classes:
        for answer in classifier([textures / "val" / name], tta="crops12"):
            right += answer.label == name
            loss -= np.log(next(guess.probability for guess in answer.top if guess.label == name))
            images += 1
    metrics = json.loads(command("evaluate", narrow_model, "--data", textures, "--tta", "crops12", "--json").out)
    assert metrics["images"] == images == 45
    assert metrics["top1"] == pytest.approx(right / images)
    assert metrics["loss"] == pytest.approx(loss / images, rel=1e-4)
    plain = json.loads(command("evaluate", narrow_model, "--data", textures, "--json").out)
    assert plain["loss"] != pytest.approx(metrics["loss"], rel=1e-6)


def prediction(number: int, name: str = "") -> Prediction:
    return Prediction(name or f"{number}.jpg", (ClassScore("cat", 0.75), ClassScore("dog", 0.25)))


def test_the_table_begins_before_the_last_answer_and_keeps_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    printed = 0

    def answers() -> object:
        nonlocal printed
        for number in range(MEASURED):
            yield prediction(number)
        yield prediction(0, "a name that is longer.jpg")
        printed = len(capsys.readouterr().out.splitlines())
        yield prediction(1, "日本.jpg")
        yield prediction(2, "new\nline\x1b[2J.jpg")

    print_table(answers())  # type: ignore[arg-type]
    assert printed == 1 + MEASURED + 1
    assert capsys.readouterr().out.splitlines() == [
        "日本.jpg  cat    75.0%        dog 25.0%",
        r"new\nline\x1b[2J.jpg  cat    75.0%        dog 25.0%",
    ]


def test_long_work_of_unknown_length_says_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("predicting", total=None) as work:
        for _ in range(100):
            now += 1.0
            work.advance(5)
    assert capsys.readouterr().err.splitlines() == [
        "predicting  150 images  5.0 img/s",
        "predicting  300 images  5.0 img/s",
        "predicting  450 images  5.0 img/s",
    ]


def test_answers_go_to_a_file_while_the_bar_is_on_the_terminal(
    narrow_model: Path, textures: Path, tmp_path: Path
) -> None:
    main, side = pty.openpty()
    command = [sys.executable, "-m", "inceptionv4", "predict", str(narrow_model), str(textures / "val"), "--json"]
    with (tmp_path / "out.jsonl").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=side, env={**os.environ, "TERM": "xterm"})
        os.close(side)
        shown = b""
        try:
            while part := os.read(main, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        os.close(main)
    assert process.wait() == 0
    assert b"45/?" in shown
    assert b"img/s" in shown
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 45


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(narrow_model: Path, tmp_path: Path) -> None:
    few, many = (write_tiny_images(tmp_path / f"{count}.zip", count) for count in (200, 4000))
    options = ("--embeddings", str(tmp_path / "out.npy"))
    growth = peak_memory(narrow_model, many, 4000, *options) - peak_memory(narrow_model, few, 200, *options)
    assert growth < 12, f"{growth:.1f} MiB"


def test_the_pages_commands_and_lines(
    narrow_model: Path, textures: Path, tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs/predict.md").read_text(encoding="utf-8")
    checkpoints = tmp_path / "runs/finetune/1/checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(narrow_model, checkpoints / "best.safetensors")
    for name in ("photos", "more"):
        shutil.copytree(textures / "val", tmp_path / name)
    shutil.make_archive(str(tmp_path / "photos"), "zip", textures / "val")
    commands = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    counts = {"embeddings": 45 * 3 + 1, "csv": 3 * 45 * 3 + 1, "top 1": 15}
    for line in commands.strip().splitlines():
        if "|" in line:
            line = line.replace("inceptionv4 ", f"{shlex.quote(sys.executable)} -m inceptionv4 ", 1)
            result = subprocess.run(line, shell=True, capture_output=True, text=True)
            code, out, err = result.returncode, result.stdout, result.stderr
        else:
            answer = command(*shlex.split(line, comments=True)[1:])
            code, out, err = answer.code, answer.out, answer.err
        assert code == 0, err
        expected = next((count for word, count in counts.items() if f"--{word}" in line), None)
        assert expected in (None, len(out.splitlines())), line
    assert np.load(tmp_path / "features.npy").shape == (45, 144)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    lines = output.splitlines()
    assert len(lines) == 1 + 45 + 45 + 1
    assert lines[-1] == "75 px, crop 1, bicubic, mean 0.5, std 0.5 ('0', '1', '2', '3', '4')"
