"""Random views: their pixels against Pillow's, their light against Pillow's enhancers, their boxes by definition."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from typing import Any

import numpy as np
import pytest
import simplejpeg
import skimage.data
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import RandomResizedCrop

from inceptionv4.config import AugmentConfig
from inceptionv4.data.augment import color_jitter, random_box, sample_generator, training_view
from inceptionv4.data.jpeg import open_jpeg
from inceptionv4.data.transforms import normalize
from inceptionv4.spec import Preprocessing

PHOTOGRAPHS = ["astronaut", "chelsea", "coffee", "rocket"]
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
FAR = 0.0005
"""Share of values that may be over two grey levels from Pillow's: at edges, where torch's bicubic rounds otherwise."""
PLAIN = AugmentConfig(area=(0.08, 1), flip=0)


def photograph(name: str, format: str = "JPEG", size: tuple[int, int] | None = None, **options: Any) -> bytes:
    image = Image.fromarray(getattr(skimage.data, name)())
    content = io.BytesIO()
    (image.resize(size) if size else image).save(content, format, **options)
    return content.getvalue()


def view(
    content: bytes, preprocessing: Preprocessing, augment: AugmentConfig = PLAIN, key: int = 0, **options: bool
) -> Any:
    return training_view(content, "it", preprocessing, augment, sample_generator(0, 0, key), **options)


def pillow_view(content: bytes, preprocessing: Preprocessing, key: int = 0) -> np.ndarray:
    """The same box, cut and resized by Pillow."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    box = random_box(image.size, PLAIN, sample_generator(0, 0, key))
    assert min(box[2] - box[0], box[3] - box[1]) < 2 * 1.5 * preprocessing.size, "the box would be widened"
    cut = image.crop(box)
    size = preprocessing.size
    return np.asarray(cut.resize((size, size), PILLOW[preprocessing.interpolation])).transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_view_is_pillows_crop_and_resize(name: str, format: str, interpolation: Any) -> None:
    content = photograph(name, format)
    preprocessing = Preprocessing(interpolation=interpolation)
    for key in range(5):
        difference = view(content, preprocessing, key=key, scaled_decoding=False).pixels - pillow_view(
            content, preprocessing, key
        ).astype(float)
        # 0.003 on average; 0.18 where a side keeps nearly its length, which torch's fixed point rounds otherwise.
        assert np.abs(difference).mean() < 0.25
        assert abs(difference.mean()) < 0.02
        assert (np.abs(difference) > 2).mean() < FAR


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("name", "size"), [(name, 200) for name in PHOTOGRAPHS] + [("retina", 75), ("coffee", 100)])
def test_scaled_decoding_stays_within_a_grey_level_and_shifts_nothing(name: str, size: int, interpolation: Any) -> None:
    """The boxes are 1/4 to all of photographs of 1411 to 1600 px, so that every scale occurs."""
    width = 1600 if name != "retina" else 1411
    content = photograph(name, size=(width, 1201), quality=90)
    preprocessing = Preprocessing(size=size, interpolation=interpolation)
    differences, shifts = [], []
    for key in range(6):
        scaled, full = (view(content, preprocessing, key=key, scaled_decoding=scaled) for scaled in (True, False))
        difference = scaled.pixels.astype(float) - full.pixels
        differences.append(np.abs(difference).mean())
        shifts.append(shift(scaled.pixels, full.pixels))
    assert max(differences) > 0, "no scale was used"
    assert np.mean(differences) < 1
    assert np.abs(shifts).max() < 0.1


SHARP = np.concatenate([np.tile(getattr(skimage.data, name)()[:300, :400], (2, 4, 1)) for name in PHOTOGRAPHS[:2]])
"""A picture of 1600 x 1200 px as sharp as small ones are: the worst case of scaled decoding."""


def sampled(sampling: str) -> bytes:
    content: bytes
    if sampling == "4:0:0":
        grey = np.asarray(Image.fromarray(SHARP).convert("L"))[..., None]
        content = simplejpeg.encode_jpeg(np.ascontiguousarray(grey), 90, "GRAY", "Gray")
    else:
        content = simplejpeg.encode_jpeg(SHARP, 90, "RGB", sampling.replace(":", ""))
    return content


@pytest.mark.parametrize("sampling", ["4:0:0", "4:4:4", "4:2:0"])
def test_scaled_decoding_differs_by_as_much_as_the_documentation_says(sampling: str) -> None:
    for size, mean, most in ((299, 0.75, 1.1), (75, 1, 1.6)):
        differences = []
        for key in range(8):
            scaled, full = (
                view(sampled(sampling), Preprocessing(size=size), key=key, scaled_decoding=scaled).pixels.astype(float)
                for scaled in (True, False)
            )
            differences.append(np.abs(scaled - full).mean())
        used = [difference for difference in differences if difference]
        assert len(used) >= 3, "no scale was used"
        assert np.mean(used) < mean, size
        assert max(used) < most, size


