"""What counts as the same answer, by numbers that are easily worked out."""

from __future__ import annotations

import pytest
import torch

from inceptionv4.inference.agreement import agrees, compare

LOGITS = torch.tensor([[0.0, 1, 2, 3, 4, 5, 10], [10.0, 5, 4, 3, 2, 1, 0], [0.0, 0, 0, 0, 0, 9, 10]])
"""Their spread is 10."""


def test_the_same_is_the_same() -> None:
    found = compare(LOGITS, LOGITS.clone(), "fp32")
    assert (found.largest_difference, found.top1_agreement, found.top5_overlap) == (0, 1, 1)
    assert found.tolerance == pytest.approx(10 * 1e-4)
    assert agrees(found, "fp32")


@pytest.mark.parametrize(("share", "same"), [(0.9e-4, True), (1.1e-4, False)])
def test_one_logit_beyond_rounding_is_too_many(share: float, same: bool) -> None:
    logits = LOGITS.clone()
    logits[1, 3] += 10 * share
    assert agrees(compare(LOGITS, logits, "fp32"), "fp32") is same


def test_another_class_is_another_answer() -> None:
    found = compare(LOGITS, LOGITS.roll(1, 1), "fp32")
    assert found.top1_agreement == 0
    assert found.largest_difference == 10
    assert not agrees(found, "int8")


def test_classes_that_the_tolerance_cannot_tell_apart_are_the_same() -> None:
    logits = LOGITS.clone()
    logits[2, 5] = 10.5  # 9 and 10 are within twice bf16's tolerance of 1
    assert compare(LOGITS, logits, "bf16").top1_agreement == 1
    assert compare(LOGITS, logits, "fp32").top1_agreement == pytest.approx(2 / 3)
    assert compare(LOGITS, logits, "int8").top1_agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_agrees_with_nothing(value: float) -> None:
    logits = LOGITS.clone()
    logits[0, 0] = value
    assert not agrees(compare(LOGITS, logits, "int8"), "int8")


def test_the_best_five_are_counted_without_their_order() -> None:
    logits = LOGITS.clone()
    logits[0, :2] += 1.5  # class 1, now 2.5, takes the place of class 2 among the best five
    assert compare(LOGITS, logits, "bf16").top5_overlap == pytest.approx((4 / 5 + 1 + 1) / 3)
