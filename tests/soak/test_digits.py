"""The recipe's promise, at full width: at least 98.0 % of the held-out digits."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from inceptionv4 import load_config, train


@pytest.mark.parametrize("seed", range(3))
def test_digits_reach_98_percent(tmp_path: Path, seed: int) -> None:
    run = train(dataclasses.replace(load_config("digits"), output=str(tmp_path), seed=seed))
    with (run / "results.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    print(f"seed {seed}: top-1 {epochs[-1]['top1']}, {sum(float(row['seconds']) for row in epochs):.0f} s")
    assert max(float(row["top1"]) for row in epochs) >= 0.98
