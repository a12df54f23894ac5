"""Pictures that look alike, though their bytes differ: another quality, another size, a little lighter.

A picture's hash is 256 bits, the signs of the lowest frequencies of its grey values (a discrete cosine transform of
32 x 32 px). Different parts of photographs are 36 bits apart or more; the same part, saved at quality 40, at half its
size or a tenth lighter, is within 12 bits nine times in ten.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

SIDE, KEPT = 32, 16
WORDS = KEPT * KEPT // 64
NEAR = 12
"""Bits by which two pictures may differ and still be taken for the same."""
FLAT = 2.0
"""Standard deviation in grey levels below which a picture shows nothing: its signs would be noise."""
AT_ONCE = 2**22
"""Pairs that are compared at once, which bounds the memory."""


def perceptual_hash(image: Image.Image) -> np.ndarray | None:
    """The hash of a picture, uint64 `(4,)`; None for one that shows nothing."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
    values = np.asarray(small, np.float64)
    if values.std() < FLAT:
        return None
    cosines = _cosines()
    signs = cosines @ values @ cosines.T > 0
    return np.packbits(signs).view(np.uint64)


@cache
def _cosines() -> np.ndarray:
    """The first rows of a discrete cosine transform, type II: float64 `(KEPT, SIDE)`."""
    frequency, place = np.arange(KEPT)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))


def near_pairs(hashes: np.ndarray, distance: int = NEAR) -> np.ndarray:
    """All pairs of hashes, uint64 `(n, 4)`, that differ in at most `distance` bits: int64 `(m, 2)`, sorted.

    Of `distance + 1` bands of bits, two such hashes have one in common; so only hashes that share a band are compared,
    and never all with all. Equal hashes are paired with the first of them alone.
    """
    unique, first = np.unique(hashes, axis=0, return_index=True)
    found = [equal_pairs(hashes)]
    bits = np.unpackbits(unique.view(np.uint8), axis=1)
    for band in np.array_split(np.arange(bits.shape[1]), distance + 1):
        keys = bits[:, band] @ (1 << np.arange(len(band), dtype=np.int64))
        order = np.argsort(keys, kind="stable")
        # In sorted order, what shares a key are neighbours: compare those one apart, two apart, and so on.
        sorted_keys, step = keys[order], 1
        alive = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
        while len(alive):
            for part in np.array_split(alive, -(-len(alive) // AT_ONCE)):
                left, right = order[part], order[part + step]
                differing = np.bitwise_count(unique[left] ^ unique[right]).sum(axis=1)
                near = differing <= distance
                found.append(np.stack([first[left[near]], first[right[near]]], axis=1))
            step += 1
            alive = alive[alive + step < len(order)]
            alive = alive[sorted_keys[alive + step] == sorted_keys[alive]]
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def equal_pairs(rows: np.ndarray) -> np.ndarray:
    """Each row that came before, paired with the first such: int64 `(m, 2)`."""
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    repeats = np.flatnonzero(first[group] != np.arange(len(rows)))
    return np.stack([first[group[repeats]], repeats], axis=1)
