"""Weights of timm's, evaluated here, give what timm's own pipeline gives, image by image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import timm
import torch
from PIL import Image

from inceptionv4 import Classifier
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.imagenet import class_names, names_of_wnids

PHOTOGRAPHS = ("astronaut", "brick", "camera", "grass", "gravel")


@pytest.fixture(scope="module")
@torch.no_grad()
def weights(tmp_path_factory: pytest.TempPathFactory, photographs: list[Path]) -> tuple[torch.nn.Module, Path]:
    """A network of timm's with random weights, and statistics of the photographs, so that it tells them apart."""
    torch.manual_seed(0)
    network = timm.create_model("inception_v4").train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = 1.0
    network(read(network, photographs))
    network.eval()
    features = network.forward_head(network.forward_features(read(network, photographs)), pre_logits=True)
    torch.nn.init.normal_(network.last_linear.weight, std=float(0.1 / features.std(0).mean()))
    network.last_linear.bias.copy_(-network.last_linear.weight @ features.mean(0))
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return network, path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Crops of five photographs in sizes and shapes of their own, as JPEGs."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    files = []
    for number in range(10):
        photograph = Image.fromarray(getattr(skimage.data, PHOTOGRAPHS[number % 5])()).convert("RGB")
        width, height = generator.integers(150, 512, 2)
        x, y = generator.integers(0, 513 - width), generator.integers(0, 513 - height)
        files.append(folder / f"{number:02}.jpg")
        photograph.crop((x, y, x + width, y + height)).save(files[-1], quality=92)
    return files


def read(network: torch.nn.Module, files: list[Path]) -> torch.Tensor:
    """Timm's own preprocessing."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return torch.stack([transform(Image.open(file).convert("RGB")) for file in files])


@torch.no_grad()
def timms_logits(network: torch.nn.Module, files: list[Path]) -> torch.Tensor:
    return network(read(network, files))


def test_predictions_agree_image_by_image(weights: tuple[torch.nn.Module, Path], photographs: list[Path]) -> None:
    network, path = weights
    probabilities = timms_logits(network, photographs).softmax(1)
    best = probabilities.topk(5)
    assert len(set(best.indices[:, 0].tolist())) > 2  # or the photographs would not matter
    names = class_names()
    for prediction, numbers, values in zip(
        Classifier.load(path)(photographs), best.indices.tolist(), best.values.tolist(), strict=True
    ):
        assert [guess.label for guess in prediction.top] == [names[number] for number in numbers]
        # Random weights multiply the rounding of float32: both are 1e-3 of a logit's spread from float64.
        np.testing.assert_allclose([guess.probability for guess in prediction.top], values, rtol=0, atol=0.01)


def test_top1_and_top5_are_timms(
    weights: tuple[torch.nn.Module, Path], photographs: list[Path], tmp_path: Path
) -> None:
    """Photographs in folders named by wnids, as ImageNet has them: some right, some among five, some wrong."""
    network, path = weights
    logits = timms_logits(network, photographs)
    order = logits.argsort(1, descending=True)
    labels = [int(order[number, (0, 3, 500)[number % 3]]) for number in range(len(photographs))]
    wnids = list(names_of_wnids())
    for file, label in zip(photographs, labels, strict=True):
        target = tmp_path / "val" / wnids[label] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    ranks = [order[number].tolist().index(label) for number, label in enumerate(labels)]
    metrics = evaluate(path, tmp_path).metrics
    assert metrics.images == len(photographs)
    assert metrics.top1 == sum(rank < 1 for rank in ranks) / len(ranks) == 0.4
    assert metrics.top5 == sum(rank < 5 for rank in ranks) / len(ranks) == 0.7
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    assert metrics.loss == pytest.approx(float(expected), rel=1e-3)  # see above


@pytest.mark.slow
def test_fine_tuning_from_timms_weights_keeps_the_classifier_of_imagenet(
    weights: tuple[torch.nn.Module, Path], textures: Path, tmp_path: Path, command: Callable[..., object]
) -> None:
    """And replaces it where the classes are others: all else is timm's."""
    from inceptionv4.config import ModelConfig
    from inceptionv4.spec import ModelSpec
    from inceptionv4.training.build_model import build_model

    network, path = weights
    for classes, kept in ((tuple(names_of_wnids()), True), (("a", "b"), False)):
        ours, _, words = build_model(ModelConfig(weights=str(path)), ModelSpec(classes=classes))
        assert torch.equal(ours.features.stem[0].conv.weight, network.features[0].conv.weight)
        assert words == [f"starts from timm: model.safetensors, with {'its' if kept else 'a new'} classifier"]
        same = ours.classifier.weight.shape == network.last_linear.weight.shape
        assert (same and torch.equal(ours.classifier.weight, network.last_linear.weight)) is kept
    result = command(
        "train", "--data", textures, "--model.weights", path, "--image.size", 75, "--schedule.epochs", 1,
        "--schedule.warmup-epochs", 0, "--output", tmp_path, "--training.batch-size", 60,
    )  # fmt: skip
    assert result.code == 0, result.err
