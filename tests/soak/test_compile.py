"""A compiled network learns and answers as the plain one does. Compiling takes minutes on few cores."""

from __future__ import annotations

import copy

import pytest
import torch

from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.training.train_step import compile_network


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, while it traces
@pytest.mark.parametrize("how", ["blocks", "full"])
def test_a_compiled_network_has_the_gradients_of_the_plain_one(how: str) -> None:
    torch.manual_seed(0)
    plain = InceptionV4(3, width=0.1, dropout=0.0)
    compiled = copy.deepcopy(plain)
    compile_network(compiled, how)
    images = torch.randn(16, 3, 75, 75)
    for network in (plain, compiled):
        network(images).square().sum().backward()
    assert list(plain.state_dict()) == list(compiled.state_dict())
    # As one, for the layers multiply the rounding on its way back: both are 8e-4 of its norm from float64's.
    ours, theirs = (torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (compiled, plain))  # type: ignore[union-attr]
    assert (ours - theirs).norm() < 0.01 * theirs.norm()
    for (name, buffer), other in zip(compiled.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-4, atol=1e-4, msg=name)


def test_a_compiled_model_answers_as_the_plain_one() -> None:
    torch.manual_seed(0)
    network = InceptionV4(3, width=0.1).eval()
    spec = ModelSpec(classes=("a", "b", "c"), width=0.1, preprocessing=Preprocessing(size=75))
    images = torch.randint(256, (4, 3, 75, 75), dtype=torch.uint8)
    with torch.no_grad():
        expected = network((images.float() / 255 - 0.5) / 0.5)
    backend = TorchBackend(network, spec, select_device("cpu", "fp32"), mode="compiled")
    torch.testing.assert_close(backend.infer(images), expected, rtol=0, atol=1e-4)
