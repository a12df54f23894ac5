"""Ascend: .om files that `atc` compiled, by pyACL or ais_bench, whichever is there.

Tested with modules that stand in for both and check the calls; untested on hardware.
"""

from __future__ import annotations

import importlib.util
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from inceptionv4.artefact import Artefact, read_sidecar
from inceptionv4.errors import CheckpointError, Error, UsageError
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.inference.backends.pyacl import PyAclModel


class Model(Protocol):
    """A .om that is loaded."""

    name: str
    """Of what runs it."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Float32 logits of as many images as the model takes, contiguous and of its type."""


class AscendBackend(GraphBackend):
    """A compiled graph on an Ascend."""

    def __init__(self, path: Path, device: int = 0) -> None:
        """`device` is counted among those that ASCEND_RT_VISIBLE_DEVICES leaves.

        Raises:
            UsageError: neither pyACL nor ais_bench is here.
            CheckpointError: the file is damaged, for another Ascend, or its description is gone or another's.
            Error: the device cannot be used.
        """
        super().__init__(read_sidecar(path))
        self._device = device
        self._model = _load(path, self.artefact, device)

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._model.run(images)

    def describe(self) -> str:
        chip, precision = self.artefact.soc_version, self.artefact.precision
        return f"{self._model.name}, {chip}, device {self._device}, {precision}"


class AisBenchModel:
    """A .om in ais_bench's session, which takes care of the memory."""

    name = "ais_bench"

    def __init__(self, path: Path, artefact: Artefact, device: int) -> None:
        """Raises:
        CheckpointError: the file was not loaded.
        """
        from ais_bench.infer.interface import InferSession

        self._shape = (artefact.batch_size or 1, len(artefact.spec.classes))
        try:
            self._session: Any = InferSession(device, str(path))
        except Exception as error:  # noqa: BLE001 - its exceptions have no class of their own in common
            raise CheckpointError(
                f"{path} was not loaded (ais_bench: {str(error)[:200]}): it is damaged, or this Ascend is not the "
                f"{artefact.soc_version} that it is compiled for; export it again with --soc-version"
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


def _load(path: Path, artefact: Artefact, device: int) -> Model:
    try:
        if importlib.util.find_spec("acl"):
            return PyAclModel(path, artefact, device)
        if importlib.util.find_spec("ais_bench"):
            return AisBenchModel(path, artefact, device)
        reason = "neither acl nor ais_bench is installed"
    except ImportError as error:  # their libraries are not where the loader looks for them
        reason = str(error)
    raise UsageError(
        f"a .om is run on an Ascend, by pyACL or ais_bench ({reason}): install CANN and "
        "`source /usr/local/Ascend/ascend-toolkit/set_env.sh`; docs/ascend.md has the steps"
    )
