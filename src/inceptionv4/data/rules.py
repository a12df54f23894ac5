"""The version of the rules by which images are read and their random views drawn.

A run records it, and goes on under the same one alone. It grows whenever the same files and settings would give other
images, classes, labels, another split or other random views than before:

    1   everything before versions were recorded
    2   names of splits and classes, columns of tables, one picture a key of a shard, order of an archive's rows;
        orientation applied once, depth of pixels; crops by torchvision's rule, thresholds of solarisation;
        fingerprints of contents
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RULES = 2


def rules_of(data: Mapping[str, Any]) -> int:
    """The version in what a run or a model says of its data."""
    rules = data.get("rules", 1)
    return rules if isinstance(rules, int) else 1