@pytest.mark.parametrize("sampling", ["4:2:2", "4:4:0", "4:1:1"])
def test_what_would_differ_by_more_is_decoded_in_full(sampling: str) -> None:
    content = sampled(sampling)
    for key in range(4):
        scaled, full = (
            view(content, Preprocessing(size=75), key=key, scaled_decoding=scaled).pixels for scaled in (True, False)
        )
        assert np.array_equal(scaled, full)
    jpeg = open_jpeg(content)
    assert jpeg is not None
    region = jpeg.region((401, 203, 1599, 1111), 75, scaled=True)
    assert np.array_equal(region, np.asarray(Image.open(io.BytesIO(content)))[203:1111, 401:1599])


def shift(moved: np.ndarray, still: np.ndarray) -> tuple[float, float]:
    """By how many pixels one picture is moved against another, down and right: least squares on the gradient."""
    moved, still = moved.mean(0), still.mean(0)
    down, right = np.gradient(still)
    gradients = np.stack([down.ravel(), right.ravel()], axis=1)
    solution = np.linalg.lstsq(gradients, (still - moved).ravel(), rcond=None)[0]
    return float(solution[0]), float(solution[1])


def test_the_measure_of_shift_measures() -> None:
    image = np.asarray(Image.open(io.BytesIO(photograph("coffee", "PNG")))).transpose(2, 0, 1).astype(float)
    half = (image[:, :, 1:] + image[:, :, :-1]) / 2  # half a pixel to the left
    assert shift(half[:, :, 1:], image[:, :, 1:-1]) == pytest.approx((0, -0.5), abs=0.1)


def test_the_switch_changes_no_box() -> None:
    """A gradient from left to right and top to bottom shows in its values which part of the picture a view is."""
    across, down = np.meshgrid(np.linspace(0, 255, 1600), np.linspace(0, 255, 1200))
    image = Image.fromarray(np.stack([across, down, across * 0], axis=2).astype(np.uint8))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95)
    for key in range(10):
        scaled, full = (
            view(content.getvalue(), Preprocessing(size=75), key=key, scaled_decoding=scaled)
            for scaled in (True, False)
        )
        corners = (slice(None), (0, 0, -1, -1), (0, -1, 0, -1))
        assert scaled.pixels[corners].astype(int) == pytest.approx(full.pixels[corners].astype(int), abs=2)


