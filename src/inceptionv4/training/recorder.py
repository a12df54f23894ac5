"""What a run leaves for people: progress while it goes on, then a line a step, a line an epoch, and curves."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType

from inceptionv4.errors import RunError
from inceptionv4.evaluation.metrics import Metrics
from inceptionv4.runtime.progress import Progress
from inceptionv4.training.plots import draw_curves


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


class Recorder:
    """Shows and writes the progress of a run over `images` training images; a context manager.

    Raises:
        RunError: the run folder cannot be written any more.
    """

    def __init__(self, run: Path, images: int, epochs: int) -> None:
        self.run, self.epochs = run, epochs
        self.progress = Progress("training", total=images)
        try:
            self._log = (run / "log.jsonl").open("w", encoding="utf-8", buffering=1)
            self._results = (run / "results.csv").open("w", encoding="utf-8", newline="", buffering=1)
        except OSError as error:
            raise RunError(f"cannot write in {run}: {error.strerror or error}") from None
        self._table = csv.DictWriter(self._results, [field.name for field in fields(EpochRecord)])
        self._table.writeheader()
        self.records: list[EpochRecord] = []

    def __enter__(self) -> Recorder:
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, traceback)
        self._log.close()
        self._results.close()
        if self.records:
            hint = draw_curves(self.run)
            if hint:
                self.progress.announce(hint)

    def step(self, record: StepRecord) -> None:
        self._log.write(json.dumps(asdict(record)) + "\n")
        detail = f"epoch {record.epoch}/{self.epochs}  loss {record.loss:.3f}"
        self.progress.advance(record.images, detail)

    def epoch(self, record: EpochRecord, metrics: Metrics, best: bool) -> None:
        self.records.append(record)
        self._table.writerow({name: _rounded(value) for name, value in asdict(record).items()})
        skipped = f"  {record.skipped_images} images skipped" if record.skipped_images else ""
        self.progress.announce(
            f"epoch {record.epoch}/{self.epochs}  training loss {record.train_loss:.3f}  held out: {metrics}"
            f"  {record.images_per_second:.1f} img/s{skipped}{'  best so far' if best else ''}"
        )


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
