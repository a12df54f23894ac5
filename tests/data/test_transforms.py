"""Preprocessing against timm's and torchvision's, to the last bit; augmentation against its own definition."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import skimage.data
import timm.data
import torch
from PIL import Image

from inceptionv4.config import AugmentConfig
from inceptionv4.data.decode import decode
from inceptionv4.data.transforms import evaluation_crop, normalize, random_box, sample_generator, training_crop
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
    ours = normalize(torch.tensor(pixels)[None], preprocessing)[0]
    assert pixels.dtype == np.uint8
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (299, 299), (341, 1000), (80, 61), (1001, 342), (75, 4000)])
def test_any_shape_is_cut_as_timm_cuts_it(size: tuple[int, int]) -> None:
    image = photograph("chelsea", size)
    preprocessing = Preprocessing()
    theirs = timm.data.create_transform(
        input_size=299, crop_pct=0.875, interpolation="bicubic", mean=preprocessing.mean, std=preprocessing.std
    )(image)
    ours = normalize(torch.tensor(evaluation_crop(image, preprocessing))[None], preprocessing)[0]
    assert torch.equal(ours, theirs)


def test_normalized_batches_are_channels_last() -> None:
    batch = normalize(
        torch.zeros(2, 80, 75, 3, dtype=torch.uint8), Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 1.0))
    )
    assert batch.shape == (2, 3, 80, 75)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[0, :, 0, 0].tolist() == [-1.0, -0.5, 0.0]


def test_crops_have_the_areas_and_aspects_asked_for_and_stay_inside() -> None:
    augment = AugmentConfig(area=(0.1, 0.5), aspect=(0.75, 1.333))
    areas, aspects = [], []
    for index in range(4000):
        left, top, right, bottom = random_box((400, 300), augment, sample_generator(0, 0, index))
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        areas.append((right - left) * (bottom - top) / (400 * 300))
        aspects.append((right - left) / (bottom - top))
    # Areas are uniform in [0.1, 0.5]: mean 0.3, deviation 0.115; five standard errors.
    assert np.mean(areas) == pytest.approx(0.3, abs=5 * 0.4 / math.sqrt(12 * 4000))
    assert min(areas) >= 0.1 - 1e-9
    assert max(areas) <= 0.5 + 1e-9
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.02)
    assert 0.75 - 1e-9 <= min(aspects) <= max(aspects) <= 1.333 + 1e-9


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    image = photograph("astronaut")
    augment = AugmentConfig(rotate=10, color=0.4)

    def crop(*key: int) -> bytes:
        return training_crop(image, Preprocessing(size=75), augment, sample_generator(*key)).tobytes()

    assert crop(0, 1, 2) == crop(0, 1, 2)
    assert len({crop(0, 1, 2), crop(1, 1, 2), crop(0, 2, 2), crop(0, 1, 3)}) == 4


def test_without_augmentation_a_training_crop_is_a_resize() -> None:
    image = photograph("coffee")
    augment = AugmentConfig(area=(1, 1), aspect=(1.5, 1.5), flip=0)
    assert image.size == (600, 400)
    pixels = training_crop(image, Preprocessing(size=150), augment, sample_generator(0, 0, 0))
    assert np.array_equal(pixels, np.asarray(image.resize((150, 150), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(("change", "differs"), [({"flip": 1.0}, True), ({"flip": 0.0}, False)])
def test_a_flip_mirrors(change: dict[str, float], differs: bool) -> None:
    plain = AugmentConfig(area=(1, 1), aspect=(1, 1), flip=0)
    image, preprocessing = photograph("astronaut"), Preprocessing(size=75)
    before = training_crop(image, preprocessing, plain, sample_generator(0, 0, 0))
    after = training_crop(image, preprocessing, dataclasses.replace(plain, **change), sample_generator(0, 0, 0))
    assert np.array_equal(after, before[:, ::-1] if differs else before)
