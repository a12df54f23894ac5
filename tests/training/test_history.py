"""Log and results of a run that goes on: brought to the state's step, and what was lost is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inceptionv4.training.run.history import LOG, RESULTS, History, StepRecord, bring_back, read_log

RECORDS = [StepRecord(1 + (step - 1) // 4, step, 1 / step, 1e-3 / step, 0.5, 16) for step in range(1, 11)]
"""Ten steps, four an epoch."""
LINES = [record.line() for record in RECORDS]


def row(epoch: int) -> dict[str, Any]:
    names = ("train_loss", "val_loss", "top1", "top5", "learning_rate", "images_per_second", "seconds")
    return {
        "epoch": epoch,
        "step": 4 * epoch,
        **dict.fromkeys(names, 0.5),
        "skipped_images": 0,
        "eval_precision": "fp32",
    }


def written(run: Path, steps: int) -> dict[str, Any]:
    """Write a run of ten steps, and return what a state after `steps` of them says of it."""
    history, facts = History(), {}
    for record in RECORDS:
        history.add(record)
        if record.step % 4 == 0:
            history.close_epoch(row(record.step // 4))
        if record.step == steps:
            facts = history.facts() | {"rows": list(history.rows)}
    (run / LOG).write_text("".join(LINES))
    (run / RESULTS).write_text(history.table())
    return facts


@pytest.mark.parametrize("steps", [1, 4, 6, 10])
def test_it_ends_at_the_state(steps: int, tmp_path: Path) -> None:
    facts = written(tmp_path, steps)
    (tmp_path / LOG).write_text("".join(LINES) + LINES[9][:20])  # killed in a line
    history, words = bring_back(tmp_path, steps // 4, steps, facts)
    assert words == []
    assert (tmp_path / LOG).read_text() == "".join(LINES[:steps])
    assert (tmp_path / RESULTS).read_text().count("\n") == 1 + steps // 4
    assert (history.images, history.steps) == (16 * steps, steps % 4)
    assert history.losses == sum(record.loss for record in RECORDS[steps - steps % 4 : steps])
    assert not (tmp_path / "aside").exists()
    # What comes later is taken in as if nothing had been.
    whole = History(**{name: value for name, value in written(tmp_path, 10).items() if name != "sha256"})
    for record in RECORDS[steps:]:
        history.add(record)
        if record.step % 4 == 0:
            history.close_epoch(row(record.step // 4))
    assert history.facts() == written(tmp_path, 10)
    assert history.rows == whole.rows


def spoil(place: int, line: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:place], line, *lines[place + 1 :]]


DAMAGES: dict[str, tuple[Callable[[list[str]], list[str]], list[int], str]] = {
    "no JSON": (spoil(2, "}{\n"), [3], "1 line that cannot be read log.jsonl has no step 3 any more"),
    "no text": (spoil(2, "\udcff\udc80\n"), [3], "1 line that cannot be read"),
    "NUL bytes": (spoil(2, "\0" * 90 + "\n"), [3], "1 line that cannot be read"),
    "a list": (spoil(2, "[1, 2]\n"), [3], "1 line that cannot be read"),
    "a number": (spoil(2, "7\n"), [3], "1 line that cannot be read"),
    "another key": (spoil(2, LINES[2].replace("loss", "lost")), [3], "1 line that cannot be read"),
    "a text for a number": (spoil(2, LINES[2].replace('"step": 3', '"step": "3"')), [3], "1 line that cannot be read"),
    "a negative step": (spoil(2, LINES[2].replace('"step": 3', '"step": -3')), [3], "has no step 3 any more"),
    "nested too deep": (spoil(2, "[" * 100_000 + "\n"), [3], "1 line that cannot be read"),
    "two lines in one": (lambda lines: [*lines[:2], lines[2].rstrip() + lines[3], *lines[4:]], [3, 4], "steps 3 to 4"),
    "lines gone": (lambda lines: [lines[0], *lines[3:]], [2, 3], "log.jsonl has no steps 2 to 3 any more"),
    "gaps": (lambda lines: lines[::2], [2, 4, 6], "log.jsonl has no step 2, step 4, step 6 any more"),
    "the first gone": (lambda lines: lines[1:], [1], "log.jsonl has no step 1 any more"),
    "cut": (lambda lines: [*lines[:4], lines[4][:9]], [5, 6], "log.jsonl has no steps 5 to 6 any more"),
    "empty": (lambda lines: [], [1, 2, 3, 4, 5, 6], "log.jsonl has no steps 1 to 6 any more"),
    "a line twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], [], "log.jsonl has changed"),
    "another order": (lambda lines: lines[::-1], [], "log.jsonl has changed"),
    "another figure": (spoil(2, replace(RECORDS[2], loss=9.0).line()), [], "log.jsonl has changed"),
    "other line ends": (lambda lines: [line.rstrip() + "\r\n" for line in lines], [], "log.jsonl has changed"),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("version", ["now", "older"])
def test_what_can_be_read_is_kept(name: str, version: str, tmp_path: Path) -> None:
    damage, missing, said = DAMAGES[name]
    facts = written(tmp_path, 6) if version == "now" else (written(tmp_path, 6), None)[1]
    damaged = "".join(damage(LINES)).encode(errors="surrogateescape")
    (tmp_path / LOG).write_bytes(damaged)
    history, words = bring_back(tmp_path, 1, 6, facts)
    kept, unreadable = read_log((tmp_path / LOG).read_bytes())
    assert [record.step for record in kept] == [step for step in range(1, 7) if step not in missing]
    assert unreadable == 0
    if version == "now":  # the figures of the epoch that is going on are the state's
        assert said in " ".join(words)
        assert (history.images, history.steps) == (96, 2)
        assert history.losses == sum(record.loss for record in RECORDS[4:6])
    elif missing:
        assert said in " ".join(words)
    if damaged and (version == "now" or missing):
        assert (tmp_path / "aside" / LOG).read_bytes() == damaged
    # It is sound from here on.
    again, words = bring_back(tmp_path, 1, 6, history.facts())
    assert (again.facts(), words) == (history.facts(), [])


@pytest.mark.parametrize("damage", ["a line", "a column"])
def test_results_of_older_versions_are_kept_aside_if_a_line_is_lost(damage: str, tmp_path: Path) -> None:
    """States of older versions do not hold them."""
    written(tmp_path, 10)
    sound = (tmp_path / RESULTS).read_text()
    if damage == "a line":
        damaged = sound.replace("\n2,", "\nx,")
        expected, said = 1, "results.csv has 1 of 2 epochs that can be read"
    else:  # a column that came later stays empty
        damaged = "".join(line.rpartition(",")[0] + "\n" for line in sound.splitlines())
        expected, said = 2, ""
    (tmp_path / RESULTS).write_text(damaged)
    history, words = bring_back(tmp_path, 2, 10, None)
    assert len(history.rows) == expected
    assert said in " ".join(words)
    assert (tmp_path / "aside" / RESULTS).exists() == (damage == "a line")
    assert not (tmp_path / "aside" / LOG).exists()
    if damage == "a line":
        assert (tmp_path / "aside" / RESULTS).read_text() == damaged


def test_results_are_the_state_s(tmp_path: Path) -> None:
    facts = written(tmp_path, 10)
    sound = (tmp_path / RESULTS).read_text()
    for number, damaged in enumerate(("", "\0\0\0", sound[:-20], sound.replace("0.5", "0.6"), sound + "9,9\n")):
        (tmp_path / RESULTS).write_text(damaged)
        _, words = bring_back(tmp_path, 2, 10, facts)
        assert (tmp_path / RESULTS).read_text() == sound
        kept = damaged not in ("", sound + "9,9\n")
        assert len(words) == kept, number
    (tmp_path / RESULTS).unlink()
    assert bring_back(tmp_path, 2, 10, facts)[1] == []
    assert (tmp_path / RESULTS).read_text() == sound
    assert {path.read_text() for path in (tmp_path / "aside").iterdir()} == {
        "\0\0\0",
        sound[:-20],
        sound.replace("0.5", "0.6"),
    }
