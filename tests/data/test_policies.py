"""Policies against torchvision's: the same operations, strengths and tables; the draws are the sample's own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import skimage.data
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
    "autoaugment": (policies.AUTO_SPACE, AutoAugment()._augmentation_space(10, (SIZE, SIZE)), 10),
    "randaugment": (policies.RAND_SPACE, RandAugment()._augmentation_space(31, (SIZE, SIZE)), 31),
    "trivialaugment": (policies.TRIVIAL_SPACE, TrivialAugmentWide()._augmentation_space(31), 31),
    "augmix": (policies.MIX_SPACE, AugMix()._augmentation_space(10, (SIZE, SIZE)), 10),
}


@pytest.mark.parametrize("policy", SPACES)
def test_strengths_are_torchvisions(policy: str) -> None:
    ours, theirs, strengths = SPACES[policy]
    for operation, name in THEIRS.items():
        if name in theirs:
            amounts, signed = theirs[name]
            expected = amounts.expand(strengths).tolist()
            assert [ours.amount(operation, step, SIZE) for step in range(strengths)] == pytest.approx(expected)
            assert signed == (operation in SIGNED)
    assert {THEIRS[name] for name in (MIXED if policy == "augmix" else PLAIN)} == set(theirs) - {"Invert"} | (
        {"Identity"} if policy == "autoaugment" else set()
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_torchvisions(operation: str) -> None:
    ours, _, strengths = SPACES["trivialaugment"]
    for strength in range(0, strengths, 5):
        for sign in (1, -1) if operation in SIGNED else (1,):
            amount = sign * ours.amount(operation, strength, SIZE)
            got = np.asarray(OPERATIONS[operation](PICTURE, amount))
            expected = _apply_op(PICTURE, THEIRS[operation], amount, InterpolationMode.BILINEAR, list(FILL))
            difference = np.abs(got.astype(int) - np.asarray(expected))
            if operation.startswith("shear"):  # torchvision goes through degrees and back
                assert difference.max() <= 1
                assert difference.any(2).mean() < 0.005
            else:
                assert not difference.any(), (operation, amount)


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