class Drawn:
    """What torchvision draws a number into."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def uniform_(self, low: float, high: float) -> torch.Tensor:
        return torch.tensor(self.generator.uniform(float(low), float(high)), dtype=torch.float64)


def torchvisions_box(
    size: tuple[int, int], augment: AugmentConfig, generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int, int, int]:
    """The box that torchvision makes of the numbers that `generator` draws."""

    def integer(low: int, high: int, size: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(generator.integers(low, high))

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", lambda *shape: Drawn(generator))
        patched.setattr(torch, "randint", integer)
        image: Any = torch.zeros(1, 1, 1).expand(1, size[1], size[0])
        top, left, height, width = RandomResizedCrop.get_params(image, list(augment.area), list(augment.aspect))
    return left, top, left + width, top + height


BOXES = [
    (AugmentConfig(), (400, 300)),
    (AugmentConfig(), (300, 400)),
    (AugmentConfig(), (640, 160)),
    (AugmentConfig(), (37, 501)),
    (AugmentConfig(), (2, 3)),
    (AugmentConfig(), (1, 1)),
    (AugmentConfig(area=(0.1, 0.5), aspect=(0.75, 1.333)), (400, 300)),
    (AugmentConfig(area=(0.9, 1.0)), (1000, 100)),
    (AugmentConfig(area=(0.9, 1.0)), (100, 1000)),
    (AugmentConfig(area=(0.5, 1.0), aspect=(1, 1)), (300, 200)),
    (AugmentConfig(area=(0.9, 1.0), aspect=(2, 3)), (400, 500)),
    (AugmentConfig(area=(0.9, 1.0), aspect=(0.2, 0.3)), (500, 400)),
    (AugmentConfig(area=(1.0, 1.0), aspect=(1, 1)), (299, 299)),
]


@pytest.mark.parametrize(("augment", "size"), BOXES)
def test_boxes_are_torchvisions_of_the_same_draws(
    augment: AugmentConfig, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(200):
        ours, theirs = sample_generator(0, 0, index), sample_generator(0, 0, index)
        assert random_box(size, augment, ours) == torchvisions_box(size, augment, theirs, monkeypatch), index
        assert ours.random() == theirs.random(), "one drew more numbers"


def middle_box(size: tuple[int, int], aspect: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest box in the middle whose aspect is allowed."""
    width, height = size
    wide, high = min(width, round(height * aspect[1])), min(height, round(width / aspect[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


@pytest.mark.parametrize(("augment", "size"), BOXES)
def test_aspects_and_areas_are_kept_within_a_pixel_or_the_middle_is_taken(
    augment: AugmentConfig, size: tuple[int, int]
) -> None:
    width, height = size
    for index in range(500):
        box = random_box(size, augment, sample_generator(0, 0, index))
        left, top, right, bottom = box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if box != middle_box(size, augment.aspect):
            wide, high = right - left, bottom - top
            assert (wide + 0.5) / (high - 0.5) >= augment.aspect[0]
            assert (wide - 0.5) / (high + 0.5) <= augment.aspect[1]
            assert (wide + 0.5) * (high + 0.5) >= augment.area[0] * width * height
            assert (wide - 0.5) * (high - 0.5) <= augment.area[1] * width * height


def test_a_narrow_picture_is_cut_in_the_middle() -> None:
    augment = AugmentConfig(area=(0.9, 1.0), aspect=(0.75, 1.25))
    for index in range(20):
        assert random_box((1000, 100), augment, sample_generator(0, 0, index)) == (437, 0, 562, 100)
        assert random_box((90, 1000), augment, sample_generator(0, 0, index)) == (0, 440, 90, 560)
        wide = AugmentConfig(area=(0.9, 1.0), aspect=(4, 5))
        assert random_box((2, 9), wide, sample_generator(0, 0, index)) == (0, 4, 2, 5)  # not of no rows


def test_boxes_have_the_areas_and_aspects_asked_for() -> None:
    augment = AugmentConfig(area=(0.1, 0.5), aspect=(0.75, 1.333))
    boxes = np.array([random_box((400, 300), augment, sample_generator(0, 0, index)) for index in range(4000)])
    wide, high = (boxes[:, 2:] - boxes[:, :2]).T
    # Areas are uniform in [0.1, 0.5]: mean 0.3, deviation 0.115; five standard errors. A side is rounded by half a
    # pixel of 95 at most.
    assert (wide * high / 120_000).mean() == pytest.approx(0.3, abs=5 * 0.4 / math.sqrt(12 * 4000))
    assert np.log(wide / high).mean() == pytest.approx(0, abs=0.02)


def test_boxes_reach_every_edge_equally() -> None:
    augment = AugmentConfig(area=(0.25, 0.25), aspect=(1, 1))
    boxes = np.array([random_box((8, 8), augment, sample_generator(0, 0, index)) for index in range(5000)])
    for side in (0, 1):
        counts = np.bincount(boxes[:, side], minlength=5)
        assert len(counts) == 5  # a 4 px box has five places in 8 px
        assert counts == pytest.approx(1000, abs=5 * math.sqrt(1000))


def test_a_sample_depends_on_seed_epoch_and_draw_alone() -> None:
    content = photograph("astronaut")
    augment = AugmentConfig(rotate=10, color=0.4)

    def crop(*key: int) -> tuple[bytes, bytes]:
        seen = training_view(content, "it", Preprocessing(size=75), augment, sample_generator(*key))
        return seen.pixels.tobytes(), seen.color_factors.tobytes()

    assert crop(0, 1, 2) == crop(0, 1, 2)
    for part in (0, 1):
        assert len({crop(*key)[part] for key in ((0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3))}) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright_before_they_are_cut(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = photograph("coffee", exif=exif, size=(600, 402))
    preprocessing = Preprocessing(size=150)
    for key in range(4):
        ours = view(content, preprocessing, key=key).pixels.astype(int)
        difference = np.abs(ours - pillow_view(content, preprocessing, key))
        assert difference.mean() < 0.25
        assert (difference > 2).mean() < FAR
    sideways = dataclasses.replace(preprocessing, exif_orientation=False)
    plain = view(photograph("coffee", size=(600, 402)), sideways).pixels
    assert np.array_equal(view(content, sideways).pixels, plain)


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"subsampling": 0}),
        ("JPEG", "RGB", {"subsampling": 1}),
        ("JPEG", "RGB", {"quality": 30, "restart_marker_rows": 1}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("TIFF", "RGB", {}),
    ],
)
def test_every_kind_of_file_is_pillows(format: str, mode: str, options: dict[str, Any]) -> None:
    content = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).convert(mode).save(content, format, **options)
    for key in range(4):
        ours = view(content.getvalue(), Preprocessing(size=299), key=key, scaled_decoding=False).pixels.astype(int)
        assert np.abs(ours - pillow_view(content.getvalue(), Preprocessing(size=299), key)).mean() < 0.25


