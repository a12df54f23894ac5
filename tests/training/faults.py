"""Saves a state, or mends a run, while something fails, in a process of its own for each fault.

    faults.py FOLDER [mended-]

FOLDER/before holds a run whose last state is of step 1. For each fault it is copied to FOLDER/<fault>, and a process
saves step 2 there. FOLDER/damaged holds one whose newest state and log are damaged, without `best` and `last`; it is
copied to FOLDER/mended-<fault>, where a process brings it in order. Prints a line a fault: its name, and how the
process ended.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inceptionv4.config import Config, ModelConfig
from inceptionv4.data.index import read_dataset
from inceptionv4.errors import RunError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.spec import ModelSpec
from inceptionv4.training.run.history import bring_back
from inceptionv4.training.run.recovery import inspect_run
from inceptionv4.training.run.state import Position, save_state
from inceptionv4.training.train_step import TrainStep
from inceptionv4.weights.checkpoint import Checkpoint

OPERATIONS: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("close", "fsync", "chmod", "replace", "rename", "link", "unlink", "mkdir")),
    (tempfile, "mkstemp"),
)
"""What saving asks of the system, besides the writes themselves."""
PARTS = 10
"""Places in the file at which it is full, or the process killed, while it is written."""


REPORTED, SAVED_NEVERTHELESS = 1, 2


class Operations:
    """Those that were counted in this process."""

    count = 0


def fail_at(number: int, fail: Callable[[], None]) -> None:
    """Let `fail` come in place of the `number`-th operation from now."""

    def spoil(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            Operations.count += 1
            if Operations.count == number:
                fail()
            return original(*arguments, **options)

        return call

    for module, name in OPERATIONS:
        setattr(module, name, spoil(getattr(module, name)))


def number_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def raise_error(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def limit_files(size: int, *, kill: bool) -> None:
    """No file may be longer: a write beyond that fails, or, as SIGXFSZ is not caught, the process dies in it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kill else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def main(folder: Path, task: str) -> None:
    torch.set_num_threads(1)  # or a fork would not be safe
    torch.manual_seed(0)
    config = Config(model=ModelConfig(width=0.1))
    samples = read_dataset("digits").train
    train_step = TrainStep(InceptionV4(10, width=0.1), config, samples, select_device("cpu", "fp32"))
    checkpoint = Checkpoint(
        train_step.ema.network.state_dict(), ModelSpec(classes=samples.classes, width=0.1), {"epoch": 1}
    )

    def save(run: Path, step: int) -> None:
        save_state(run, checkpoint, train_step, Position(step=step), keep=1)

    def mend(run: Path) -> None:
        inspect_run(run).apply()
        bring_back(run, 1, 1, None)

    before = folder / "before"
    (before / "checkpoints").mkdir(parents=True)
    save(before, 1)
    (before / "checkpoints/step-00000003.safetensors").write_bytes(b"damaged")  # newer by its name
    size = (before / "checkpoints/step-00000001.safetensors").stat().st_size
    damaged = folder / "damaged"
    (damaged / "checkpoints").mkdir(parents=True)
    save_state(damaged, checkpoint, train_step, Position(epoch=1, step=1, best_epoch=1), keep=1)
    (damaged / "checkpoints/last.safetensors").unlink()
    (damaged / "checkpoints/step-00000003.safetensors").write_bytes(b"damaged")
    (damaged / "log.jsonl").write_text("damaged\n")

    def attempt(name: str, prepare: Callable[[], None]) -> int:
        """How a process that saves or mends ended: 0, reported, done in spite of the fault, or minus a signal."""
        mends = name.startswith("mended-")
        shutil.copytree(damaged if mends else before, folder / name)
        child = os.fork()
        if child == 0:
            code = 70  # any other error
            try:
                prepare()
                mend(folder / name) if mends else save(folder / name, 2)
                code = SAVED_NEVERTHELESS if 0 < number_of(name) <= Operations.count else 0
            except RunError:
                code = REPORTED
            except BaseException:  # noqa: BLE001 - printed, and an exit status that no test expects
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(name, status, flush=True)
        return status

    kinds = {"EIO": raise_error(errno.EIO), "ENOSPC": raise_error(errno.ENOSPC)}
    kinds["SIGKILL"] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    for kind, fail in kinds.items():
        number = 1
        while attempt(f"{task}{kind}-{number}", lambda number=number, fail=fail: fail_at(number, fail)) != 0:
            number += 1
    for part in range(PARTS):
        for kill in (False, True):
            name = f"{task}{'killed' if kill else 'full'}-{part}"
            attempt(name, lambda part=part, kill=kill: limit_files(size * part // PARTS, kill=kill))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
