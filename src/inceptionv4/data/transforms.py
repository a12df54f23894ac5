"""From a decoded picture to the network's input: the one preprocessing that training and every answer share.

Images stay uint8 `(size, size, 3)` until they are on the device; `normalize` is the last step, on a whole batch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from inceptionv4.config import AugmentConfig
from inceptionv4.spec import Preprocessing

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def evaluation_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize the shorter side to `floor(size / crop)`, cut out the central square: uint8 `(size, size, 3)`.

    Pixel for pixel what torchvision's and timm's `Resize` and `CenterCrop` give on a Pillow image.
    """
    size = preprocessing.size
    short = math.floor(size / preprocessing.crop)
    width, height = image.size
    if width <= height:
        scaled = (short, int(short * height / width))
    else:
        scaled = (int(short * width / height), short)
    resized = image.resize(scaled, RESAMPLING[preprocessing.interpolation])
    left, top = round((scaled[0] - size) / 2.0), round((scaled[1] - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random stream of one sample in one epoch: it depends on nothing else, so neither on workers nor on ranks."""
    return np.random.default_rng((seed, epoch, index))


def training_crop(
    image: Image.Image, preprocessing: Preprocessing, augment: AugmentConfig, generator: np.random.Generator
) -> np.ndarray:
    """A random crop, resized, rotated, flipped and recoloured as `augment` says: uint8 `(size, size, 3)`."""
    size, resampling = preprocessing.size, RESAMPLING[preprocessing.interpolation]
    box = random_box(image.size, augment, generator)
    image = image.resize((size, size), resampling, box=box)
    if augment.rotate:
        degrees = generator.uniform(-augment.rotate, augment.rotate)
        image = image.rotate(degrees, Image.Resampling.BILINEAR)
    if generator.random() < augment.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augment.color:
        changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        for number in generator.permutation(len(changes)):
            image = changes[number](image).enhance(generator.uniform(1 - augment.color, 1 + augment.color))
    return np.asarray(image)


def random_box(
    size: tuple[int, int], augment: AugmentConfig, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop inside an image of `size` (width, height), not rounded to pixels.

    Its area is uniform in `augment.area` of the image, its aspect log-uniform in `augment.aspect` (the crop of
    "Going deeper with convolutions", arXiv 1409.4842, section 6). What would stick out is cut to the image.
    """
    width, height = size
    area = width * height * generator.uniform(*augment.area)
    aspect = math.exp(generator.uniform(math.log(augment.aspect[0]), math.log(augment.aspect[1])))
    crop_width = min(width, math.sqrt(area * aspect))
    crop_height = min(height, math.sqrt(area / aspect))
    left = generator.uniform(0, width - crop_width)
    top = generator.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 `(B, H, W, 3)` to float32 `(B, 3, H, W)`, `(v / 255 - mean) / std`, channels last in memory."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, 3, 1, 1)
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(mean).div_(std)
