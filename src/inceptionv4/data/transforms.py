"""From a decoded picture to the network's input: the one preprocessing that training and every answer share.

Images stay uint8 until they are on the device; `normalize` is the last step, on a whole batch. What training adds to
this at random is in `data.augment`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inceptionv4.spec import Preprocessing

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def evaluation_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize as `crop_mode` says and cut out the central square: uint8 `(size, size, 3)`.

    Pixel for pixel what timm's evaluation transform gives on a Pillow image, which for `center` is torchvision's
    `Resize` and `CenterCrop`.
    """
    size, side = preprocessing.size, math.floor(preprocessing.size / preprocessing.crop)
    match preprocessing.crop_mode:
        case "center":
            resized = resize_shorter(image, side, preprocessing)
        case "squash":
            resized = image.resize((side, side), RESAMPLING[preprocessing.interpolation])
        case "border":
            longest = max(image.size) / side
            scaled = (max(1, round(image.width / longest)), max(1, round(image.height / longest)))
            resized = image.resize(scaled, RESAMPLING[preprocessing.interpolation])
            if resized.width < size or resized.height < size:
                resized = _with_borders(resized, preprocessing)
    left, top = round((resized.width - size) / 2.0), round((resized.height - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def _with_borders(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """`image` in the middle of one whose sides are at least `size`, on the colour that becomes about 0."""
    width, height = (max(side, preprocessing.size) for side in image.size)
    colour = tuple(min(max(round(255 * mean), 0), 255) for mean in preprocessing.mean)
    canvas = Image.new("RGB", (width, height), colour)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def resize_shorter(image: Image.Image, short: int, preprocessing: Preprocessing) -> Image.Image:
    """`image` with a shorter side of `short` pixels, and the longer one in proportion, rounded down."""
    width, height = image.size
    if width <= height:
        scaled = (short, int(short * height / width))
    else:
        scaled = (int(short * width / height), short)
    return image.resize(scaled, RESAMPLING[preprocessing.interpolation])


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 `(B, 3, H, W)` to float32 of the same shape, `(v / 255 - mean) / std`, in the same layout in memory."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, 3, 1, 1)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def as_batch(pixels: Sequence[np.ndarray], size: int) -> Tensor:
    """Images of `evaluation_crop`, none or more, as uint8 `(B, 3, size, size)`, channels last in memory."""
    stacked = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)
