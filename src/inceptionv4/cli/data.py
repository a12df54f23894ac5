"""`inceptionv4 data`: look at labelled images, examine them, pack them."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from inceptionv4.cli.console import Flag, print_json, say
from inceptionv4.config import MOST_SEED
from inceptionv4.data.options import AS_FOUND, ReadOptions
from inceptionv4.errors import DataError, UsageError
from inceptionv4.printable import note, printable

if TYPE_CHECKING:
    from inceptionv4.data.tools.doctor import Report
    from inceptionv4.data.tools.overview import Overview

ReadAs = Annotated[ReadOptions, Parameter(name="--data")]
"""How the data are read, by options called as the settings of a training."""

app = App(name="data", help="Look at labelled images, examine them, pack them.", help_format="plaintext")

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
SHOWN = 3
"""Files that are named for a finding; --json names all."""


@app.command
def inspect(path: str, /, *, mosaic: Path | None = None, json: Flag = False, options: ReadAs = AS_FOUND) -> None:
    """Say what lies at PATH: layout, classes, counts, sizes; and draw the first images of each class.

    Parameters
    ----------
    path
        A folder, .zip, .tar, .csv or .parquet of labelled images, shards, or digits.
    mosaic
        Where to write the picture of the first images; NAME-mosaic.png in this folder if not given.
    json
        Print one object.
    """
    from inceptionv4.data.tools.overview import inspect as look
    from inceptionv4.runtime.files import write_whole

    overview, picture = look(path, options)
    target = mosaic or _default_mosaic(path)
    write_whole(target, lambda temporary: picture.save(temporary, "PNG"))
    if json:
        print_json(asdict(overview) | {"images": overview.images, "mosaic": str(target)})
    else:
        show_overview(overview)
        say(f"The first images of each class: {target}")


@app.command
def doctor(path: str, /, *, json: Flag = False, options: ReadAs = AS_FOUND) -> None:
    """Examine every image at PATH: damage, duplicates, leakage, imbalance, sizes. Exits with 3 if training would fail.

    Parameters
    ----------
    path
        A folder, .zip, .tar, .csv or .parquet of labelled images, shards, or digits.
    json
        Print one object, with every file that was found.
    """
    from inceptionv4.data.tools.doctor import examine

    report = examine(path, workers=os.cpu_count() or 1, options=options)
    if json:
        print_json(asdict(report) | {"failures": report.failures})
    else:
        show_report(report)
    if report.failures:
        raise DataError(f"training on {path} would fail: {'; '.join(report.failures)}")


@app.command
def pack(
    path: str,
    out: Path,
    /,
    *,
    shard_size: str = "256M",
    short_side: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    options: ReadAs = AS_FOUND,
) -> None:
    """Pack the images at PATH into shuffled tar shards in the folder OUT, and read them back.

    The same command goes on where it was stopped.

    Parameters
    ----------
    path
        A folder, .zip, .tar, .csv or .parquet of labelled images, shards, or digits.
    out
        An empty or new folder.
    shard_size
        Largest size of a shard, such as 256M or 1G.
    short_side
        Make images smaller whose shorter side has more pixels than this.
    val_fraction
        Share held out of each class where the data has no val folder.
    seed
        Of the order.
    on_error
        Stop at an image that cannot be read, or leave it out and list it.
    """
    from inceptionv4.data.tools.pack import pack as write

    if short_side is not None and short_side < 1:
        raise UsageError(f"--short-side must be at least 1, got {short_side}")
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"--seed must be at least 0 and at most {MOST_SEED}, got {seed}")
    if not 0 < val_fraction < 1:
        raise UsageError(f"--val-fraction must be between 0 and 1, got {val_fraction:g}")
    packed = write(
        path,
        out,
        shard_bytes=parse_size(shard_size),
        short_side=short_side,
        val_fraction=val_fraction,
        seed=seed,
        on_error=on_error,
        options=options,
    )
    for reason in packed.skipped:
        note(f"left out: {reason}")
    smaller = f", {packed.shrunk:,} made smaller" if packed.shrunk else ""
    left_out = f", {len(packed.skipped):,} left out" if packed.skipped else ""
    say(
        f"{packed.images:,} images{smaller}{left_out} in {packed.shards:,} shards, {in_units(packed.size)}, verified",
        f"inceptionv4 train --data {packed.folder}",
    )


def _default_mosaic(path: str) -> Path:
    """A file of the data's name in the current folder, but never one among the data.

    Raises:
        UsageError: the current folder is one of the data's.
    """
    data = Path(path).resolve()
    if data.is_dir() and Path.cwd().is_relative_to(data):
        raise UsageError(f"the first images would be drawn into {path}; say with --mosaic FILE where to")
    name = re.sub(r"\W+", "-", data.stem).strip("-") or "data"
    return Path(f"{name}-mosaic.png")


def parse_size(text: str) -> int:
    """Bytes in a size such as 256M, 256MB, 1.5G or 1048576.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?b?", text.strip().lower())
    size = float(match[1]) * UNITS[match[2]] if match else 0
    if not 1 <= size < 2**63:
        raise UsageError(f"--shard-size must be a size such as 256M or 1G, got {text[:40]!r}")
    return int(size)


