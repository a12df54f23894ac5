"""Weights of other projects compute here what they compute there: 1e-9 in float64 against their networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
from peers import Paddle, Slim, Zoo
from PIL import Image
from torch import Tensor

from inceptionv4.data.transforms import evaluation_crop
from inceptionv4.errors import CheckpointError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.weights.formats.assemble import assemble, recognize
from inceptionv4.weights.formats.naming import CADENE, NAMING_SCHEMES, SLIM


def images() -> Tensor:
    return torch.randn(2, 3, 75, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ours(arrays: dict[str, Tensor]) -> Tensor:
    """Logits in float64 of our network with these arrays."""
    weights, _ = assemble(arrays, recognize(arrays), torch.float64)
    network = InceptionV4(len(weights["classifier.bias"]), architecture=recognize(arrays).architecture).double().eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        return network(images())


def randomized_timm(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("inception_v4", num_classes=classes).double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def check(theirs: Tensor, arrays: dict[str, Tensor]) -> None:
    assert theirs.std() > 0.05  # or nothing would be compared
    torch.testing.assert_close(ours(arrays), theirs, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_timm() -> None:
    network = randomized_timm(1000)
    check(network(images()), network.state_dict())


@torch.no_grad()
def test_cadene_without_the_background_class() -> None:
    network = randomized_timm(1001)
    assert recognize(network.state_dict()).name == "Cadene"
    check(network(images())[:, 1:], network.state_dict())


@pytest.mark.parametrize("peer", [Zoo, Paddle, lambda: Slim(1000)], ids=["zoo", "paddle", "slim"])
def test_networks_that_compute_otherwise(peer: Callable[[], Zoo | Paddle | Slim]) -> None:
    network = peer()
    theirs = network(images())
    check(theirs, network.arrays)


def test_slim_without_the_background_class() -> None:
    network = Slim(1001)
    theirs = network(images())
    check(theirs[:, 1:], network.arrays)


@torch.no_grad()
def test_our_own_state_dict() -> None:
    torch.manual_seed(0)
    network = InceptionV4(7).double().eval()
    check(network(images()), network.state_dict())


def test_paddles_network_is_another_one() -> None:
    """Its arrays have the shapes of ours but for two kernels; taken for ours they would answer otherwise."""
    network = Paddle(10)
    theirs = network(images())
    weights, _ = assemble(network.arrays, recognize(network.arrays), torch.float64)
    shapes = InceptionV4(10).state_dict()
    assert any(weights[name].shape != shapes[name].shape for name in shapes if name in weights)
    assert theirs.shape == (2, 10)


def zoo_arrays() -> dict[str, Tensor]:
    network = Zoo(3)
    network(images()[:1])
    return dict(network.arrays)


def test_what_a_training_kept_besides_is_skipped_and_counted() -> None:
    arrays = zoo_arrays()
    slots = {f"{kind}.{name}": array for kind in ("moment", "mean_square") for name, array in arrays.items()}
    numbers = {"global_step": torch.tensor(7), "learning_rate": torch.tensor(0.1), "epoch_num": torch.tensor(3)}
    weights, report = assemble({**arrays, **slots, **numbers}, recognize(arrays))
    assert report.skipped == {"of an optimizer": 2 * len(arrays), "a number of the training": 3}
    assert report.taken + report.folded.total() == len(arrays)
    assert f"{3 * len(arrays) + 3} arrays" in str(report)
    plain, _ = assemble(arrays, recognize(arrays))
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_slots_of_other_arrays_are_not_explained() -> None:
    arrays = zoo_arrays()
    with pytest.raises(CheckpointError, match=r"moment\.unknown\.weight is there besides"):
        assemble({**arrays, "moment.unknown.weight": torch.zeros(3)}, recognize(arrays))


def test_missing_strange_and_misshapen_arrays_are_errors() -> None:
    arrays = zoo_arrays()
    origin = recognize(arrays)
    name = "features.7.branch_2.3.conv.conv.weight"
    without = {key: array for key, array in arrays.items() if key != name}
    with pytest.raises(CheckpointError, match=rf"{name} is missing; the file is not whole"):
        assemble(without, origin)
    with pytest.raises(CheckpointError, match=r"extra is there besides, which no Inception-v4 has"):
        assemble({**arrays, "extra": torch.zeros(2)}, origin)
    with pytest.raises(
        CheckpointError, match=r"features\.7\.branch_2\.3 .* of the shape \(1, 2, 3, 3\), .* \(224, 224"
    ):
        assemble({**arrays, name: torch.zeros(1, 2, 3, 3)}, origin)
    with pytest.raises(CheckpointError, match=r"bn0\.gamma is missing"):
        assemble({key: array for key, array in arrays.items() if key != "bn0.gamma"}, origin)
    with pytest.raises(CheckpointError, match=r"no Inception-v4 that is known: its arrays are called x\.\.\."):
        recognize({"x": np.zeros(3)})


def test_names_of_origins_do_not_overlap() -> None:
    for origin in NAMING_SCHEMES:
        assert len(set(origin.convolutions)) == 149


def test_each_origin_brings_the_preprocessing_of_its_published_figures() -> None:
    """As the projects' own evaluations state it: resized side, crop, which side, filter, mean, deviation."""
    half, mean, std = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = {
        "timm": (341, 299, "center", "bicubic", half, half),
        "Cadene": (341, 299, "center", "bilinear", half, half),
        "TF-slim": (341, 299, "squash", "bilinear", half, half),
        "MindSpore's model zoo": (299, 299, "center", "bilinear", mean, std),
        "MindCV": (341, 299, "center", "bilinear", mean, std),
        "PaddleClas": (320, 299, "center", "bilinear", mean, std),
    }
    found = {
        origin.name: (
            math.floor(pixels.size / pixels.crop),
            *(pixels.size, pixels.crop_mode, pixels.interpolation, pixels.mean, pixels.std),
        )
        for origin in (*NAMING_SCHEMES, CADENE)
        for pixels in (origin.preprocessing,)
    }
    assert {name: found[name] for name in wanted} == wanted


def test_slims_pixels_of_a_wide_image() -> None:
    """Its evaluation cuts 0.875 of both sides out of the middle and resizes that, out of proportion, between pixels."""
    height, width, size = 300, 640, 299
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, 127 + 120 * np.sin(x / 40)], axis=2)
    rows, columns = (
        (side - side * 0.875) / 2 + np.arange(size) * side * 0.875 / size for side in (height, width)
    )  # TensorFlow's resize_bilinear: the first pixel stays where it is
    expected = np.stack(
        [
            scipy.ndimage.map_coordinates(image[..., i], np.meshgrid(rows, columns, indexing="ij"), order=1)
            for i in range(3)
        ],
        axis=2,
    )
    found = evaluation_crop(Image.fromarray(image.round().astype(np.uint8)), SLIM.preprocessing)
    difference = np.abs(np.asarray(found) - expected)
    assert difference.mean() < 1
    assert difference.max() < 5
