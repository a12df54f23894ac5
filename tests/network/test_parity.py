"""The network against an independent one: timm's, with random weights and random norm statistics, in float64."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from inceptionv4.network.layers import InceptionV4


@pytest.fixture(scope="module")
def twins() -> tuple[InceptionV4, nn.Module]:
    """Ours and timm's with the same weights: both list their convolutions in the order of the paper's figures."""
    torch.manual_seed(0)
    theirs = timm.create_model("inception_v4", num_classes=11, drop_rate=0.0).double()
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # or the signal fades, and with it what a difference would show
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = InceptionV4(11, dropout=0.0).double()
    weights = list(theirs.state_dict().values())
    names = list(ours.state_dict())
    assert [tuple(value.shape) for value in weights] == [tuple(value.shape) for value in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(names, weights, strict=True)))
    return ours, theirs


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.isa
@pytest.mark.parametrize(
    ("size", "training"),
    [(75, False), (75, True), *(pytest.param(299, training, marks=pytest.mark.slow) for training in (False, True))],
)
def test_logits_features_and_all_gradients_equal_timms(
    twins: tuple[InceptionV4, nn.Module], size: int, training: bool
) -> None:
    torch.manual_seed(1)
    # At 75 px the last norms see one pixel an image. Over three images they make of rounding (a relative 1e-15 in the
    # images) 3e-8 in timm's own gradients; over six, 1e-10.
    count = 3 if size == 299 else 6
    images = torch.randn(count, 3, size, size, dtype=torch.float64)
    target = torch.randn(count, 11, dtype=torch.float64)
    results = []
    for network in twins:
        network.train(training).zero_grad()
        batch = images.clone().requires_grad_()
        features = network.forward_features(batch)
        if network is twins[0]:
            logits = network.classifier(features.mean(dim=(2, 3)))
        else:
            logits = network.forward_head(features)
        (logits * target).sum().backward()
        results.append((logits, features, batch.grad, [parameter.grad for parameter in network.parameters()]))
    ours, theirs = results
    for mine, reference in zip([*ours[:3], *ours[3]], [*theirs[:3], *theirs[3]], strict=True):
        assert mine is not None
        assert reference is not None
        assert relative_difference(mine, reference) < 1e-9


def test_the_comparison_can_fail(twins: tuple[InceptionV4, nn.Module]) -> None:
    ours, theirs = twins
    images = torch.randn(1, 3, 75, 75, dtype=torch.float64)
    weight = ours.features.inception_b3[2][1].conv.weight  # type: ignore[union-attr, index]
    before = weight.detach().clone()
    with torch.no_grad():
        ours.eval(), theirs.eval()
        assert relative_difference(ours(images), theirs(images)) < 1e-9
        weight[:] *= 1 + 1e-6
        assert relative_difference(ours(images), theirs(images)) > 1e-9
        weight.copy_(before)
