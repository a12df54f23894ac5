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
from inceptionv4.runtime import storage
from inceptionv4.runtime.device import Device
from inceptionv4.runtime.files import write_text
from inceptionv4.runtime.storage import Place, join, plain
from inceptionv4.settings import dump

PACKAGES = ("inceptionv4", "torch", "torchvision", "pillow", "numpy", "safetensors")


def create_run(config: Config, device: Device) -> Place:
    """Make the next run folder of the recipe, with its settings and environment; in object storage, only there.

    Raises:
        RunError: the folder cannot be written.
        StorageError: the storage cannot be reached, or refuses.
    """
    recipe = join(plain(config.output), config.recipe)
    if isinstance(recipe, str):
        return _create_remotely(recipe, config, device)
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
    write_text(run / "environment.json", _describe(device))
    return run


def find_run(config: Config, resume: str | None) -> Place | None:
    """The run folder to go on with, here or in object storage.

    `auto` is the newest run of the recipe with these very settings, or None if there is none; any other text is a run
    folder, whose settings must be these.

    Raises:
        UsageError: no such run folder, or one of other settings.
        StorageError: it is in object storage, which cannot be reached, or refuses.
    """
    if resume is None:
        return None
    text = dump(config)
    if resume != "auto":
        run = join(plain(resume))
        settings = _read_settings(run)
        if settings is None:
            raise UsageError(f"{run} is no run folder: it has no config.yaml; give one such as runs/digits/1, or auto")
        if settings != text:
            raise UsageError(f"{run} was begun with other settings; go on with its own, `--config {run}/config.yaml`")
        return run
    recipe = join(plain(config.output), config.recipe)
    runs = (join(recipe, str(number)) for number in sorted(_numbers(recipe), reverse=True))
    return next((run for run in runs if _read_settings(run) == text), None)


def _create_remotely(recipe: str, config: Config, device: Device) -> str:
    """The settings are what claims a number: of two that are written at once, the storage takes the first."""
    number = max(_numbers(recipe), default=0) + 1
    while not storage.write(f"{recipe}/{number}/config.yaml", dump(config).encode(), new=True):
        number += 1
    storage.write(f"{recipe}/{number}/environment.json", _describe(device).encode())
    return f"{recipe}/{number}"


def _numbers(recipe: Place) -> set[int]:
    """Of the runs in a folder of runs."""
    if isinstance(recipe, Path):
        names = {path.name for path in recipe.glob("*")}
    else:
        names = {object.uri[len(recipe) + 1 :].partition("/")[0] for object in storage.list_objects(recipe)}
    return {int(name) for name in names if name.isdigit()}


def _read_settings(run: Place) -> str | None:
    """The text of a run's config.yaml, if it has one."""
    settings = join(run, "config.yaml")
    if isinstance(settings, Path):
        return settings.read_text(encoding="utf-8") if settings.is_file() else None
    return storage.read_all(settings).decode() if storage.find(settings) else None


def _next_number(recipe: Path) -> Path:
    """Making the folder is what claims its number, so that two runs started at once get one each."""
    number = max(_numbers(recipe), default=0) + 1
    while True:
        run = recipe / str(number)
        try:
            run.mkdir()
        except FileExistsError:
            number += 1
        else:
            return run


def _describe(device: Device) -> str:
    return json.dumps(environment(device), indent=2) + "\n"


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
