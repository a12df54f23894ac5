"""A rewritten network as MindSpore's cells answers as the plain network does in torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from inceptionv4.network.inference_graph import build_inference_graph
from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.variants import ARCHITECTURES, Architecture


@pytest.fixture(scope="module")
def ms() -> Iterator[ModuleType]:
    os.environ["GLOG_v"] = "3"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pytest"])
        import mindspore

        mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
        yield mindspore


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_the_answer_is_the_same(ms: ModuleType, architecture: Architecture) -> None:
    from inceptionv4.network import mindspore as cells

    torch.manual_seed(0)
    network = InceptionV4(5, width=0.1, architecture=architecture).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.randn(1, 3, 75, 91)
    expected = network(images).numpy()
    converted = cells.InceptionV4(build_inference_graph(network))
    np.testing.assert_allclose(converted(ms.Tensor(images.numpy())).asnumpy(), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.05


def test_what_no_rewrite_leaves_is_refused(ms: ModuleType) -> None:
    from inceptionv4.network import mindspore as cells

    with pytest.raises(TypeError, match="a ConvNormReLU is in no rewritten network"):
        cells.build(InceptionV4(2, width=0.1).features)
