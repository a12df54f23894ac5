"""Mixup and CutMix by their definitions: every pixel comes from one of two images, in the share of the targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inceptionv4.config import AugmentConfig
from inceptionv4.training.losses import mix

# Image i is of the value i everywhere, so that a pixel says where it is from.
IMAGES = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 40, 50)
TARGETS = torch.eye(6)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_is_mixed_unless_asked_for() -> None:
    images, targets = mix(IMAGES, TARGETS, AugmentConfig(), rng(0))
    assert images is IMAGES
    assert targets is TARGETS
    single, _ = mix(IMAGES[:1], TARGETS[:1], AugmentConfig(mixup=1.0), rng(0))
    assert torch.equal(single, IMAGES[:1])


@pytest.mark.parametrize("seed", range(20))
def test_mixup_blends_with_the_opposite_image(seed: int) -> None:
    images, targets = mix(IMAGES, TARGETS, AugmentConfig(mixup=0.4), rng(seed))
    share = targets[0, 0]
    assert 0 <= share <= 1
    expected = share * IMAGES + (1 - share) * IMAGES.flip(0)
    torch.testing.assert_close(images, expected)
    torch.testing.assert_close(targets, share * TARGETS + (1 - share) * TARGETS.flip(0))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_one_box_and_counts_its_pixels(seed: int) -> None:
    images, targets = mix(IMAGES, TARGETS, AugmentConfig(cutmix=1.0), rng(seed))
    pasted = images != IMAGES
    assert torch.equal(pasted[0], pasted[5])
    assert torch.equal(images[pasted], IMAGES.flip(0)[pasted])
    box = pasted[0, 0]
    if box.any():
        rows, columns = (torch.nonzero(box.any(dim)).flatten() for dim in (1, 0))
        assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert targets[0].tolist() == pytest.approx([1 - box.float().mean().item(), 0, 0, 0, 0, box.float().mean().item()])
    assert torch.equal(IMAGES, torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 40, 50)), "the input was changed"


def test_shares_are_those_of_a_beta_distribution() -> None:
    shares = [mix(IMAGES, TARGETS, AugmentConfig(mixup=0.2), rng(seed))[1][0, 0].item() for seed in range(3000)]
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 (2 * 0.2 + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=5 * np.sqrt(1 / 5.6 / 3000))
    assert np.var(shares) == pytest.approx(1 / 5.6, rel=0.05)


def test_either_is_taken_half_of_the_time_and_the_seed_decides() -> None:
    both = AugmentConfig(mixup=0.2, cutmix=1.0)
    results = [mix(IMAGES, TARGETS, both, rng(seed))[0] for seed in range(400)]
    cut = np.mean([torch.equal(image, image.round()) for image in results])
    assert cut == pytest.approx(0.5, abs=0.13)  # five deviations
    assert torch.equal(mix(IMAGES, TARGETS, both, rng(7))[0], results[7])
