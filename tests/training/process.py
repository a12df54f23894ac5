"""A training process for `torchrun`, to which something happens: `process.py SETTINGS [STEP RANK SIGNAL]`.

The process of that rank gets the signal after that step, unless it was started again after one. The signals NAN and
INF are a loss that is no number, or too large for one, in the next step; NODE is the end of its machine: the agent of
`torchrun` and the process are killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from inceptionv4.cli import main
from inceptionv4.training.loop import TrainingLoop
from inceptionv4.training.train_step import TrainStep


def spoil(step: int, rank: int, factor: float) -> None:
    original = TrainStep.step

    def take(self: Any, batch: Any, number: int, lr: float) -> Any:
        if (number, self.ranks.rank) == (step, rank):
            loss = self.loss.__class__.__call__
            self.loss.__class__.__call__ = lambda *arguments: loss(*arguments) * factor
        return original(self, batch, number, lr)

    TrainStep.step = take  # type: ignore[method-assign]


def interfere(step: int, rank: int, number: int, *, whole_node: bool = False) -> None:
    original = TrainingLoop.handle_stop_and_save

    def heed(self: Any) -> None:
        if (self.state.position.step, self.state.ranks.rank) == (step, rank):
            if whole_node:
                os.kill(os.getppid(), number)
            os.kill(os.getpid(), number)
        original(self)

    TrainingLoop.handle_stop_and_save = heed  # type: ignore[method-assign]


if __name__ == "__main__":
    settings, *event = sys.argv[1:]
    if event and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        step, rank = int(event[0]), int(event[1])
        if event[2] in ("NAN", "INF"):
            spoil(step, rank, float(event[2]))
        elif event[2] == "NODE":
            interfere(step, rank, signal.SIGKILL, whole_node=True)
        else:
            interfere(step, rank, signal.Signals[event[2]])
    assert Path(settings).is_file()
    main(["train", "--config", settings, "--resume", "auto"])
