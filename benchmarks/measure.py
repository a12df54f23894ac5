"""Comparing speeds on a machine that others use too: all contenders in turn, many rounds, ratios within a round."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from inceptionv4.strict_json import to_json

Contender = Callable[[], int]
"""Does its work once, and returns how many images that were."""


@dataclass(frozen=True)
class Speeds:
    """Images per second of each contender, a number a round."""

    rounds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratios(self, name: str, other: str) -> list[float]:
        """`name` over `other`, round by round: what slows the machine for a minute slows both."""
        return [a / b for a, b in zip(self.rounds[name], self.rounds[other], strict=True)]

    def ratio(self, name: str, other: str) -> float:
        return statistics.median(self.ratios(name, other))

    def spread(self, name: str, other: str) -> tuple[float, float]:
        """The lowest and the highest ratio of a round."""
        ratios = self.ratios(name, other)
        return min(ratios), max(ratios)


def interleave(contenders: Mapping[str, Contender], rounds: int) -> Speeds:
    """Let each contender work once a round, after one round that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        for name, work in contenders.items():
            start = time.perf_counter()
            images = work()
            seconds = time.perf_counter() - start
            if number >= 0:
                speeds[name].append(images / seconds)
                print(f"round {number + 1} of {rounds}: {name} {images / seconds:.1f} images/s", file=sys.stderr)
    return Speeds(speeds)


def require_different(figure: str, values: Mapping[str, float], tolerance: float = 1e-3) -> None:
    """Refuse a `figure` that is the same for all programs, within `tolerance` of the largest one.

    Different programs do not agree so well. If all of them do, what was measured is something that they share.

    Raises:
        RuntimeError: all values are the same.
    """
    if len(values) < 2:
        return
    low, high = min(values.values()), max(values.values())
    if high - low <= tolerance * high:
        names = ", ".join(values)
        raise RuntimeError(
            f"{figure} is {low:g} to {high:g} for all of {names}, which are different programs; "
            "it is probably a figure of the process that started them"
        )


def circumstances(packages: tuple[str, ...]) -> dict[str, object]:
    """What a figure needs beside it: machine, versions, commit, command."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{torch.cpu.get_capabilities().get('cpu_name', platform.processor())}, {platform.platform()}",
        "instructions": instructions(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def instructions() -> str:
    """Those that decide how fast this processor multiplies, as far as torch may use them."""
    can = torch.cpu.get_capabilities()
    names = [name for name in ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16") if can.get(name)]
    switches = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OV_CPU_MAX_ISA")
    return ", ".join([*names, *(f"{name}={os.environ[name]}" for name in switches if name in os.environ)])


def report(results: Mapping[str, object], as_json: bool) -> None:
    """Print the results: one object, or a line a figure."""
    if as_json:
        print(to_json(results, indent=2))
        return
    for name, value in results.items():
        if isinstance(value, Mapping):
            print(name)
            for key, figure in value.items():
                print(f"  {key}: {figure:.3g}" if isinstance(figure, float) else f"  {key}: {figure}")
        else:
            print(f"{name}: {value}")
