"""Several crops of one image, whose answers are averaged: augmentation at test time, without any chance.

    flip        2   the crop of an evaluation and its mirror
    crops12    12   one scale, the centre square
    crops144  144   four scales, three squares of each

The last is that of GoogLeNet (arXiv 1409.4842, section 7), by whose number the tables of Inception-v4's paper call it
(arXiv 1602.07261): the shorter side becomes 256, 288, 320 and 352 pixels for an input of 224, here in proportion to the
input's size; of each, the left, centre and right square is taken (of upright images the top, centre and bottom one); of
each square the four corners and the centre in the input's size, and the whole square made as small as that; and of each
of these the mirror image: 4 x 3 x 6 x 2 = 144.

The 12 crops of those tables are not described there. Those here are the twelfth part of the 144 that is nearest to a
plain evaluation: the six crops of the centre square, and their mirrors, at the first scale, whose 8/7 of the input are
what an evaluation with the usual crop of 0.875 resizes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from PIL import Image

from inceptionv4.data.transforms import RESAMPLING, evaluation_crop, resize_shorter
from inceptionv4.errors import UsageError
from inceptionv4.spec import Preprocessing

Crops = Literal["flip", "crops12", "crops144"]
COUNTS: dict[Crops, int] = {"flip": 2, "crops12": 12, "crops144": 144}
"""Views of an image; each costs as much as an answer without."""
SEVENTHS = (8, 9, 10, 11)
"""The shorter side, in sevenths of the input's size: 256, 288, 320, 352 of 224."""


def count_views(crops: Crops | None) -> int:
    """How many views `evaluation_views` makes of an image."""
    return 1 if crops is None else COUNTS[crops]


def check_crops(crops: Crops | None, preprocessing: Preprocessing) -> None:
    """Raise UsageError where crops are squares along the longer side, and the model was made to see all of it."""
    if crops in ("crops12", "crops144") and preprocessing.crop_mode != "center":
        raise UsageError(
            f"{crops} takes squares along the longer side of an image, and this model sees images by crop_mode "
            f"{preprocessing.crop_mode}; take flip, or no crops"
        )


def evaluation_views(image: Image.Image, preprocessing: Preprocessing, crops: Crops | None) -> np.ndarray:
    """All views of an image, uint8 `(views, size, size, 3)`; one, the plain evaluation's, if `crops` is None.

    Raises:
        UsageError: as `check_crops`.
    """
    check_crops(crops, preprocessing)
    if crops is None:
        return evaluation_crop(image, preprocessing)[None]
    if crops == "flip":
        views = [evaluation_crop(image, preprocessing)]
    elif crops == "crops12":
        _, centre, _ = _squares(image, SEVENTHS[0], preprocessing)
        views = list(_six(centre, preprocessing))
    else:
        squares = (square for seventh in SEVENTHS for square in _squares(image, seventh, preprocessing))
        views = [view for square in squares for view in _six(square, preprocessing)]
    return np.stack([both for view in views for both in (view, view[:, ::-1])])


def _squares(image: Image.Image, sevenths: int, preprocessing: Preprocessing) -> Iterator[Image.Image]:
    """The first, the middle and the last square along the longer side."""
    short = preprocessing.size * sevenths // 7
    resized = resize_shorter(image, short, preprocessing)
    beyond_x, beyond_y = resized.width - short, resized.height - short
    for part in (0.0, 0.5, 1.0):
        left, top = round(beyond_x * part), round(beyond_y * part)
        yield resized.crop((left, top, left + short, top + short))


def _six(square: Image.Image, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """The four corners, the centre, and the whole."""
    size, last = preprocessing.size, square.width - preprocessing.size
    middle = round(last / 2.0)
    for left, top in ((0, 0), (last, 0), (0, last), (last, last), (middle, middle)):
        yield np.asarray(square.crop((left, top, left + size, top + size)))
    yield np.asarray(square.resize((size, size), RESAMPLING[preprocessing.interpolation]))
