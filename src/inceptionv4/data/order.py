"""Which samples an epoch shows, and in which order: a pure function of the seed, the epoch and the labels."""

from __future__ import annotations

import numpy as np

from inceptionv4.config import Sampling


def epoch_order(labels: np.ndarray, seed: int, epoch: int, sampling: Sampling = "natural") -> np.ndarray:
    """The draws of one epoch, int64, as many as the n samples: draw d is sample `d % n`, for the `d // n`-th time.

    `natural` shows each sample once. `balanced` shows each class that occurs equally often, to within one: the samples
    of a large class take turns from epoch to epoch at random, those of a small one come several times, and no sample
    comes once more before all of its class have come as often.
    """
    count = len(labels)
    generator = np.random.default_rng((seed, epoch))
    if sampling == "natural":
        return generator.permutation(count)
    by_class = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    shares = np.full(len(sizes), count // len(sizes))
    shares[generator.permutation(len(sizes))[: count % len(sizes)]] += 1
    draws, start = [], 0
    for size, share in zip(sizes.tolist(), shares.tolist(), strict=True):
        members = by_class[start : start + size]
        rounds, rest = divmod(share, size)
        draws += [members + turn * count for turn in range(rounds)]
        draws.append(generator.permutation(members)[:rest] + rounds * count)
        start += size
    return generator.permutation(np.concatenate(draws))


def repeat(draws: np.ndarray, batches: int, repeats: int, samples: int) -> np.ndarray:
    """Of the draws of `batches` full batches, the first ones `repeats` times each, in one batch with their repeats.

    Views of one image in a batch average its gradient over what is random ("Augment your batch", arXiv 1901.09335;
    "repeated augmentation"). Each repeat is a draw of its own, `repeats` turns further on than any other of the sample.
    They come one round after the other, so that ranks, which take parts of a batch, see different images each.
    """
    if repeats == 1:
        return draws
    turns = 1 + int(draws.max()) // samples
    chosen = draws[: len(draws) // repeats].reshape(batches, 1, -1)
    return (chosen + np.arange(repeats)[:, None] * turns * samples).reshape(-1)
