"""Run folders: how a new one gets its number, and which one a training goes on with."""

from __future__ import annotations

import platform
import sys
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from inceptionv4.config import Config
from inceptionv4.errors import ConfigError, RunError, UsageError
from inceptionv4.runtime import storage
from inceptionv4.runtime.device import Device
from inceptionv4.runtime.files import require_utf8, write_text
from inceptionv4.runtime.object_cache import fetch
from inceptionv4.runtime.storage import PathOrUri, absolute, join, plain
from inceptionv4.settings import build, dump, read_yaml
from inceptionv4.strict_json import to_json
from inceptionv4.training.run.settings import differences

PACKAGES = ("inceptionv4", "torch", "torchvision", "pillow", "numpy", "safetensors")


def create_run(config: Config, device: Device) -> PathOrUri:
    """Make the next run folder of the recipe, with its settings and environment; in object storage, only there.

    Raises:
        RunError: the folder cannot be written.
        StorageError: the storage cannot be reached, or refuses.
        UsageError: the folder's name is not UTF-8.
    """
    recipe = join(plain(config.output), config.recipe)
    if isinstance(recipe, str):
        return _create_remotely(recipe, config, device)
    require_utf8(recipe)
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


def find_run(config: Config, resume: str | None) -> PathOrUri | None:
    """The run folder to go on with, here or in object storage.

    `auto` is the newest run of the recipe that can go on with these settings (see `settings.py`) and was begun on data
    in the same place, or None if there is none; any other text is a run folder. Whether its states go with these
    settings is found out when they are read.

    Raises:
        UsageError: no such run folder; or, for `auto`, one whose settings cannot be read.
        StorageError: it is in object storage, which cannot be reached, or refuses.
    """
    if resume is None:
        return None
    if resume != "auto":
        run = join(plain(resume))
        if read_settings(run) is None and not _has_checkpoints(run):
            raise UsageError(f"{run} is no run folder: it has no config.yaml; give one such as runs/digits/1, or auto")
        return run
    recipe = join(plain(config.output), config.recipe)
    runs = (join(recipe, str(number)) for number in sorted(_numbers(recipe), reverse=True))
    return next((run for run in runs if _can_go_on(run, config)), None)


def fetch_settings(resume: str) -> Path:
    """The `config.yaml` of a run folder or of the run at a URI, as a file here.

    Raises:
        UsageError: there is none.
        StorageError: it is in object storage, which cannot be reached, or refuses.
    """
    run = join(plain(resume))
    if read_settings(run) is None:
        if _has_checkpoints(run):
            raise UsageError(
                f"{run} has no config.yaml any more; give its settings with --config FILE or --recipe NAME, and they "
                "are compared with those in its states"
            )
        raise UsageError(f"{run} is no run folder: it has no config.yaml; give one such as runs/digits/1, or auto")
    return fetch(join(run, "config.yaml"))


def _can_go_on(run: PathOrUri, config: Config) -> bool:
    """Whether a run was begun with settings that allow `config`; one of another version's settings does not."""
    text = read_settings(run)
    if text is None:
        return False
    given = read_yaml(text, str(join(run, "config.yaml")))
    try:
        begun = build(Config, given)
    except ConfigError:
        return False
    same_place = absolute(begun.data.path or "") == absolute(config.data.path or "")
    return same_place and not differences(config, begun)


def _has_checkpoints(run: PathOrUri) -> bool:
    if isinstance(run, Path):
        return any((run / "checkpoints").glob("*.safetensors"))
    return bool(storage.list_objects(f"{run}/checkpoints"))


def _create_remotely(recipe: str, config: Config, device: Device) -> str:
    """The settings are what claims a number: of two that are written at once, the storage takes the first."""
    number = max(_numbers(recipe), default=0) + 1
    while not storage.write(f"{recipe}/{number}/config.yaml", dump(config).encode(), new=True):
        number += 1
    storage.write(f"{recipe}/{number}/environment.json", _describe(device).encode())
    return f"{recipe}/{number}"


def _numbers(recipe: PathOrUri) -> set[int]:
    """List the numbers of the runs in a folder of runs."""
    if isinstance(recipe, Path):
        names = {path.name for path in recipe.glob("*")}
    else:
        names = {object.uri[len(recipe) + 1 :].partition("/")[0] for object in storage.list_objects(recipe)}
    return {int(name) for name in names if name.isdigit()}


def read_settings(run: PathOrUri) -> str | None:
    """The text of a run's config.yaml, if it has one.

    Raises:
        UsageError: it is no text.
        StorageError: it is in object storage, which cannot be reached, or refuses.
    """
    settings = join(run, "config.yaml")
    if isinstance(settings, Path):
        content = settings.read_bytes() if settings.is_file() else None
    else:
        content = storage.read_all(settings) if storage.find(settings) else None
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{settings} is damaged ({error}); put it back from a copy, or move it away") from None


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
    return to_json({"run": uuid.uuid4().hex, **environment(device)}, indent=2) + "\n"


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
