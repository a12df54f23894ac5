"""The log and the results of a run, and how they are brought back to the step of a state.

A state holds the results themselves, and length and SHA-256 of the log up to it. So a run that goes on

- writes `results.csv` from the state;
- cuts `log.jsonl` off after the state's step: what came later comes again;
- keeps, where the log is not what it was, the lines that can be read, each step once and in order. The log as it was
  found stays in the folder `aside` of the run, as do results that are not the state's, and a line says what is missing.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from inceptionv4.errors import RunError
from inceptionv4.runtime.files import write_text
from inceptionv4.strict_json import from_json, to_json
from inceptionv4.training.run.recovery import set_aside

LOG, RESULTS = "log.jsonl", "results.csv"


@dataclass(frozen=True)
class StepRecord:
    """A line of `log.jsonl`."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    images: int

    def line(self) -> str:
        return to_json(asdict(self)) + "\n"


@dataclass(frozen=True)
class EpochRecord:
    """A line of `results.csv`; accuracies are shares, the training loss is the mean over the epoch's steps. An epoch
    without a step has neither loss nor learning rate.
    """

    epoch: int
    step: int
    train_loss: float | None
    val_loss: float
    top1: float
    top5: float
    learning_rate: float | None
    images_per_second: float
    skipped_images: int
    seconds: float
    eval_precision: str
    """What `val_loss`, `top1` and `top5` were computed in."""


COLUMNS = [field.name for field in fields(EpochRecord)]


@dataclass
class History:
    """What a run has written so far, as a state holds it."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The lines of `results.csv`."""
    images: int = 0
    """How many images were trained on."""
    losses: float = 0.0
    """The sum over the steps of the epoch that is going on."""
    steps: int = 0
    """How many steps of it are done."""
    learning_rate: float = 0.0
    """The rate of the last step."""
    size: int = 0
    """The bytes of the log."""

    def __post_init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, record: StepRecord) -> str:
        """Take a step in, and return its line of the log."""
        line = record.line()
        self.images += record.images
        self.losses += record.loss
        self.steps += 1
        self.learning_rate = record.learning_rate
        self._extend(line.encode())
        return line

    def close_epoch(self, row: dict[str, Any]) -> None:
        """Take the results of an epoch in; the next one begins."""
        self.rows.append(row)
        self.losses, self.steps = 0.0, 0

    def facts(self) -> dict[str, Any]:
        """List all of it, for JSON."""
        return asdict(self) | {"sha256": self._sha.hexdigest()}

    def table(self) -> str:
        """The text of `results.csv`."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def _extend(self, content: bytes) -> None:
        self.size += len(content)
        self._sha.update(content)


def bring_back(run: Path, epoch: int, step: int, facts: Mapping[str, Any] | None) -> tuple[History, list[str]]:
    """Bring log and results to the state after `step` steps, in which `epoch` epochs are finished.

    `facts` are those of the state's history; None for states of older versions, which have none. Returns the history,
    and what a user should know.

    Raises:
        RunError: the run folder cannot be written.
    """
    log, results = read_file(run / LOG), read_file(run / RESULTS)
    history = History()
    words: list[str]
    if facts is not None:
        history = History(**{name: value for name, value in facts.items() if name != "sha256"})
        sound, words = log[: history.size], []
        history.size = 0
        history._extend(sound)
        if history._sha.hexdigest() != facts["sha256"]:
            sound, words = _salvage(log, step)
            words = words or ["log.jsonl has changed since the state was saved"]
            history.size, history._sha = 0, hashlib.sha256()
            history._extend(sound)
    else:
        sound, words = _salvage(log, step)
        for record in read_log(sound)[0]:
            history.add(record)
            if record.epoch <= epoch:
                history.losses, history.steps = 0.0, 0
        history.rows = [row for row in read_rows(results) if float(row["epoch"]) <= epoch]
    if step == 0 and log:
        words.append("no state had been saved, so that it begins again")
    if log and (words or not log.startswith(sound)):
        words.append(f"the log as it was found is {set_aside(run, run / LOG, keep=True)}")
    table = history.table().encode()
    if facts is None and len(history.rows) < epoch:
        words.append(f"results.csv has {len(history.rows)} of {epoch} epochs that can be read")
        lost = True
    else:
        lost = facts is not None and not results.startswith(table)
    if results and lost:
        words.append(f"results.csv as it was found is {set_aside(run, run / RESULTS, keep=True)}")
    write_text(run / LOG, sound.decode())
    write_text(run / RESULTS, table.decode())
    return history, words


def read_log(log: bytes) -> tuple[list[StepRecord], int]:
    """The steps of a log that can be read, each once and in order, and how many lines cannot.

    A last line without an end was being written when the run was killed, and is none.
    """
    lines = log.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    records: dict[int, StepRecord] = {}
    unreadable = 0
    for line in lines:
        record = _parse(line)
        if record is None:
            unreadable += 1
        else:
            records.setdefault(record.step, record)
    return [records[step] for step in sorted(records)], unreadable


def read_rows(results: bytes) -> list[dict[str, Any]]:
    """The lines of `results.csv` that can be read, up to the first that cannot or is not the next epoch."""
    rows: list[dict[str, Any]] = []
    text = results.decode(errors="replace").replace("\0", "\ufffd")
    table = csv.DictReader(text.splitlines())
    try:
        for row in table:
            for name in COLUMNS:
                if name != "eval_precision" and row.get(name):
                    float(row[name])
            if float(row["epoch"]) != len(rows) + 1:
                break
            rows.append({name: row.get(name) or "" for name in COLUMNS})
    except (KeyError, TypeError, ValueError, csv.Error):
        return rows
    return rows


def read_file(path: Path) -> bytes:
    """The content of a file; nothing if there is none.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}; move it away, or try again") from None


def check_files(run: Path) -> None:
    """See that log and results can be read, before anything in the run is changed.

    Raises:
        RunError: they cannot.
    """
    for name in (LOG, RESULTS):
        read_file(run / name)


def _parse(line: bytes) -> StepRecord | None:
    try:
        record = StepRecord(**from_json(line))
    except (ValueError, TypeError):
        return None
    numbers = asdict(record)
    whole = all(type(numbers[name]) is int for name in ("epoch", "step", "images"))
    return record if whole and all(type(value) in (int, float) for value in numbers.values()) else None


def _salvage(log: bytes, step: int) -> tuple[bytes, list[str]]:
    """The lines of a log up to `step` that can be read, and what is missing, in words."""
    records, unreadable = read_log(log)
    kept = [record for record in records if 0 < record.step <= step]
    missing = sorted(set(range(1, step + 1)) - {record.step for record in kept})
    words = []
    if unreadable:
        words.append(f"log.jsonl has {unreadable} line{'s' * (unreadable > 1)} that cannot be read")
    if missing:
        words.append(f"log.jsonl has no {_ranges(missing)} any more")
    return "".join(record.line() for record in kept).encode(), words


def _ranges(numbers: Iterable[int]) -> str:
    """Steps in words: "step 3, steps 5 to 8"."""
    runs = []
    for _, group in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        members = [number for _, number in group]
        runs.append(f"step {members[0]}" if len(members) == 1 else f"steps {members[0]} to {members[-1]}")
    return ", ".join(runs[:5]) + (f" and {len(runs) - 5} more gaps" if len(runs) > 5 else "")
