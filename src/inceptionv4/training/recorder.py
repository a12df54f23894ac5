"""What a run leaves for people: progress while it goes on, then a line a step, a line an epoch, and curves."""

from __future__ import annotations

import contextlib
import csv
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from inceptionv4.errors import RunError
from inceptionv4.evaluation.metrics import Metrics
from inceptionv4.runtime.progress import Progress
from inceptionv4.training.plots import draw_curves
from inceptionv4.training.run.history import COLUMNS, LOG, RESULTS, EpochRecord, History, StepRecord
from inceptionv4.training.tracker import Tracker


class Recorder:
    """Shows and writes the progress of a run over `images` training images in all; a context manager.

    `history` is what the run has written so far, as `bring_back` returns it.

    Raises:
        RunError: the run folder cannot be written any more.
    """

    def __init__(
        self, run: Path, images: int, epochs: int, *, history: History, tracker: Tracker | None = None
    ) -> None:
        self.run, self.epochs, self.history, self.tracker = run, epochs, history, tracker
        self.progress = Progress("training", total=images, lines=20, done=history.images)
        self._epoch_started = self._last_step = time.monotonic()
        self._images_since = 0
        self._listed = 0
        try:
            self._log = (run / LOG).open("a", encoding="utf-8", buffering=1)
            self._results = (run / RESULTS).open("a", encoding="utf-8", newline="", buffering=1)
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
        self._images_since += record.images
        self._last_step = time.monotonic()
        with _reporting(self.run):
            self._log.write(record.line())
        self.history.add(record)
        if self.tracker is not None:
            figures = ("loss", "learning_rate", "gradient_norm")
            self.tracker.log(record.step, {f"training/{name}": getattr(record, name) for name in figures})
        self.progress.advance(record.images, f"epoch {record.epoch}/{self.epochs}  loss {record.loss:.3f}")

    def epoch(self, epoch: int, step: int, metrics: Metrics, best: bool, *, precision: str, skipped: list[str]) -> None:
        """Write and show the end of an epoch, after `step` steps in all, and what the evaluation in `precision` gave.

        `skipped` are the reasons why training images were left out so far; those that are new are listed.
        """
        past, now = self.history, time.monotonic()
        record = EpochRecord(
            epoch=epoch,
            step=step,
            train_loss=past.losses / past.steps if past.steps else None,
            val_loss=metrics.loss,
            top1=metrics.top1,
            top5=metrics.top5,
            learning_rate=past.learning_rate if past.steps else None,
            images_per_second=self._images_since / max(self._last_step - self._epoch_started, 1e-9),
            skipped_images=len(skipped),
            seconds=now - self._epoch_started,
            eval_precision=precision,
        )
        row = {name: _rounded(value) for name, value in asdict(record).items()}
        with _reporting(self.run):
            self._table.writerow(row)
        past.close_epoch(row)
        if self.tracker is not None:
            figures = {"loss": metrics.loss, "top1": metrics.top1, "top5": metrics.top5}
            self.tracker.log(record.step, {f"held out/{name}": value for name, value in figures.items()})
            self.tracker.log(record.step, {"training/images per second": record.images_per_second})
        train_loss = "none" if record.train_loss is None else f"{record.train_loss:.3f}"
        self.announce(
            f"epoch {record.epoch}/{self.epochs}  training loss {train_loss}  held out: {metrics}  "
            f"{record.images_per_second:.1f} img/s{'  best so far' if best else ''}"
        )
        for reason in skipped[self._listed :]:
            self.announce(f"skipped: {reason}")
        self._listed = len(skipped)
        self._epoch_started, self._images_since = now, 0


class NullRecorder:
    """The recorder of a process that is not the first: it says nothing and writes nothing."""

    def __enter__(self) -> NullRecorder:
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


def _rounded(value: float | str | None) -> float | str | None:
    return float(f"{value:.6g}") if isinstance(value, float) else value
