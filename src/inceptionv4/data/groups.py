"""Groups of images, such as those of one patient or one video: each is on one side of the split, never on both."""

from __future__ import annotations

import hashlib

import numpy as np

from inceptionv4.data.table import Table
from inceptionv4.errors import DataError


def hold_out_groups(table: Table, fraction: float) -> np.ndarray:
    """Which rows to hold out, bool: whole groups, in an order of chance, until each class has `fraction` or as near
    below as its groups allow, but one group at least; a class of a single group is trained on.

    The order is a hash of the first path of each group, the same on every machine.
    """
    assert table.groups is not None
    first_rows = np.unique(table.groups, return_index=True)[1]
    ranks = [hashlib.sha256(table.names[row].encode(errors="surrogateescape")).digest() for row in first_rows.tolist()]
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    counts = np.zeros((len(ranks), len(table.classes)), np.int64)
    np.add.at(counts, (table.groups, table.labels), 1)
    groups_of_class = (counts > 0).sum(0)
    wanted = np.maximum(np.rint(counts.sum(0) * fraction), 1)
    held_out = np.zeros(len(ranks), bool)
    have, taken = np.zeros(len(table.classes), np.int64), np.zeros(len(table.classes), np.int64)
    # Rare classes come first: a group that has several classes counts for all of them.
    for label in np.argsort(groups_of_class, kind="stable").tolist():
        for group in order:
            more = counts[group]
            touched = more > 0
            if held_out[group] or not more[label]:
                continue
            if (taken[touched] + 1 >= groups_of_class[touched]).any():
                continue  # the last group of a class stays to be trained on
            if have[label] and have[label] + more[label] > wanted[label]:
                continue
            held_out[group] = True
            have += more
            taken += touched
            if have[label] >= wanted[label]:
                break
    rows: np.ndarray = held_out[table.groups]
    return rows


def require_whole_groups(table: Table, held_out: np.ndarray, location: str) -> None:
    """Raises:
    DataError: a group has images both to train on and held out, by the split that the data have.
    """
    assert table.groups is not None
    both = np.intersect1d(table.groups[held_out], table.groups[~held_out])
    if len(both):
        rows = np.flatnonzero(table.groups == both[0])
        one, other = rows[held_out[rows]][0], rows[~held_out[rows]][0]
        raise DataError(
            f"{location}: {len(both):,} groups are both trained on and held out, such as that of "
            f"{table.names[int(other)]} and {table.names[int(one)]}; mend the split, or leave out its column"
        )
