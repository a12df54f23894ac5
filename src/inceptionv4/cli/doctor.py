"""`inceptionv4 doctor`: what this installation can do, and why not the rest."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from inceptionv4.cli.console import Flag, print_json, say
from inceptionv4.export_metadata import Precision

PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "simplejpeg", "onnxruntime", "openvino", "nncf", "mindspore"),
    *("onnx", "pyarrow", "matplotlib", "tensorboard", "huggingface-hub", "obstore"),
    *("starlette", "uvicorn", "prometheus-client"),
)
"""Packages whose versions matter in an error report."""


SHORT: tuple[Precision, ...] = ("bf16", "fp16")


@dataclass(frozen=True)
class Health:
    """What `--json` prints."""

    version: str
    python: str
    system: str
    device: str
    runtimes: dict[str, dict[str, str | None]]
    """By name: `files` that each runs, why it is `missing` (null: it is here), where it was `tested`."""
    unverified: list[str]
    """Formats of `export`, and precisions, that nothing here can run, so that they are kept untried."""
    packages: dict[str, str | None]


def doctor(*, json: Flag = False) -> None:
    """Say what this installation computes on, which runtimes are here, why others are not, and all versions.

    Parameters
    ----------
    json
        Print one object.
    """
    health = examine()
    if json:
        print_json(asdict(health))
        return
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False)
    say(f"inceptionv4 {health.version}, Python {health.python}, {health.system}")
    say(f"trains on {health.device}; weights are answered in fp32 by default", "")
    table = Table(box=None, pad_edge=False)
    for heading in ("runtime", "runs", "here", "its answers were tested on"):
        table.add_column(heading, overflow="fold")
    for name, facts in health.runtimes.items():
        table.add_row(name, facts["files"], facts["missing"] or "yes", facts["tested"])
    console.print(table)
    say("", f"exported unverified, as nothing here runs them: {', '.join(health.unverified)}")
    found = [f"{name} {version}" for name, version in health.packages.items() if version is not None]
    say("", ", ".join(found))
    absent = [name for name, version in health.packages.items() if version is None]
    if absent:
        say(f"not installed: {', '.join(absent)}")


def examine() -> Health:
    from inceptionv4.inference.runtimes import OM, RUNTIMES
    from inceptionv4.runtime.device import select_device

    return Health(
        version=importlib.metadata.version("inceptionv4"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        device=select_device().describe(),
        runtimes={
            runtime.name: {
                "files": runtime.suffix or "weights of any origin",
                "missing": runtime.missing(),
                "tested": runtime.tested,
            }
            for runtime in RUNTIMES
        },
        unverified=["air", *(["om"] if OM.missing() else []), *_foreign_precisions()],
        packages={name: _version(name) for name in PACKAGES},
    )


def _foreign_precisions() -> list[str]:
    """Precisions in which OpenVINO, if it is here, writes files that this processor runs in another precision."""
    try:
        from inceptionv4.inference.backends.openvino import computes

        return [f"openvino in {precision}" for precision in SHORT if not computes(precision)]
    except ImportError:
        return []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
