"""The paired test by which a model counts as worse, against scipy's and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from inceptionv4.evaluation.paired import LEAST_LOST, PairedComparison, compare_paired


def _compared(images: int, lost: int, gained: int) -> PairedComparison:
    return PairedComparison(images, tuple(range(lost)), tuple(range(lost, lost + gained)))


@pytest.mark.parametrize(("lost", "gained"), list(itertools.product((0, 1, 2, 5, 8, 40, 600), repeat=2)))
def test_the_p_value_is_that_of_an_exact_binomial_test(lost: int, gained: int) -> None:
    exact = binomtest(lost, lost + gained, alternative="greater").pvalue if lost + gained else 1.0
    assert _compared(2000, lost, gained).p_value == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("images", "lost", "gained", "worse"),
    [
        (240, 1, 0, False),  # 0.42 points of one image
        (240, 4, 0, False),  # p = 1/16
        (240, 5, 0, True),  # p = 1/32
        (240, 7, 1, True),  # p = 9/256
        (240, 6, 1, False),  # p = 8/128
        (240, 0, 9, False),
        (50_000, 149, 0, False),  # significant, but not above 0.3 points
        (50_000, 151, 0, True),
        (50_000, 1151, 1000, True),  # p = 0.0006
        (50_000, 5151, 5000, False),  # 0.302 points, p = 0.07
    ],
)
def test_a_drop_counts_above_what_is_allowed_and_only_if_it_is_significant(
    images: int, lost: int, gained: int, worse: bool
) -> None:
    assert _compared(images, lost, gained).is_worse(0.3) is worse


def test_a_significant_drop_is_of_more_than_two_images() -> None:
    worse = [
        lost - gained
        for lost, gained in itertools.product(range(60), repeat=2)
        if _compared(100, lost, gained).is_worse(0.0)
    ]
    assert min(worse) == LEAST_LOST == 5


def test_images_are_paired_by_their_position() -> None:
    reference = np.array([True, True, False, False, True])
    candidate = np.array([True, False, True, False, False])
    assert compare_paired(reference, candidate) == PairedComparison(5, lost=(1, 4), gained=(2,))
    assert compare_paired(reference, candidate).drop == pytest.approx(20)
    with pytest.raises(ValueError, match="5 and 4 answers"):
        compare_paired(reference, candidate[:4])
