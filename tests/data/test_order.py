"""The order of an epoch: a permutation, or each class equally often, of its three numbers alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from inceptionv4.data.order import epoch_order, repeat


def test_the_natural_order_is_a_permutation_of_seed_epoch_and_size_alone() -> None:
    order = epoch_order(np.zeros(1000, np.int32), 3, 4)
    assert Counter(order.tolist()) == Counter(range(1000))
    code = "import numpy as n; from inceptionv4.data.order import *; print(epoch_order(n.ones(1000), 3, 4).tolist())"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert elsewhere.strip() == str(order.tolist())
    assert not np.array_equal(order, epoch_order(np.zeros(1000, np.int32), 3, 5))
    assert not np.array_equal(order, epoch_order(np.zeros(1000, np.int32), 4, 4))


@pytest.mark.parametrize("sizes", [(900, 90, 10), (1, 1, 998), (5, 5), (1, 0, 3, 0, 7)])
def test_the_balanced_order_shows_classes_equally_and_their_images_in_turn(sizes: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    count, occurring = len(labels), sum(size > 0 for size in sizes)
    draws = epoch_order(labels, 0, 0, "balanced")
    assert draws.shape == (count,)
    assert len(set(draws.tolist())) == count, "a draw came twice: two views would be the same"
    shown = Counter(labels[draws % count].tolist())
    assert max(shown.values()) - min(shown.values()) <= 1
    assert len(shown) == occurring
    for label in shown:
        times = np.bincount(draws[labels[draws % count] == label] % count, minlength=count)[labels == label]
        assert times.max() - times.min() <= 1
    # The n-th view of a sample is there only if all views before it are.
    for index, views in Counter((draws % count).tolist()).items():
        assert {index + view * count for view in range(views)} <= set(draws.tolist())


def test_the_balanced_order_is_shuffled_and_changes_with_the_epoch() -> None:
    labels = np.repeat(np.arange(2, dtype=np.int32), (900, 100))
    first, second = (epoch_order(labels, 0, epoch, "balanced") for epoch in (0, 1))
    assert abs(labels[first[:500] % 1000].mean() - 0.5) < 0.1
    seen = [set((draws % 1000).tolist()) for draws in (first, second)]
    # 500 of the 900 are shown each epoch: another choice.
    assert len(seen[0] - seen[1]) > 100


def test_repeats_come_in_one_batch_and_are_draws_of_their_own() -> None:
    labels = np.zeros(100, np.int32)
    draws = epoch_order(labels, 0, 0)[:96]
    repeated = repeat(draws, 8, 3, 100)
    assert len(set(repeated.tolist())) == 96
    for batch in repeated.reshape(8, 12):
        assert set(Counter((batch % 100).tolist()).values()) == {3}
        for rank in batch.reshape(3, 4):  # three ranks see different images each
            assert len(set((rank % 100).tolist())) == 4
    assert np.array_equal(repeat(draws, 8, 1, 100), draws)
    balanced = epoch_order(np.repeat(np.arange(2), (90, 10)), 0, 0, "balanced")[:96]
    assert len(set(repeat(balanced, 8, 2, 100).tolist())) == 96
