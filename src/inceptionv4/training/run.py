"""A run folder: everything that a training writes, and nothing outside it.

runs/<recipe>/<n>/
    config.yaml         the resolved settings; `train --config` on it repeats the run
    environment.json    versions, machine, command
    log.jsonl           a line a step
    results.csv         a line an epoch
    checkpoints/        best.safetensors, last.safetensors
    plots/curves.png    loss, accuracy, learning rate
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
from inceptionv4.errors import RunError
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
