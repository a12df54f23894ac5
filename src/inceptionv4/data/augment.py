"""Random changes to training images: where to look, which way round, by which policy, and with which colour jitter.

All but colour jitter is drawn and applied image by image, on uint8 pixels. Its factors are drawn there, too;
`color_jitter` applies them on the device, where that costs a matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from inceptionv4.config import AugmentConfig
from inceptionv4.data.decode import decode
from inceptionv4.data.jpeg import Box, open_jpeg
from inceptionv4.data.policies import apply_policy
from inceptionv4.spec import Preprocessing

LUMA = (0.299, 0.587, 0.114)
"""Grey of red, green and blue (ITU-R BT.601), as Pillow and torchvision compute it."""

TRIES = 10
"""Boxes that are drawn until one fits into the picture."""


@dataclass(frozen=True)
class AugmentedImage:
    """One random look at an image."""

    pixels: np.ndarray
    """uint8 `(3, size, size)`."""
    color_factors: np.ndarray
    """float32 `(3,)`: factors on brightness, contrast and saturation, not yet applied."""


def sample_generator(seed: int, epoch: int, draw: int) -> np.random.Generator:
    """The random stream of one sample in one epoch: it depends on nothing else, so neither on workers nor on ranks."""
    return np.random.default_rng((seed, epoch, draw))


def training_view(
    content: bytes,
    name: str,
    preprocessing: Preprocessing,
    augment: AugmentConfig,
    generator: np.random.Generator,
    *,
    scaled_decoding: bool = True,
) -> AugmentedImage:
    """A random crop of an image file, resized, rotated and mirrored as `augment` says.

    Raises:
        ImageError: the file cannot be decoded.
    """
    size = preprocessing.size
    region = _region(content, name, preprocessing, augment, generator, scaled_decoding)
    resized = interpolate(
        torch.from_numpy(region).permute(2, 0, 1)[None],
        (size, size),
        mode=preprocessing.interpolation,
        antialias=True,
    )
    pixels: np.ndarray = resized[0].numpy()
    if augment.rotate or augment.policy != "none":
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        if augment.rotate:
            picture = picture.rotate(generator.uniform(-augment.rotate, augment.rotate), Image.Resampling.BILINEAR)
        pixels = np.asarray(apply_policy(picture, augment, generator)).transpose(2, 0, 1)
    if generator.random() < augment.flip:
        pixels = pixels[:, :, ::-1]
    if generator.random() < augment.erase:
        pixels = erase(pixels, generator)
    color_factors = generator.uniform(1 - augment.color, 1 + augment.color, 3).astype(np.float32)
    return AugmentedImage(pixels, color_factors)


def erase(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """uint8 `(3, H, W)` with a box of 2 to 33 % of its area, and 3:10 to 10:3, under noise (arXiv 1708.04896)."""
    height, width = pixels.shape[1:]
    area, aspect = generator.uniform(0.02, 0.33), math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
    rows = min(max(round(height * math.sqrt(area * aspect)), 1), height)
    columns = min(max(round(width * math.sqrt(area / aspect)), 1), width)
    top = int(generator.integers(height - rows, endpoint=True))
    left = int(generator.integers(width - columns, endpoint=True))
    erased = pixels.copy()
    noise = generator.integers(0, 256, (3, rows, columns), np.uint8)
    erased[:, top : top + rows, left : left + columns] = noise
    return erased


def _region(
    content: bytes,
    name: str,
    preprocessing: Preprocessing,
    augment: AugmentConfig,
    generator: np.random.Generator,
    scaled_decoding: bool,
) -> np.ndarray:
    """The pixels of a random box: uint8 `(rows, columns, 3)`."""
    jpeg = open_jpeg(content, exif_orientation=preprocessing.exif_orientation)
    box = None
    if jpeg is not None:
        box = random_box(jpeg.size, augment, generator)
        region = jpeg.region(box, preprocessing.size, scaled=scaled_decoding)
        if region is not None:
            return region
    image = decode(content, name, exif_orientation=preprocessing.exif_orientation)
    return np.array(image.crop(box or random_box(image.size, augment, generator)))


def random_box(size: tuple[int, int], augment: AugmentConfig, generator: np.random.Generator) -> Box:
    """A part of an image of `size` (width, height), in whole pixels: torchvision's RandomResizedCrop.

    Its area is uniform in `augment.area` of the image, its aspect log-uniform in `augment.aspect` (the crop of
    "Going deeper with convolutions", arXiv 1409.4842, section 6). A box that would stick out is drawn again. After
    `TRIES` of them it is the largest one in the middle whose aspect is allowed.
    """
    width, height = size
    least, most = augment.aspect
    for _ in range(TRIES):
        area = width * height * generator.uniform(*augment.area)
        aspect = math.exp(generator.uniform(math.log(least), math.log(most)))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(height - crop_height, endpoint=True))
            left = int(generator.integers(width - crop_width, endpoint=True))
            return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = width, height
    if width / height < least:
        crop_height = max(round(width / least), 1)
    elif width / height > most:
        crop_width = max(round(height * most), 1)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def color_jitter(
    images: Tensor, color_factors: Tensor, preprocessing: Preprocessing, *, together: int | None = None
) -> Tensor:
    """Jitter the colours of uint8 images `(B, 3, H, W)` and normalise them: float32 `(B, 3, H, W)`.

    `color_factors` is float32 `(B, 3)`: factors b of brightness, c of contrast and s of saturation. A pixel x, its grey
    g and the image's mean grey m become `b (c (s x + (1 - s) g) + (1 - c) m)`, clipped to 0..255 once, at the end. The
    three changes commute, so that no order has to be drawn. torchvision clips after each; that is the only difference.
    `together` images are worked on at once: if not given, one on a CPU, where it stays in the cache, else all.
    """
    count, device = len(images), images.device
    luma = torch.tensor(LUMA, device=device)
    mean, std = (torch.tensor(values, device=device) for values in (preprocessing.mean, preprocessing.std))
    brightness, contrast, saturation = color_factors.T.reshape(3, count, 1, 1)
    # Homogeneous coordinates: a fourth row of ones takes the offset into the product, and the normalisation with it.
    matrix = torch.empty(count, 3, 4, device=device)
    matrix[:, :, :3] = saturation * torch.eye(3, device=device) + (1 - saturation) * luma
    matrix[:, :, :3] *= brightness * contrast / (255 * std.view(3, 1))
    toward_grey = (brightness * (1 - contrast)).view(count, 1) / (255 * std)
    output = torch.empty(count, 3, images[0, 0].numel(), device=device)
    together = together or (1 if device.type == "cpu" else count)
    coordinates = torch.ones(together, 4, images[0, 0].numel(), device=device)
    for start in range(0, count, together):
        part = slice(start, min(start + together, count))
        pixels = coordinates[: part.stop - start]
        pixels[:, :3] = images[part].flatten(2)
        mean_grey = pixels[:, :3].mean(2) @ luma
        matrix[part, :, 3] = toward_grey[part] * mean_grey[:, None] - mean / std
        torch.bmm(matrix[part], pixels, out=output[part])
        for channel, (middle, width) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
            output[part, channel].clamp_((0 - middle) / width, (1 - middle) / width)
    return output.view(images.shape)
