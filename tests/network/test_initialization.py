"""Initialisation: the signal must survive 149 layers forwards, and the gradient backwards."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from inceptionv4.network.layers import ConvNormReLU, InceptionV4


@pytest.fixture(scope="module")
def network() -> InceptionV4:
    torch.manual_seed(0)
    return InceptionV4(10, width=0.5)


def images() -> Tensor:
    return torch.randn(8, 3, 139, 139, generator=torch.Generator().manual_seed(1))


def test_convolutions_are_he_normal(network: InceptionV4) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            expected = math.sqrt(2 / fan_in)
            # The standard error of a standard deviation over n normal values is std / sqrt(2 n); five of them.
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance), name


@pytest.mark.parametrize("training", [True, False])
def test_activations_keep_a_sane_scale_through_all_layers(network: InceptionV4, training: bool) -> None:
    """In training, norms hold the scale; at the first evaluation, with norms still the identity, He's variance does."""
    spreads: dict[str, float] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: spreads.__setitem__(name, output.std().item()))
        for name, module in network.named_modules()
        if isinstance(module, ConvNormReLU)
    ]
    network.train(training)
    with torch.no_grad():
        network(images())
    for hook in hooks:
        hook.remove()
    assert len(spreads) == 149
    assert min(spreads.values()) > 0.05
    assert max(spreads.values()) < 20


def test_gradients_reach_the_stem_at_the_scale_of_the_last_block(network: InceptionV4) -> None:
    """With shifts of zero the ratio of relative gradients is in the thousands: see `InceptionV4.initialize`."""

    def ratio() -> float:
        network.train().zero_grad()
        cross_entropy(network(images()), torch.arange(8)).backward()
        first = network.features.stem[0].conv.weight  # type: ignore[union-attr, index]
        last = network.features.inception_c3[0].conv.weight  # type: ignore[union-attr, index]
        assert first.grad is not None
        assert last.grad is not None
        return ((first.grad.norm() / first.norm()) / (last.grad.norm() / last.norm())).item()

    ours = ratio()
    shifts = [module.bias for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for shift in shifts:
            shift.zero_()
    plain = ratio()
    with torch.no_grad():
        for shift in shifts:
            shift.fill_(1.0)
    assert ours < 30
    assert plain > 300


def test_the_first_loss_is_the_logarithm_of_the_classes(network: InceptionV4) -> None:
    with torch.no_grad():
        loss = cross_entropy(network.train()(images()), torch.arange(8))
    assert loss.item() == pytest.approx(math.log(10), rel=0.1)
