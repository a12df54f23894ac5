"""Ascend: .om files that `atc` compiled, by pyACL or ais_bench, whichever is there.

Tested with modules that stand in for both and check the calls; untested on hardware.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from inceptionv4.errors import CheckpointError, Error, UsageError
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.inference.backends.pyacl import PyAclModel
from inceptionv4.runtime.exported import read_sidecar


class Model(Protocol):
    """A .om that is loaded."""

    name: str
    """Name of the program that runs it."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Float32 logits of as many images as the model takes, contiguous and of its type."""


class AscendBackend(GraphBackend):
    """A compiled graph on an Ascend."""

    runtime = "ascend"

    def __init__(self, path: Path, device: int = 0) -> None:
        """`device` is counted among those that ASCEND_RT_VISIBLE_DEVICES leaves.

        Raises:
            UsageError: neither pyACL nor ais_bench is here.
            CheckpointError: the file is damaged, for another Ascend, or its description is gone or another's.
            Error: the device cannot be used.
        """
        super().__init__(read_sidecar(path))
        self._device = device
        self._model = _find_runtime()(path, self.metadata, device)

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._model.run(images)

    def describe(self) -> str:
        chip, precision = self.metadata.soc_version, self.metadata.precision
        return f"{self._model.name}, {chip}, device {self._device}, {precision}"


class AisBenchModel:
    """A .om in ais_bench's session, which takes care of the memory."""

    name = "ais_bench"

    def __init__(self, path: Path, metadata: ExportMetadata, device: int) -> None:
        """Raises:
        CheckpointError: the file was not loaded.
        """
        from ais_bench.infer.interface import InferSession

        self._shape = (metadata.batch_size or 1, len(metadata.spec.classes))
        try:
            self._session: Any = InferSession(device, str(path))
        except Exception as error:  # noqa: BLE001 - its exceptions have no class of their own in common
            raise CheckpointError(
                f"{path} was not loaded (ais_bench: {str(error)[:200]}): it is damaged, or this Ascend is not the "
                f"{metadata.soc_version} that it is compiled for; export it again with --soc-version"
            ) from None
        if hasattr(self._session, "free_resource"):  # since 0.0.2
            weakref.finalize(self, self._session.free_resource)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Raises:
        Error: the device fails, or the model is not the one that its description describes.
        """
        try:
            logits = np.asarray(self._session.infer([images], mode="static")[0], np.float32)
        except RuntimeError as error:
            raise Error(f"ais_bench could not run the model: {str(error)[:300]}") from None
        if logits.shape != self._shape:
            raise Error(f"the model answers {logits.shape}, its description says {self._shape}; export it again")
        return logits


def find_chip() -> str | None:
    """The Ascend of this machine, as `atc --soc_version` calls it; None where CANN finds none."""
    try:
        import acl
    except ImportError:
        return _ask_library()
    name: str | None = acl.get_soc_name()  # the one call that needs no acl.init
    return name or None


def can_run(metadata: ExportMetadata) -> bool:
    """True if the Ascend that a .om is compiled for is here, and a program that runs it."""
    try:
        _find_runtime()
    except UsageError:
        return False
    return find_chip() == metadata.soc_version


def _ask_library() -> str | None:
    """The chip's name by the library that pyACL and ais_bench both call, for where only the latter is."""
    try:
        library = ctypes.CDLL("libascendcl.so")
    except OSError:
        return None
    library.aclrtGetSocName.restype = ctypes.c_char_p
    name: bytes | None = library.aclrtGetSocName()
    return name.decode() if name else None


def _find_runtime() -> Callable[[Path, ExportMetadata, int], Model]:
    """What loads a .om: pyACL if it is here, else ais_bench.

    Raises:
        UsageError: neither is, or their libraries are not where the loader looks for them.
    """
    runtimes: dict[str, Callable[[Path, ExportMetadata, int], Model]] = {
        "acl": PyAclModel,
        "ais_bench.infer.interface": AisBenchModel,
    }
    reasons = []
    for module, runtime in runtimes.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            reasons.append(str(error))
        else:
            return runtime
    raise UsageError(
        f"a .om is run on an Ascend, by pyACL or ais_bench ({'; '.join(reasons)}): install CANN and "
        "`source /usr/local/Ascend/ascend-toolkit/set_env.sh`; docs/ascend.md has the steps"
    )
