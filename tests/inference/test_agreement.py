"""What counts as the same answer: rounding is, and what a wrong export or preprocessing does is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.photographs import load_photographs
from inceptionv4.data.transforms import normalize
from inceptionv4.export_metadata import Precision
from inceptionv4.inference import agreement
from inceptionv4.inference.agreement import FACTORS, MOST_FLIPS, Reference, round_activations, round_weights
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import Preprocessing

PIXELS = Preprocessing(size=75, crop=0.9)
PRECISIONS = get_args(Precision)


@pytest.fixture(scope="module")
def reference(textures: Any) -> Reference:
    """A narrow network whose norms have seen the images, so that its answers differ from image to image."""
    torch.manual_seed(0)
    network = InceptionV4(7, width=0.1)
    batches = evaluation_batches(read_dataset(textures).val, PIXELS, batch_size=45, workers=0)
    photographs = load_photographs(PIXELS)
    images = torch.cat([*(batch.images for batch in batches), photographs])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(normalize(images, PIXELS))
        network.eval()
        features = network.embed(normalize(images, PIXELS))
        # Logits along which features differ most from image to image.
        network.classifier.weight.copy_(torch.linalg.svd(features - features.mean(0)).Vh[:7])
    return Reference(network.eval(), images, PIXELS, coloured=len(photographs))


def rounded(reference: Reference, precision: Precision) -> Tensor:
    return reference.answer_rounded(precision, reference.images)


def test_photographs_are_coloured_and_unlike_each_other() -> None:
    photographs = load_photographs(Preprocessing(size=299)).float()
    assert photographs.shape == (8, 3, 299, 299)
    assert all((image[0] - image[2]).abs().mean() > 4 for image in photographs)
    small = torch.nn.functional.avg_pool2d(photographs, 32).flatten(1)
    assert float((torch.cdist(small, small) + torch.eye(8) * 1e9).min()) > 100


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_networks_own_answers_and_their_rounding_agree(reference: Reference, precision: Precision) -> None:
    same = reference.compare(reference.logits.clone(), precision)
    assert (same.largest_difference, same.top1_agreement, same.top5_overlap, same.refusal) == (0, 1, 1, None)
    found = reference.compare(rounded(reference, precision), precision)
    assert found.refusal is None
    assert 0 < found.largest_difference <= found.tolerance


def test_tolerances_are_a_factor_of_the_networks_own_rounding(reference: Reference) -> None:
    for precision in ("fp16", "bf16", "int8"):
        # int8 has the ranges of the model's own images, and is compared on these alone.
        last = len(reference.images) - 1 - (8 if precision == "int8" else 0)
        rows = torch.linspace(0, last, agreement.ROUNDED).round().long()
        own = reference.answer_rounded(precision, reference.images[rows]) - reference.logits[rows]
        expected = FACTORS[precision] * float(own.abs().max())
        assert reference.compare(reference.logits, precision).tolerance == pytest.approx(expected)
    tolerances = [reference.compare(reference.logits, precision).tolerance for precision in PRECISIONS]
    assert tolerances == sorted(tolerances)  # fp32, fp16, bf16, int8: from the finest


def test_fp16_and_bf16_round_what_torch_rounds() -> None:
    """One convolution of one pixel, by numpy's and torch's own rounding."""
    network = InceptionV4(3, width=0.1).eval()
    images = torch.randint(0, 256, (1, 3, 75, 75), dtype=torch.uint8)
    reference = Reference(network, images, PIXELS, coloured=1)
    features: list[Tensor] = []
    hook = network.classifier.register_forward_hook(lambda module, given, output: features.append(given[0].clone()))
    reference.answer(network, images)
    hook.remove()
    weight, bias = network.classifier.weight.half().float(), network.classifier.bias
    assert np.array_equal(weight.detach().numpy(), network.classifier.weight.detach().numpy().astype(np.float16))
    logits = reference.answer_rounded("fp16", images)
    assert torch.equal(logits, logits.half().float())
    coarse = reference.answer_rounded("bf16", images)
    assert torch.equal(coarse, coarse.bfloat16().float())
    with torch.inference_mode():
        torch.testing.assert_close(logits, features[0] @ weight.T + bias, rtol=0.05, atol=0.05)


def test_int8_rounds_to_its_steps() -> None:
    values = torch.linspace(-1, 3, 10_000)
    assert len(round_activations(values).unique()) == 256
    assert float((round_activations(values) - values).abs().max()) <= 4 / 255 / 2 + 1e-6
    weight = torch.randn(4, 8, 3, 3)
    assert all(len(kernel.unique()) <= 127 for kernel in round_weights(weight))
    assert torch.equal(
        round_weights(weight).amax((1, 2, 3)) <= weight.abs().amax((1, 2, 3)) + 1e-6, torch.ones(4).bool()
    )


MUTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mirror": lambda images: images.flip(3),
    "shift of 2 px": lambda images: images.roll(2, dims=3),
    "brightness": lambda images: (images.float() * 1.1).clamp(0, 255).to(torch.uint8),
    "exchanged colours": lambda images: images.flip(1),
    "noise": lambda images: (images.float() + 8 * torch.randn(images.shape)).clamp(0, 255).to(torch.uint8),
    "one grey level": lambda images: (images.float() + 1).clamp(0, 255).to(torch.uint8),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_other_pixels_are_refused(reference: Reference, mutation: str) -> None:
    logits = reference.answer(reference._network, MUTATIONS[mutation](reference.images))
    for precision in ("fp32", "fp16", "bf16") if mutation != "one grey level" else ("fp32",):
        assert "a logit differs by" in str(reference.compare(logits, precision).refusal), precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_constant_permuted_and_other_answers_are_refused_in_every_precision(
    reference: Reference, precision: Precision
) -> None:
    noise = rounded(reference, precision) - reference.logits
    for logits in (
        reference.logits.mean(0).expand_as(reference.logits),
        torch.zeros_like(reference.logits),
        reference.logits.roll(1, dims=1),
        reference.logits.roll(1, dims=0),
        -reference.logits,
        2 * reference.logits,
        reference.answer(reference._network, reference.images.flip(1)),
    ):
        assert reference.compare(logits, precision).refusal is not None
        assert reference.compare(logits + noise, precision).refusal is not None


def test_exchanged_colours_are_refused_where_rounding_would_hide_them(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = reference.answer(reference._network, reference.images.flip(1))
    monkeypatch.setitem(FACTORS, "int8", math.inf)
    monkeypatch.setattr(agreement, "MOST_FLIPS", 1000)
    own = reference.logits[-8:]
    nearer = torch.cat([reference.logits[:-8], own + 0.6 * (logits[-8:] - own)])
    wide = Reference(reference._network, reference.images, PIXELS, coloured=8)
    wide.logits = reference.logits * 1.0
    refusal = wide.compare(nearer, "int8").refusal
    assert refusal == "it answers as if red and blue were exchanged"
    nearer = torch.cat([reference.logits[:-8], own + 0.4 * (logits[-8:] - own)])
    assert wide.compare(nearer, "int8").refusal is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_no_number_agrees_with_nothing(reference: Reference, precision: Precision, value: float) -> None:
    logits = reference.logits.clone()
    logits[0, 0] = value
    assert reference.compare(logits, precision).refusal == "its logits are not finite"


def test_flips_beyond_chance_are_refused_in_int8(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the logits would be near enough."""
    monkeypatch.setitem(FACTORS, "int8", math.inf)
    assert reference.compare(reference.logits, "int8").refusal is None
    ranked = reference.logits[: reference.compare(reference.logits, "int8").images].topk(2)  # without the photographs
    lead = ranked.values[:, 0] - ranked.values[:, 1]
    largest = float(lead.median()) / 2  # half of the images are tied
    monkeypatch.setitem(reference._roundings, "int8", replace(reference._roundings["int8"], largest=largest))
    rows = lead.argsort()
    beyond, tied = rows[lead[rows] > 2 * largest], rows[lead[rows] <= 2 * largest]
    for changed, refused in ((tied, False), (beyond[:MOST_FLIPS], False), (beyond[: MOST_FLIPS + 1], True)):
        logits = reference.logits.clone()
        for row in changed:
            best, second = ranked.indices[row]
            logits[row, best], logits[row, second] = reference.logits[row, second], reference.logits[row, best]
        found = reference.compare(logits, "int8")
        assert found.top1_agreement == pytest.approx(1 - len(changed) / len(rows))  # the true one
        if refused:
            assert found.refusal == f"{MOST_FLIPS + 1} images are of another class, beyond rounding; 4 may be chance"
        else:
            assert found.refusal is None


def test_a_model_that_answers_all_images_alike_tells_nothing() -> None:
    network = InceptionV4(3, width=0.1).eval()
    torch.nn.init.zeros_(network.classifier.weight)
    photographs = load_photographs(PIXELS)
    reference = Reference(network, photographs, PIXELS, coloured=8)
    for precision in PRECISIONS:
        assert "nothing can be told" in str(reference.compare(reference.logits, precision).refusal)


def test_the_best_five_are_counted_without_their_order(reference: Reference) -> None:
    logits = reference.logits.clone()
    order = logits[0].argsort(descending=True)
    logits[0, order[4]], logits[0, order[5]] = reference.logits[0, order[5]], reference.logits[0, order[4]]
    for precision in ("int8", "bf16"):  # int8 leaves out the photographs
        found = reference.compare(logits, precision)
        assert found.images == len(logits) - (8 if precision == "int8" else 0)
        assert found.top5_overlap == pytest.approx((found.images - 1 / 5) / found.images)