@pytest.mark.parametrize(("flip", "mirrored"), [(1.0, True), (0.0, False)])
def test_a_flip_mirrors(flip: float, mirrored: bool) -> None:
    content = photograph("astronaut")
    before = view(content, Preprocessing(size=75), PLAIN).pixels
    after = view(content, Preprocessing(size=75), dataclasses.replace(PLAIN, flip=flip)).pixels
    assert np.array_equal(after, before[:, :, ::-1] if mirrored else before)


def test_a_rotation_turns_about_the_middle() -> None:
    content = photograph("astronaut", "PNG")
    augment = dataclasses.replace(PLAIN, rotate=20)
    generator = sample_generator(0, 0, 0)
    random_box((512, 512), augment, generator)
    degrees = generator.uniform(-20, 20)
    before = Image.fromarray(view(content, Preprocessing(size=75)).pixels.transpose(1, 2, 0))
    expected = np.asarray(before.rotate(degrees, Image.Resampling.BILINEAR))
    assert np.array_equal(view(content, Preprocessing(size=75), augment).pixels.transpose(1, 2, 0), expected)


ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
LIGHTS = [(1, 1, 1), (0.6, 1, 1), (1, 0.6, 1), (1, 1, 0.6), (1, 1, 0), (0.7, 0.8, 1.2), (0.5, 1.3, 0.3)]


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_light_is_changed_as_pillow_changes_it(name: str, light: tuple[float, ...]) -> None:
    """Where nothing is cut off; the range is halved for that."""
    pixels = np.asarray(Image.open(io.BytesIO(photograph(name, "PNG", size=(80, 75))))) // 2 + 60
    image = Image.fromarray(pixels)
    for enhancer, factor in zip(ENHANCERS, light, strict=True):
        image = enhancer(image).enhance(factor)
    ours = color_jitter(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.tensor([light]), Preprocessing())
    levels = (ours[0].permute(1, 2, 0).numpy() + 1) * 127.5
    # Pillow cuts to whole grey levels after each of the three, and rounds the mean grey to one.
    assert np.abs(levels - np.asarray(image)).max() < 3.5
    assert np.abs(levels - np.asarray(image)).mean() < 1.5


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_light_is_changed_the_same_in_any_order(order: tuple[int, ...]) -> None:
    """The definition, one change after another in float64, without a cut."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(80, 160, (7, 9, 3), dtype=np.uint8)
    light = (0.9, 1.2, 0.7)
    values = pixels.astype(np.float64)
    for change in order:
        grey = values @ [0.299, 0.587, 0.114]
        toward = (0.0, grey.mean(), grey[:, :, None])[change]
        values = light[change] * values + (1 - light[change]) * toward
    preprocessing = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    ours = color_jitter(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.tensor([light]), preprocessing)
    expected = (values / 255 - preprocessing.mean) / preprocessing.std
    assert np.allclose(ours[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_light_is_cut_off_at_black_and_white() -> None:
    images = torch.tensor([0, 100, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    brighter = color_jitter(images, torch.tensor([[2.0, 1.0, 1.0]]), Preprocessing())
    assert brighter[0, 0, 0].tolist() == pytest.approx([-1, 200 / 127.5 - 1, 1])
    harder = color_jitter(images, torch.tensor([[1.0, 9.0, 1.0]]), Preprocessing())
    assert harder[0, 0, 0].tolist() == [-1, -1, 1]


def test_each_image_of_a_batch_has_its_own_light() -> None:
    images = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    light = torch.tensor([[1.0, 1.0, 1.0], [0.5, 1.2, 0.7], [1.4, 0.7, 1.3]])
    together = color_jitter(images, light, Preprocessing())
    for number in range(3):
        assert torch.equal(
            together[number], color_jitter(images[number][None], light[number][None], Preprocessing())[0]
        )
    for count in (2, 3):  # as an accelerator has it
        at_once = color_jitter(images, light, Preprocessing(), together=count)
        torch.testing.assert_close(at_once, together, atol=1e-6, rtol=1e-6)
    assert torch.allclose(together[0], normalize(images[:1], Preprocessing())[0], atol=1e-6)
