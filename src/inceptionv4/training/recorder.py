"""What a run leaves for people: progress while it goes on, then a line a step, a line an epoch, and curves."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from types import TracebackType

from inceptionv4.errors import RunError
from inceptionv4.evaluation.metrics import Metrics
from inceptionv4.runtime.files import write_text
from inceptionv4.runtime.progress import Progress
from inceptionv4.training.plots import draw_curves
from inceptionv4.training.tracker import Tracker


@dataclass(frozen=True)
class StepRecord:
    """A line of `log.jsonl`."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    images: int


@dataclass(frozen=True)
class EpochRecord:
    """A line of `results.csv`; accuracies are shares, the training loss is the mean over the epoch's steps."""

    epoch: int
    step: int
    train_loss: float
    val_loss: float
    top1: float
    top5: float
    learning_rate: float
    images_per_second: float
    skipped_images: int
    seconds: float
    eval_precision: str
    """What `val_loss`, `top1` and `top5` were computed in."""


COLUMNS = [field.name for field in fields(EpochRecord)]


class Recorder:
    """Shows and writes the progress of a run over `images` training images in all; a context manager.

    A run that goes on after `epoch` epochs and `step` steps keeps what it wrote up to there, and no more: what came
    after the state that it goes on from will come again.

    Raises:
        RunError: the run folder cannot be written any more.
    """

    def __init__(
        self, run: Path, images: int, epochs: int, *, epoch: int = 0, step: int = 0, tracker: Tracker | None = None
    ) -> None:
        self.run, self.epochs, self.tracker = run, epochs, tracker
        log, results = run / "log.jsonl", run / "results.csv"
        done = [record for record in _read_log(log) if record.step <= step]
        self.progress = Progress("training", total=images, lines=20, done=sum(record.images for record in done))
        self._steps = [record for record in done if record.epoch > epoch]
        self._epoch_started = self._last_step = time.monotonic()
        self._images_since = 0
        write_text(log, "".join(_line(record) for record in done))
        write_text(results, _first_rows(results, epoch))
        try:
            self._log = log.open("a", encoding="utf-8", buffering=1)
            self._results = results.open("a", encoding="utf-8", newline="", buffering=1)
        except OSError as error:
            raise RunError(f"cannot write in {run}: {error.strerror or error}") from None
        self._table = csv.DictWriter(self._results, COLUMNS, lineterminator="\n")

    def __enter__(self) -> Recorder:
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, traceback)
        for file in (self._log, self._results):
            with contextlib.suppress(OSError):  # of a line that could not be written, which was reported
                file.close()
        if self.tracker is not None:
            self.tracker.close()
        if hint := draw_curves(self.run):
            self.announce(hint)

    def announce(self, line: str) -> None:
        """Show a line that stays."""
        self.progress.announce(line)

    def step(self, record: StepRecord) -> None:
        """Write and show an optimizer step."""
        self._steps.append(record)
        self._images_since += record.images
        self._last_step = time.monotonic()
        with _reporting(self.run):
            self._log.write(_line(record))
        if self.tracker is not None:
            figures = ("loss", "learning_rate", "gradient_norm")
            self.tracker.log(record.step, {f"training/{name}": getattr(record, name) for name in figures})
        self.progress.advance(record.images, f"epoch {record.epoch}/{self.epochs}  loss {record.loss:.3f}")

    def epoch(self, epoch: int, step: int, metrics: Metrics, best: bool, *, precision: str, skipped: list[str]) -> None:
        """Write and show the end of an epoch, after `step` steps in all, and what the evaluation in `precision` gave.

        `skipped` are the reasons why training images were left out so far.
        """
        steps, now = self._steps, time.monotonic()
        record = EpochRecord(
            epoch=epoch,
            step=step,
            train_loss=sum(step.loss for step in steps) / len(steps) if steps else math.nan,
            val_loss=metrics.loss,
            top1=metrics.top1,
            top5=metrics.top5,
            learning_rate=steps[-1].learning_rate if steps else math.nan,
            images_per_second=self._images_since / max(self._last_step - self._epoch_started, 1e-9),
            skipped_images=len(skipped),
            seconds=now - self._epoch_started,
            eval_precision=precision,
        )
        with _reporting(self.run):
            self._table.writerow({name: _rounded(value) for name, value in asdict(record).items()})
        if self.tracker is not None:
            figures = {"loss": metrics.loss, "top1": metrics.top1, "top5": metrics.top5}
            self.tracker.log(record.step, {f"held out/{name}": value for name, value in figures.items()})
            self.tracker.log(record.step, {"training/images per second": record.images_per_second})
        self.announce(
            f"epoch {record.epoch}/{self.epochs}  training loss {record.train_loss:.3f}  held out: {metrics}  "
            f"{record.images_per_second:.1f} img/s{'  best so far' if best else ''}"
        )
        if record.epoch == self.epochs:
            for reason in skipped:
                self.announce(f"skipped: {reason}")
        self._steps, self._epoch_started, self._images_since = [], now, 0


class Silence:
    """The recorder of a process that is not the first: it says nothing and writes nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *reason: object) -> None:
        """There is nothing to close."""

    def announce(self, line: str) -> None:
        """The first process says it."""

    def step(self, record: StepRecord) -> None:
        """The first process writes it."""

    def epoch(self, epoch: int, step: int, metrics: Metrics, best: bool, *, precision: str, skipped: list[str]) -> None:
        """The first process writes it."""


@contextlib.contextmanager
def _reporting(run: Path) -> Iterator[None]:
    """A disk that is full is an error in words: lines are flushed as they are written."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(run).free
        raise RunError(
            f"cannot write in {run}: {error.strerror or error}, with {free:,} bytes free; free some space, and go on "
            f"with `inceptionv4 train --resume {run}`"
        ) from None


def _line(record: StepRecord) -> str:
    return json.dumps(asdict(record)) + "\n"


def _read_log(log: Path) -> list[StepRecord]:
    """The steps in a log; a last line that was being written when the run was killed is none."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    return [StepRecord(**json.loads(line)) for line in lines if line.endswith("\n")]


def _first_rows(results: Path, epochs: int) -> str:
    """The header of `results.csv` and its first rows; those of an older version have fewer columns."""
    text = results.read_text(encoding="utf-8") if results.exists() else ""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(islice(csv.DictReader(text.splitlines()), epochs))
    return table.getvalue()


def _rounded(value: float | str) -> float | str:
    return float(f"{value:.6g}") if isinstance(value, float) else value
