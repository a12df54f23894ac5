"""Rewritten networks answer as the plain one does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from inceptionv4.data.transforms import normalize
from inceptionv4.network.blocks import ConvNormReLU
from inceptionv4.network.inference_graph import build_inference_graph, fold_normalization
from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.variants import ARCHITECTURES, Architecture
from inceptionv4.spec import Preprocessing


@pytest.fixture(params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> InceptionV4:
    """A narrow network whose norms have seen something."""
    architecture: Architecture = request.param
    torch.manual_seed(0)
    network = InceptionV4(5, width=0.1, architecture=architecture).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.5, 2.0),
                (module.weight, -1.0, 2.0),
                (module.bias, -1.0, 1.0),
            ):
                assert values is not None
                nn.init.uniform_(values, low, high)
    return network


@torch.no_grad()
def test_the_answer_is_the_same(network: InceptionV4) -> None:
    images = torch.randn(2, 3, 107, 75, dtype=torch.float64)
    before = copy.deepcopy(network.state_dict())
    rewritten = build_inference_graph(network)
    torch.testing.assert_close(rewritten(images), network(images), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rewritten.embed(images), network.embed(images), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_is_left_are_149_convolutions_and_pools_after_projections(network: InceptionV4) -> None:
    rewritten = build_inference_graph(network)
    modules = list(rewritten.modules())
    assert sum(isinstance(module, nn.Conv2d) for module in modules) == 149
    assert not [module for module in modules if isinstance(module, nn.BatchNorm2d | ConvNormReLU)]
    projections = [
        module for module in modules if isinstance(module, nn.Sequential) and isinstance(module[-2], nn.AvgPool2d)
    ]
    assert len(projections) == 14
    assert all(isinstance(module[0], nn.Conv2d) and isinstance(module[2], nn.ReLU) for module in projections)


@torch.no_grad()
def test_pixels_are_normalised_by_the_first_convolution(network: InceptionV4) -> None:
    preprocessing = Preprocessing(size=75, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = torch.randint(0, 256, (2, 3, 75, 75), dtype=torch.uint8)
    rewritten = build_inference_graph(network)
    answer = fold_normalization(rewritten, preprocessing.mean, preprocessing.std)(pixels.double())
    expected = network(normalize(pixels, preprocessing).double())
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)  # `normalize` is float32
    floats = (pixels.double() / 255 - torch.tensor(preprocessing.mean).double().view(1, 3, 1, 1)) / torch.tensor(
        preprocessing.std
    ).double().view(1, 3, 1, 1)
    torch.testing.assert_close(answer, network(floats), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rewritten(floats), network(floats), rtol=1e-9, atol=1e-9)  # it was copied


def test_a_norm_without_statistics_is_refused() -> None:
    network = InceptionV4(2, width=0.1)
    network.features.stem[0].norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(ValueError, match="without running statistics"):
        build_inference_graph(network)
