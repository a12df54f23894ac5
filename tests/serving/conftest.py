"""Servers that several tests ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from running import MeanBackend, Running, serving
from torch import nn

from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.transforms import normalize
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture
def backend() -> MeanBackend:
    return MeanBackend()


@pytest.fixture(scope="session")
@torch.no_grad()
def telling_model(tmp_path_factory: pytest.TempPathFactory, textures: Path, narrow_spec: ModelSpec) -> Path:
    """A narrow network with random weights whose answers differ from image to image: its norms have seen the textures,
    and its logits are spread by its features' own directions.
    """
    torch.manual_seed(0)
    network = InceptionV4(3, width=narrow_spec.width)
    batches = evaluation_batches(read_dataset(textures).val, narrow_spec.preprocessing, batch_size=45, workers=0)
    images = normalize(next(iter(batches)).images, narrow_spec.preprocessing)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    features = network.eval().embed(images)
    directions = torch.linalg.svd(features - features.mean(0), full_matrices=False).Vh[:3]
    network.classifier.weight.copy_(directions / (features @ directions.T).std(0)[:, None])
    network.classifier.bias.copy_(-network.classifier.weight @ features.mean(0))
    path = tmp_path_factory.mktemp("telling") / "telling.safetensors"
    save_checkpoint(Checkpoint(network.state_dict(), narrow_spec), path)
    return path


@pytest.fixture(scope="module")
def narrow_server(telling_model: Path) -> Iterator[Running]:
    """A narrow checkpoint, served; for tests that leave it as it is."""
    with serving(open_backend(telling_model, device="cpu")) as running:
        yield running
