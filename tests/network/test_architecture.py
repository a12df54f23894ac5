"""The architecture against the paper's figures and the numbers that the field agrees on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inceptionv4.network import blocks
from inceptionv4.network.architecture import STAGES, Convolution, conv, output_shape, stage_shapes, widen
from inceptionv4.network.layers import InceptionV4, build

# arXiv 1602.07261, figure 9 for 299; the sizes at 75 follow from the strides.
PAPER = {
    "stem": (384, 35, 7),
    **{f"inception_a{i}": (384, 35, 7) for i in range(1, 5)},
    "reduction_a": (1024, 17, 3),
    **{f"inception_b{i}": (1024, 17, 3) for i in range(1, 8)},
    "reduction_b": (1536, 8, 1),
    **{f"inception_c{i}": (1536, 8, 1) for i in range(1, 4)},
}


def test_parameters_and_convolutions_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = InceptionV4()
    assert sum(parameter.numel() for parameter in network.parameters()) == 42_679_816
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 149


@pytest.mark.parametrize(("size", "column"), [(299, 1), (75, 2)])
def test_shape_of_every_stage(size: int, column: int) -> None:
    expected = {name: (row[0], row[column], row[column]) for name, row in PAPER.items()}
    assert stage_shapes((3, size, size)) == expected

    with torch.device("meta"):
        features = torch.empty(2, 3, size, size)
        network = InceptionV4()
    for name, stage in network.features.named_children():
        features = stage(features)
        assert features.shape == (2, *expected[name]), name


@pytest.mark.parametrize("size", [(75, 75), (75, 299), (150, 97), (331, 448)])
def test_shapes_as_data_are_those_that_torch_computes(size: tuple[int, int]) -> None:
    shape = (3, *size)
    features = torch.empty(1, *shape, device="meta")
    for stage in STAGES:
        node = widen(stage.node, 0.25)
        with torch.device("meta"):
            features = build(node, shape[0]).eval()(features)
        shape = output_shape(node, shape)
        assert tuple(features.shape[1:]) == shape, stage.name


def test_74_pixels_leave_nothing() -> None:
    assert min(stage_shapes((3, 74, 75))["inception_c3"]) < 1


@pytest.mark.parametrize(("width", "channels"), [(1.0, 96), (0.5, 48), (0.1, 8), (0.01, 8), (2.0, 192)])
def test_width_scales_channels_in_steps_of_eight(width: float, channels: int) -> None:
    node = widen(conv(96, 3), width)
    assert isinstance(node, Convolution)
    assert node.channels == channels


def test_features_embeddings_and_logits_are_reachable() -> None:
    torch.manual_seed(0)
    network = InceptionV4(7, in_channels=1, width=0.1).eval()
    images = torch.randn(2, 1, 107, 139)
    with torch.no_grad():
        features, embedding, logits = network.forward_features(images), network.embed(images), network(images)
    assert features.shape == (2, network.num_features, *stage_shapes((1, 107, 139))["inception_c3"][1:])
    torch.testing.assert_close(embedding, features.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, network.classifier(embedding))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("shape", [(1, 3, 74, 299), (1, 3, 299, 74), (1, 1, 299, 299), (3, 299, 299), (1, 299, 299, 3)])
def test_wrong_images_are_a_clear_error(shape: tuple[int, ...]) -> None:
    network = InceptionV4(2, width=0.1)
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\) with H and W of at least 75, got \("):
        network(torch.zeros(shape))


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"in_channels": 0}, {"dropout": 1.0}, {"width": 0.0}])
def test_wrong_arguments_are_a_clear_error(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        InceptionV4(**arguments)  # type: ignore[arg-type]


def test_a_mean_pool_goes_round_a_gradient_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's is on GPUs, of images that are channels last; here by a pool that doubles it."""
    check = blocks._has_right_gradient.__wrapped__
    assert check(torch.device("cpu"))
    real = nn.functional.avg_pool2d

    def wrong(images: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return real(images if images.is_contiguous() else 2 * images, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(nn.functional, "avg_pool2d", wrong)
        assert not check(torch.device("cpu"))
    images = torch.zeros(2, 3, 5, 5, device="meta").to(memory_format=torch.channels_last).requires_grad_()
    for right, layout in ((True, torch.channels_last), (False, torch.contiguous_format)):
        monkeypatch.setattr(blocks, "_has_right_gradient", lambda _, right=right: right)
        assert blocks.MeanPool()(images).is_contiguous(memory_format=layout)
