"""PaddlePaddle's `.pdparams`: a pickled dict of arrays, of which nothing but arrays is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inceptionv4.errors import CheckpointError
from inceptionv4.runtime.unpickle import PickledArray, unpickle


def read_paddle(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pdparams`, by the names of the network's layers.

    Raises:
        CheckpointError: it is no dict of arrays.
        pickle.UnpicklingError: it asks for anything but arrays.
    """
    content = unpickle(path.read_bytes(), encoding="latin1")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not arrays by their names")
    content.pop("StructuredToParameterName@@", None)  # the names that the same arrays have in a static graph
    arrays = {}
    for name, value in content.items():
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value  # (name in the graph, array)
        if not isinstance(name, str) or not isinstance(array, PickledArray):
            raise CheckpointError(f"{path} holds more than arrays by their names: {str(name)[:100]!r}")
        arrays[name] = array.array()
    if sum(array.nbytes for array in arrays.values()) > path.stat().st_size:
        raise CheckpointError(f"{path} names the same bytes as many arrays, which no file of weights does")
    return arrays
