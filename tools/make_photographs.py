"""Make src/inceptionv4/data/photographs.zip again: parts of photographs that scikit-image brings, as small JPEGs.

Origins and licences are in NOTICE. The archive is the same, byte for byte, with scikit-image 0.26 and Pillow 12.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import skimage.data
from PIL import Image

SIDE = 256
PARTS = {
    "astronaut": ("astronaut", (0, 0, 512, 512)),
    "flag": ("astronaut", (0, 180, 180, 360)),
    "cat": ("chelsea", (70, 0, 370, 300)),
    "cup": ("coffee", (100, 0, 500, 400)),
    "spoon": ("coffee", (370, 180, 590, 400)),
    "rocket": ("rocket", (213, 0, 640, 427)),
    "retina": ("retina", (0, 0, 1411, 1411)),
    "galaxies": ("hubble_deep_field", (300, 200, 700, 600)),
}
"""File, photograph, and the square that is taken of it."""
OUTPUT = Path(__file__).parents[1] / "src/inceptionv4/data/photographs.zip"


def main() -> None:
    with zipfile.ZipFile(OUTPUT, "w") as archive:
        for name, (photograph, box) in PARTS.items():
            picture = Image.fromarray(getattr(skimage.data, photograph)()).convert("RGB").crop(box)
            content = io.BytesIO()
            picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(content, "JPEG", quality=88)
            archive.writestr(zipfile.ZipInfo(f"{name}.jpg", (2026, 1, 1, 0, 0, 0)), content.getvalue())


if __name__ == "__main__":
    main()
