"""Where else the figures of a training go, while it runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from inceptionv4.errors import UsageError

MISSING = "training.tracker tensorboard needs the tensorboard extra: `pip install inceptionv4[tensorboard]`"


class Tracker(Protocol):
    """What a tracker of experiments has to offer; any other is one class like `TensorBoard` below."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the figures of a step, by name."""

    def close(self) -> None:
        """Write what is not yet written."""


class TensorBoard:
    """Event files in `tensorboard/` of the run folder: `tensorboard --logdir runs`."""

    def __init__(self, run: Path, step: int) -> None:
        """`step` is the last one that stays, of a run that goes on.

        Raises:
            UsageError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import
        except ImportError:
            raise UsageError(MISSING) from None
        self._writer = SummaryWriter(run / "tensorboard", purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def require_tracker(name: str) -> None:
    """See that what `training.tracker` names is installed.

    Raises:
        UsageError: it is not.
    """
    if name == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise UsageError(MISSING)


def make_tracker(name: str, run: Path, step: int) -> Tracker | None:
    """The tracker that `training.tracker` names, if any."""
    return TensorBoard(run, step) if name == "tensorboard" else None
