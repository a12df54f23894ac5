"""Crop modes give timm's pixels, in training, by every runtime and on the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from inceptionv4.data.crops import evaluation_views
from inceptionv4.data.tools.doctor import cut_off
from inceptionv4.data.transforms import evaluation_crop
from inceptionv4.errors import UsageError
from inceptionv4.export.export import export_model
from inceptionv4.export.options import ExportOptions
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import read_model
from inceptionv4.weights.timm_config import make_config, read_config

SIZES = ((400, 200), (200, 400), (300, 300), (75, 75), (20, 31), (1, 40), (900, 7), (641, 480), (99, 100))
MEAN = (0.485, 0.456, 0.406)


def picture(size: tuple[int, int]) -> Image.Image:
    """Noise over a slope, so that every pixel says where it is."""
    width, height = size
    pixels = np.random.default_rng(width * height).integers(0, 60, (height, width, 3))
    pixels += np.linspace(0, 100, width).astype(int)[None, :, None]
    pixels += np.linspace(0, 90, height).astype(int)[:, None, None]
    return Image.fromarray(pixels.astype(np.uint8))


def timms(image: Image.Image, **config: Any) -> np.ndarray:
    """uint8 `(size, size, 3)`."""
    transform = timm.data.create_transform(**config, is_training=False, normalize=False)
    return np.asarray(transform(image).permute(1, 2, 0))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.7])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_timms(mode: Any, crop: float, interpolation: Any) -> None:
    pixels = Preprocessing(size=99, crop=crop, crop_mode=mode, interpolation=interpolation, mean=MEAN)
    for size in SIZES:
        expected = timms(
            picture(size), input_size=(3, 99, 99), interpolation=interpolation, mean=MEAN, crop_pct=crop, crop_mode=mode
        )
        np.testing.assert_array_equal(evaluation_crop(picture(size), pixels), expected, err_msg=str(size))


def test_a_side_that_would_have_no_pixel_has_one() -> None:
    """Where timm fails."""
    view = evaluation_crop(picture((900, 1)), Preprocessing(size=99, crop=1.0, crop_mode="border", mean=MEAN))
    assert view.shape == (99, 99, 3)
    assert [len(np.unique(view[row], axis=0)) > 1 for row in (48, 49, 50)].count(True) == 1
    assert view[0, 0].tolist() == [round(255 * value) for value in MEAN]


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_the_whole_image_is_seen(mode: Any) -> None:
    """The corners of a wide image, each of a colour of its own, which the centre crop cuts off."""
    image = Image.new("RGB", (400, 200), (128, 128, 128))
    for number, corner in enumerate(((0, 0), (350, 0), (0, 150), (350, 150))):
        image.paste((250, 60 * number, 0), (*corner, corner[0] + 50, corner[1] + 50))
    seen = evaluation_crop(image, Preprocessing(size=100, crop=1.0, crop_mode=mode))
    cut = evaluation_crop(image, Preprocessing(size=100, crop=1.0))
    for number in range(4):
        colour = np.array([250, 60 * number, 0])
        assert (np.abs(seen.astype(int) - colour).sum(2) < 9).sum() > 50
        assert not (np.abs(cut.astype(int) - colour).sum(2) < 9).any()


def test_what_the_doctor_says_is_cut_off() -> None:
    sizes = np.array([[400, 200], [100, 100]])
    for mode, share in (("center", 0.5), ("squash", 0.0), ("border", 0.0)):
        pixels = Preprocessing(size=100, crop=1.0, crop_mode=mode)  # type: ignore[arg-type]
        assert cut_off(sizes, pixels).tolist() == [share, 0.0]


def test_crops_along_the_longer_side_are_refused() -> None:
    pixels = Preprocessing(size=75, crop_mode="border")
    assert len(evaluation_views(picture((90, 80)), pixels, "flip")) == 2
    with pytest.raises(UsageError, match="crops12 takes squares along the longer side"):
        evaluation_views(picture((90, 80)), pixels, "crops12")


def test_timm_reads_the_mode_that_we_write(tmp_path: Path) -> None:
    spec = ModelSpec(classes=("a", "b"), preprocessing=Preprocessing(size=150, crop=0.9, crop_mode="border", mean=MEAN))
    (tmp_path / "config.json").write_text(make_config(spec))
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    resolved = timm.data.resolve_data_config(pretrained_cfg=config)
    expected = timms(picture((400, 200)), **{key: value for key, value in resolved.items() if key != "std"})
    np.testing.assert_array_equal(evaluation_crop(picture((400, 200)), spec.preprocessing), expected)
    assert replace(spec, **read_config(tmp_path / "config.json", replace(spec, preprocessing=Preprocessing()))) == spec


def test_every_runtime_sees_the_mode(
    narrow_model: Path, narrow_spec: ModelSpec, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """On a wide picture the modes differ, and a model answers by one mode whatever runs it."""
    picture((400, 100)).save(tmp_path / "wide.png")
    weights = read_model(narrow_model)[0].weights
    answers = []
    for mode in ("center", "border"):
        spec = replace(narrow_spec, preprocessing=replace(narrow_spec.preprocessing, crop_mode=mode))  # type: ignore[arg-type]
        save_checkpoint(Checkpoint(weights, spec), tmp_path / f"{mode}.safetensors")
        export_model(
            str(tmp_path / f"{mode}.safetensors"), ExportOptions(format="onnx", output=tmp_path / f"{mode}.onnx")
        )
        for ending in ("safetensors", "onnx"):
            result = command("predict", tmp_path / f"{mode}.{ending}", tmp_path / "wide.png", "--json")
            assert result.code == 0, result.err
            guesses = json.loads(result.out)["predictions"]
            answers.append([guess["probability"] for guess in sorted(guesses, key=lambda guess: guess["class"])])
    center, center_onnx, border, border_onnx = (torch.tensor(answer) for answer in answers)
    torch.testing.assert_close(center, center_onnx, rtol=0, atol=2e-5)
    torch.testing.assert_close(border, border_onnx, rtol=0, atol=2e-5)
    assert float((center - border).abs().max()) > 1e-4
