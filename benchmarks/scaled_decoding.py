"""What scaled decoding changes: the pixels of training views with and without it, and their speed.

    python benchmarks/scaled_decoding.py --json

The views are those of a training at 299 px. The difference is in grey levels of 0..255, between the view that is
decoded at 1/2, 1/4 or 1/8 and the same view that is decoded in full; Pillow's own is 0.003 from the latter.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import circumstances, interleave, report
from photographs import write_photographs

from inceptionv4.config import AugmentConfig
from inceptionv4.data.augment import sample_generator, training_view
from inceptionv4.spec import Preprocessing

SETS = {"1600x1200": (1600, 1200, 60), "4000x3000": (4000, 3000, 24)}


def show(views: Callable[[bool, int], list[np.ndarray]], scaled: bool) -> int:
    return len(views(scaled, 0))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    results: dict[str, object] = circumstances(("inceptionv4", "torch", "pillow", "simplejpeg"))
    for name, (width, height, count) in SETS.items():
        with tempfile.TemporaryDirectory() as temporary:
            write_photographs(Path(temporary), width, height, count)
            contents = [path.read_bytes() for path in sorted(Path(temporary).rglob("*.jpg"))]

        def views(scaled: bool, epoch: int, contents: list[bytes] = contents) -> list[np.ndarray]:
            return [
                training_view(
                    content, "it", Preprocessing(), AugmentConfig(), sample_generator(0, epoch, index),
                    scaled_decoding=scaled,
                ).pixels.astype(np.float64)
                for index, content in enumerate(contents)
            ]  # fmt: skip

        pairs = [pair for epoch in range(3) for pair in zip(views(True, epoch), views(False, epoch), strict=True)]
        differences = [np.abs(scaled - full) for scaled, full in pairs if not np.array_equal(scaled, full)]
        speeds = interleave(
            {name: partial(show, views, scaled) for name, scaled in (("scaled", True), ("full", False))}, given.rounds
        )
        means = [difference.mean() for difference in differences]
        results[name] = {
            "views": len(pairs),
            "share_scaled": len(differences) / len(pairs),
            "mean_difference": float(np.mean(means)),
            "largest_mean_difference": float(np.max(means)),
            "mean_99th_percentile": float(np.mean([np.percentile(difference, 99) for difference in differences])),
            "ratio_speed": speeds.ratio("scaled", "full"),
            "spread_speed": speeds.spread("scaled", "full"),
            "n": given.rounds,
        }
    report(results, given.json)


if __name__ == "__main__":
    main()
