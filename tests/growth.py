"""The memory that `predict` takes for so many images of one archive."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

PREDICT = """
import sys
from inceptionv4.cli import main
from inceptionv4.runtime.memory import peak_process_memory
try:
    main(["predict", *sys.argv[1:]])
except SystemExit as end:
    print(end.code, peak_process_memory(), file=sys.stderr)
"""


def write_tiny_images(path: Path, count: int) -> Path:
    """A .zip of `count` different PNGs of 8 x 8 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(pixels):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"images/{number // 1000:03}/{number:06}.png", content.getvalue())
    return path


def peak_memory(model: Path, archive: Path, count: int, *options: str) -> float:
    """MiB at most while all `count` images of `archive` are answered, one JSON line each."""
    with (archive.parent / "answers.jsonl").open("w+") as answers:
        command = [sys.executable, "-c", PREDICT, str(model), str(archive), "--json", "--top", "1", *options]
        result = subprocess.run(command, stdout=answers, stderr=subprocess.PIPE, text=True)
        code, peak = result.stderr.split()[-2:]
        assert code == "0", result.stderr
        answers.seek(0)
        assert sum(1 for _ in answers) == count
    return int(peak) / 2**20
