"""Preprocessing against timm's and torchvision's, to the last bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
import timm.data
import torch
from PIL import Image

from inceptionv4.data.decode import decode
from inceptionv4.data.transforms import as_batch, evaluation_crop, normalize
from inceptionv4.spec import Preprocessing

PHOTOGRAPHS = ["astronaut", "chelsea", "coffee", "rocket"]


def photograph(name: str, size: tuple[int, int] | None = None) -> Image.Image:
    image = Image.fromarray(getattr(skimage.data, name)())
    return image.resize(size) if size else image


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing(
            size=224, crop=0.9, interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        Preprocessing(size=75, crop=1.0),
    ],
    ids=lambda preprocessing: str(preprocessing.size),
)
def test_evaluation_is_timms_to_the_last_bit(name: str, format: str, preprocessing: Preprocessing) -> None:
    content = io.BytesIO()
    photograph(name).save(content, format)
    theirs = timm.data.create_transform(
        input_size=preprocessing.size,
        crop_pct=preprocessing.crop,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )(Image.open(io.BytesIO(content.getvalue())).convert("RGB"))
    pixels = evaluation_crop(decode(content.getvalue(), name), preprocessing)
    ours = normalize(as_batch([pixels], preprocessing.size), preprocessing)[0]
    assert pixels.dtype == np.uint8
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (299, 299), (341, 1000), (80, 61), (1001, 342), (75, 4000)])
def test_any_shape_is_cut_as_timm_cuts_it(size: tuple[int, int]) -> None:
    image = photograph("chelsea", size)
    preprocessing = Preprocessing()
    theirs = timm.data.create_transform(
        input_size=299, crop_pct=0.875, interpolation="bicubic", mean=preprocessing.mean, std=preprocessing.std
    )(image)
    ours = normalize(as_batch([evaluation_crop(image, preprocessing)], 299), preprocessing)[0]
    assert torch.equal(ours, theirs)


def test_normalized_batches_keep_their_layout() -> None:
    preprocessing = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 1.0), size=75)
    images = as_batch([np.zeros((75, 75, 3), np.uint8)] * 2, 75)
    assert images.shape == (2, 3, 75, 75)
    batch = normalize(images, preprocessing)
    assert batch.shape == (2, 3, 75, 75)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[0, :, 0, 0].tolist() == [-1.0, -0.5, 0.0]
    assert as_batch([], 75).shape == (0, 3, 75, 75)
