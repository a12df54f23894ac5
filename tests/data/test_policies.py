"""Policies against torchvision's: the same operations, strengths and tables; the draws are the sample's own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import (
    AugMix,
    AutoAugment,
    AutoAugmentPolicy,
    InterpolationMode,
    RandAugment,
    TrivialAugmentWide,
)
from torchvision.transforms.autoaugment import _apply_op

from inceptionv4.config import AugmentConfig
from inceptionv4.data import policies
from inceptionv4.data.augment import erase, sample_generator
from inceptionv4.data.policies import AUTO_PAIRS, FILL, MIXED, OPERATIONS, PLAIN, SIGNED, apply_policy

SIZE = 97
PICTURE = Image.fromarray(skimage.data.astronaut()).resize((SIZE, SIZE))
THEIRS = {name: name.title().replace("_", "").replace("Autocontrast", "AutoContrast") for name in OPERATIONS}

SPACES = {
    "autoaugment": policies.AUTO_SPACE,
    "randaugment": policies.RAND_SPACE,
    "trivialaugment": policies.TRIVIAL_SPACE,
    "augmix": policies.MIX_SPACE,
}


def picture(size: int) -> Image.Image:
    """A photograph under a corner of noise, so that every grey level occurs."""
    pixels = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((size, size))).copy()
    noise = np.random.default_rng(0).permutation(np.repeat(np.arange(256, dtype=np.uint8), 12)).reshape(32, 32, 3)
    pixels[:32, :32] = noise
    return Image.fromarray(pixels)


def their_space(policy: str, size: int) -> dict[str, tuple[torch.Tensor, bool]]:
    """Amounts and whether they have two ways, by torchvision's names of operations."""
    if policy == "trivialaugment":
        return TrivialAugmentWide()._augmentation_space(31)
    made: Any = {"autoaugment": AutoAugment, "randaugment": RandAugment, "augmix": AugMix}[policy]()
    space: dict[str, tuple[torch.Tensor, bool]] = made._augmentation_space(STRENGTHS[policy], (size, size))
    return space


STRENGTHS = {"autoaugment": 10, "randaugment": 31, "trivialaugment": 31, "augmix": AugMix()._PARAMETER_MAX}


@pytest.mark.parametrize("size", [75, 97, 224, 299, 331])
@pytest.mark.parametrize("policy", SPACES)
def test_amounts_are_torchvisions_at_every_strength(policy: str, size: int) -> None:
    theirs = their_space(policy, size)
    assert SPACES[policy].strengths == STRENGTHS[policy]
    for operation, name in THEIRS.items():
        if name in theirs:
            amounts, signed = theirs[name]
            expected = amounts.expand(STRENGTHS[policy]).tolist()
            ours = [SPACES[policy].amount(operation, step, size) for step in range(STRENGTHS[policy])]
            assert ours == expected, (operation, size)
            assert signed == (operation in SIGNED)
    assert {THEIRS[name] for name in (MIXED if policy == "augmix" else PLAIN)} == set(theirs) - {"Invert"} | (
        {"Identity"} if policy == "autoaugment" else set()
    )


class Way:
    """A generator that always draws one number: below a half is the negative way."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize("policy", SPACES)
def test_pixels_are_torchvisions_at_every_strength_that_is_drawn(policy: str) -> None:
    """Given its own amounts, torchvision does the same."""
    image = picture(SIZE)
    for operation, name in THEIRS.items():
        if name not in their_space(policy, SIZE):
            continue
        amounts, signed = their_space(policy, SIZE)[name]
        drawn = amounts[: AugMix().severity] if policy == "augmix" and amounts.ndim else amounts
        for strength, amount in enumerate(drawn.tolist() if amounts.ndim else [0.0]):
            for sign in (1, -1) if signed else (1,):
                way: Any = Way(0.7 * (sign == 1))
                got = SPACES[policy].apply(image, operation, strength, way)
                expected = _apply_op(image, name, sign * amount, InterpolationMode.BILINEAR, list(FILL))  # type: ignore[arg-type]
                assert np.array_equal(got, expected), (operation, strength, sign)


def test_the_pairs_are_torchvisions() -> None:
    ours = [tuple((THEIRS[name], share, strength) for name, share, strength in pair) for pair in AUTO_PAIRS]
    theirs = [
        tuple((name, share, strength or 0) for name, share, strength in pair)
        for pair in AutoAugment()._get_policies(AutoAugmentPolicy.IMAGENET)
    ]
    assert ours == theirs


@pytest.mark.parametrize("policy", SPACES)
def test_a_policy_depends_on_the_sample_alone_and_does_something(policy: str) -> None:
    augment = AugmentConfig(policy=policy)  # type: ignore[arg-type]
    draws = [np.asarray(apply_policy(PICTURE, augment, sample_generator(0, 0, draw))) for draw in range(40)]
    again = [np.asarray(apply_policy(PICTURE, augment, sample_generator(0, 0, draw))) for draw in range(40)]
    assert all(map(np.array_equal, draws, again))
    changed = sum(not np.array_equal(view, np.asarray(PICTURE)) for view in draws)
    assert changed >= 25
    assert len({view.tobytes() for view in draws}) >= 15


def test_operations_are_drawn_evenly_and_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[tuple[str, int]] = Counter()

    def note(space: object, image: Image.Image, operation: str, strength: int, generator: object) -> Image.Image:
        drawn[operation, strength] += 1
        return image

    monkeypatch.setattr(policies.Space, "apply", note)
    augment = AugmentConfig(policy="randaugment", policy_operations=3, policy_strength=21)
    for draw in range(2000):
        apply_policy(PICTURE, augment, sample_generator(0, 0, draw))
    assert set(drawn) == {(name, 21) for name in PLAIN}
    assert drawn.total() == 6000
    assert max(drawn.values()) - min(drawn.values()) < 6 * (6000 / 14) ** 0.5
    drawn.clear()
    for draw in range(2000):
        apply_policy(PICTURE, AugmentConfig(policy="trivialaugment"), sample_generator(0, 0, draw))
    assert drawn.total() == 2000
    assert {strength for _, strength in drawn} == set(range(31))


def test_an_erased_box_has_the_size_it_should_and_the_rest_is_as_before() -> None:
    pixels = np.full((3, 200, 100), 300 % 256, np.uint8)
    shares = []
    for seed in range(200):
        erased = erase(pixels, np.random.default_rng(seed))
        changed = (erased != pixels).any(0)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert changed.sum() > 0.99 * box
        shares.append(box / changed.size)
    assert (pixels == 300 % 256).all()
    assert 0.015 < min(shares) < 0.05
    assert 0.28 < max(shares) < 0.34
    assert np.mean(shares) == pytest.approx(0.175, abs=0.02)
