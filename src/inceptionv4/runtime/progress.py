"""Progress of long work on standard error: a bar on a terminal, now and then a line anywhere else."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from inceptionv4.printable import note, printable

SECONDS_A_LINE = 30.0


class Progress:
    """Counts images towards `total`; a context manager, so that the bar is closed whatever happens.

    Where there is no terminal, the whole work prints `lines` lines; where nobody knows the total, which is None, one
    every `SECONDS_A_LINE`. Work that goes on has `done` images behind it. Without `bar`, there are lines on a terminal,
    too, for work whose answers are printed there. `unit` is what is counted if not images, and the rate of it.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        lines: int = 4,
        done: int = 0,
        bar: bool = True,
        unit: tuple[str, str] = ("images", "img/s"),
    ) -> None:
        self.title, self.total, self.lines, self.unit = title, total, lines, unit
        self.done = self._before = done
        self._started = time.monotonic()
        self._printed = 0 if total is None else done * lines // max(total, 1)
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        if bar and self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:.1f} " + unit[1]),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self._console,
                redirect_stdout=False,  # it may lead to a file, and answers belong there
            )
            self._task = self._bar.add_task(title, total=total, completed=done, rate=0.0)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int, detail: str = "") -> None:
        """Count `images` more; `detail` is shown beside the title."""
        self.done += images
        rate = (self.done - self._before) / max(time.monotonic() - self._started, 1e-9)
        title = f"{self.title} {detail}".strip()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=title, rate=rate)
        elif self.total is None:
            if (due := int((time.monotonic() - self._started) / SECONDS_A_LINE)) > self._printed:
                self._printed = due
                note(f"{title}  {self.done:,} {self.unit[0]}  {rate:.1f} {self.unit[1]}")
        elif self.done * self.lines >= (self._printed + 1) * self.total:
            self._printed = self.done * self.lines // self.total
            left = timedelta(seconds=round((self.total - self.done) / rate))
            note(f"{title}  {self.done:,}/{self.total:,} {self.unit[0]}  {rate:.1f} {self.unit[1]}  ETA {left}")

    def announce(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        self._console.print(printable(line), markup=False)