def in_units(size: float) -> str:
    """A number of bytes for people: 1.4 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
        size /= 1000
    raise AssertionError


def show_overview(overview: Overview) -> None:
    from inceptionv4.data.tools.overview import extremes

    total = in_units(overview.bytes_each * overview.images)
    formats = ", ".join(f"{count:,} {name}" for name, count in overview.formats.items())
    of = "" if overview.sampled == overview.images else f" (of {overview.sampled:,} looked at)"
    facts = {
        "layout": overview.layout,
        "classes": f"{len(overview.classes):,}",
        "images": f"{overview.images:,}: {sum(overview.train):,} to train on, {sum(overview.val):,} held out",
        "files": f"{formats}{of}; {total} in all",
        "width": f"{overview.width[0]:,} to {overview.width[2]:,} px, median {overview.width[1]:,}",
        "height": f"{overview.height[0]:,} to {overview.height[2]:,} px, median {overview.height[1]:,}",
    }
    if overview.ignored:
        facts["ignored"] = f"{overview.ignored:,} other files"
    if overview.left_out:
        facts["left out"] = "\n".join(map(printable, overview.left_out))
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, fact in facts.items():
        table.add_row(name, Text(fact if name == "left out" else printable(fact)))
    counts = Table(box=None, pad_edge=False)
    for heading in ("class", "train", "val"):
        counts.add_column(heading, justify="left" if heading == "class" else "right", overflow="fold")
    val = dict(zip(overview.classes, overview.val, strict=True))
    for row in extremes(overview.classes, overview.train, 12):
        counts.add_row("...", "", "") if row is None else counts.add_row(
            Text(printable(row[0])), f"{row[1]:,}", f"{val[row[0]]:,}"
        )
    _print(table)
    say("")
    _print(counts)


def _print(table: Table) -> None:
    # Another program that reads the table gets each row on one line.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def show_report(report: Report) -> None:
    """A row a check: how bad, what, how many, and the first of them."""
    from inceptionv4.data.tools.doctor import findings

    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "what and where"):
        table.add_column(heading, overflow="fold")
    colors = {"ok": "green", "note": "blue", "warning": "yellow", "error": "bold red"}
    for finding in findings(report):
        rest = len(finding.examples) - SHOWN
        more = [f"and {rest:,} more (--json lists all)"] if rest > 0 else []
        lines = map(printable, [finding.words, *finding.examples[:SHOWN], *more])
        found = f"{finding.count:,}"
        table.add_row(f"[{colors[finding.level]}]{finding.level}[/]", finding.check, found, Text("\n".join(lines)))
    say(f"{report.location}: {report.train:,} images to train on, {report.val:,} held out ({report.layout})")
    for reason in report.left_out:
        say(f"left out: {reason}")
    say("")
    _print(table)
