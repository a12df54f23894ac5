"""Photographs of any size: mosaics of 400 x 300 px pieces of those that scikit-image and scikit-learn ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

PIECE = (400, 300)


def write_photographs(folder: Path, width: int, height: int, count: int, quality: int = 90) -> None:
    """Write `count` JPEGs in two class folders, always the same ones."""
    generator = np.random.default_rng(0)
    sources = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    sources += list(load_sample_images().images)
    for number in range(count):
        image = Image.new("RGB", (width, height))
        for x in range(0, width, PIECE[0]):
            for y in range(0, height, PIECE[1]):
                source = sources[generator.integers(len(sources))]
                top = generator.integers(source.shape[0] - PIECE[1] + 1)
                left = generator.integers(source.shape[1] - PIECE[0] + 1)
                image.paste(Image.fromarray(source[top : top + PIECE[1], left : left + PIECE[0]]), (x, y))
        path = folder / "ab"[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=quality)
