"""Predictions as lines of JSON, as CSV, and as a table for people."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from inceptionv4.cli.console import complain

if TYPE_CHECKING:
    from inceptionv4.inference.classifier import Prediction


def print_json_lines(predictions: Iterator[Prediction]) -> int:
    """A line an image, as soon as it is known; returns how many could not be read."""
    bad = 0
    for prediction in predictions:
        line: dict[str, object] = {"file": prediction.file}
        if prediction.error is not None:
            bad += 1
            line["error"] = prediction.error
        else:
            line["predictions"] = [{"class": guess.label, "probability": guess.probability} for guess in prediction.top]
        print(json.dumps(line, ensure_ascii=False), flush=True)
    return bad


def print_csv(predictions: Iterator[Prediction]) -> int:
    """A line a class; an image that cannot be read is named on standard error. Returns how many."""
    bad = 0
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["file", "rank", "class", "probability"])
    for prediction in predictions:
        if prediction.error is not None:
            bad += 1
            complain(prediction.error)
        for rank, guess in enumerate(prediction.top, start=1):
            table.writerow([prediction.file, rank, guess.label, f"{guess.probability:.6f}"])
    return bad


def print_table(predictions: Iterator[Prediction]) -> int:
    """A row an image: the best class, its probability, the runners-up. Returns how many could not be read."""
    bad = 0
    table = Table(box=None, pad_edge=False)
    for heading in ("file", "class", "probability", "then"):
        table.add_column(heading, overflow="fold")
    for prediction in predictions:
        if prediction.error is not None:
            bad += 1
            complain(prediction.error)
            continue
        others = ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in prediction.top[1:])
        table.add_row(prediction.file, prediction.label, f"{prediction.probability:.1%}", others)
    if table.row_count:
        # Another program that reads the table gets each image on one line.
        Console(width=None if sys.stdout.isatty() else 10_000, markup=False).print(table)
    return bad
