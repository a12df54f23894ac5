"""Make src/inceptionv4/data/digits.zip, byte for byte the same each time, from scikit-learn's copy of the digits.

    python tools/make_digits.py

Every fifth image of each class, in the order of the original file, is held out.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

OUT = Path(__file__).parents[1] / "src/inceptionv4/data/digits.zip"
README = """Handwritten digits, 1797 grey images of 8 x 8 pixels.

NamingScheme: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998, https://doi.org/10.24432/C50P49 (its test part, as distributed with scikit-learn).
Licence: Creative Commons Attribution 4.0 International (CC BY 4.0).
Changes: the 17 grey levels are stretched to 0..255; a fifth of each class is held out in val.
"""
EPOCH = (1998, 7, 1, 0, 0, 0)


def main() -> None:
    digits = load_digits()
    seen: Counter[int] = Counter()
    with zipfile.ZipFile(OUT, "w") as archive:
        archive.writestr(zipfile.ZipInfo("README.txt", EPOCH), README)
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
            split = "val" if seen[label] % 5 == 2 else "train"
            seen[label] += 1
            content = io.BytesIO()
            Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8)).save(content, "PNG", optimize=True)
            archive.writestr(zipfile.ZipInfo(f"{split}/{label}/{number:04}.png", EPOCH), content.getvalue())
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
