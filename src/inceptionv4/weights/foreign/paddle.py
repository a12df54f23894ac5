"""PaddlePaddle's `.pdparams`: a pickled dict of arrays, read by an unpickler that can make arrays and nothing else."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.errors import CheckpointError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes down; any other codec is none that it uses."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes by {encoding!r}")
    return codecs.encode(text, "latin1")


_MULTIARRAY = getattr(np, "_core", np).multiarray
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _MULTIARRAY._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _MULTIARRAY._reconstruct,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}
"""All that a pickle may call, by the name that it calls it by; nothing is looked up, so nothing is imported."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def read_paddle(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pdparams`, by the names of the network's layers.

    Raises:
        CheckpointError: it is no dict of arrays.
        pickle.UnpicklingError: it asks for anything but arrays.
    """
    with path.open("rb") as file:
        content = _Unpickler(file, encoding="latin1").load()
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not arrays by their names")
    content.pop("StructuredToParameterName@@", None)  # the names that the same arrays have in a static graph
    arrays = {}
    for name, value in content.items():
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value  # (name in the graph, array)
        if not isinstance(name, str) or not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise CheckpointError(f"{path} holds more than arrays by their names: {name!r}")
        arrays[name] = array
    return arrays
