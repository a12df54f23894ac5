"""A run folder: everything that a training writes, and nothing outside it.

runs/<recipe>/<n>/
    config.yaml         the resolved settings; `train --config` on it repeats the run
    environment.json    versions, machine, command
    log.jsonl           a line a step
    results.csv         a line an epoch
    checkpoints/        best.safetensors, last.safetensors, and the newest states, step-00000088.safetensors
    plots/curves.png    loss, accuracy, learning rate, images a second
    plots/inputs.png    what the network saw first, augmented and mixed
    tensorboard/        with `training.tracker tensorboard`
"""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from inceptionv4.config import Config
from inceptionv4.errors import RunError, UsageError
from inceptionv4.runtime.device import Device
from inceptionv4.runtime.files import write_text
from inceptionv4.settings import dump

PACKAGES = ("inceptionv4", "torch", "torchvision", "pillow", "numpy", "safetensors")


def create_run(config: Config, device: Device) -> Path:
    """Make the next run folder of the recipe, with its settings and environment.

    Raises:
        RunError: the folder cannot be written.
    """
    recipe = Path(config.output) / config.recipe
    try:
        recipe.mkdir(parents=True, exist_ok=True)
        run = _next_number(recipe)
        (run / "checkpoints").mkdir()
        (run / "plots").mkdir()
    except OSError as error:
        raise RunError(
            f"cannot make a run folder in {recipe}: {error.strerror or error}; give another place with --output FOLDER"
        ) from None
    write_text(run / "config.yaml", dump(config))
    write_text(run / "environment.json", json.dumps(environment(device), indent=2) + "\n")
    return run


def find_run(config: Config, resume: str | None) -> Path | None:
    """The run folder to go on with.

    `auto` is the newest run of the recipe with these very settings, or None if there is none; any other text is a run
    folder, whose settings must be these.

    Raises:
        UsageError: no such run folder, or one of other settings.
    """
    if resume is None:
        return None
    text = dump(config)
    if resume != "auto":
        run = Path(resume)
        if not (run / "config.yaml").is_file():
            raise UsageError(f"{run} is no run folder: it has no config.yaml; give one such as runs/digits/1, or auto")
        if (run / "config.yaml").read_text(encoding="utf-8") != text:
            raise UsageError(f"{run} was begun with other settings; go on with its own, `--config {run}/config.yaml`")
        return run
    runs = [path for path in (Path(config.output) / config.recipe).glob("*") if path.name.isdigit()]
    for run in sorted(runs, key=lambda path: -int(path.name)):
        if (run / "config.yaml").is_file() and (run / "config.yaml").read_text(encoding="utf-8") == text:
            return run
    return None


def _next_number(recipe: Path) -> Path:
    """Making the folder is what claims its number, so that two runs started at once get one each."""
    numbers = [int(path.name) for path in recipe.iterdir() if path.name.isdigit()]
    number = max(numbers, default=0) + 1
    while True:
        run = recipe / str(number)
        try:
            run.mkdir()
        except FileExistsError:
            number += 1
        else:
            return run


def environment(device: Device) -> dict[str, object]:
    """Versions, machine and command, for whoever wonders later how a run came about."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "device": device.describe(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
