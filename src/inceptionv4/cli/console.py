"""What commands share: flags, settings, and how answers and complaints are printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from inceptionv4.printable import note, printable
from inceptionv4.runtime.launcher import read_launch
from inceptionv4.strict_json import to_json

if TYPE_CHECKING:
    from inceptionv4.config import Config

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Setting = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
"""A token of `--section.key value`, which `resolve` understands."""


def resolve(settings: tuple[str, ...], recipe: str | None, config: Path | None, data: str | None) -> Config:
    """The settings of a training from what stands on the command line."""
    from inceptionv4.config import load_config
    from inceptionv4.settings import Given, read_options

    overrides = read_options(settings)
    if data is not None:
        overrides["data.path"] = Given(data, "--data")
    return load_config(recipe, config, overrides)


def say(*lines: object) -> None:
    """Print lines for people on standard output, with nothing in them that a terminal obeys."""
    for line in lines:
        print(printable(line), flush=True)


def print_path(path: object) -> None:
    """Print the name of a file, as it is for a script, and as `say` does on a terminal."""
    print(printable(path) if sys.stdout.isatty() else path)


def print_json(value: object) -> None:
    print(to_json(value))


def is_rank_zero() -> bool:
    """True for the one process, of those that `torchrun` started, that says what all of them have to say."""
    return read_launch().rank == 0


def print_error(message: object) -> None:
    note(f"error: {message}")
