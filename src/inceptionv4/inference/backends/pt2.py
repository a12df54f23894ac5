"""A .pt2 file: a graph that torch.export wrote, and that needs none of this package's network code."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from inceptionv4.artefact import NOTE, Artefact
from inceptionv4.errors import CheckpointError
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.runtime.device import Device
from inceptionv4.strict_json import from_json

EXTRA = f"{NOTE}.json"
"""The description's name among a .pt2's extra files."""


class Pt2Backend(GraphBackend):
    """A graph of torch's operators, on a torch device."""

    runtime = "torch"

    def __init__(self, path: Path, device: Device) -> None:
        """Raises:
        CheckpointError: damaged, or not exported by this package.
        """
        extra = {EXTRA: ""}
        try:
            refuse_pickles(path)
            program = torch.export.load(path, extra_files=extra)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path} is damaged or no .pt2 file ({reason}); export the model again") from None
        if not extra[EXTRA]:
            raise CheckpointError(f"{path} was not exported by inceptionv4: it says nothing of classes and pixels")
        super().__init__(Artefact.from_json(extra[EXTRA], str(path)))
        device.require_fp32()  # which its graph is of
        self.device = device
        self._graph = program.module().to(device.device)

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._graph(torch.from_numpy(images).to(self.device.device)).cpu().numpy()
        return logits

    def describe(self) -> str:
        return f"torch.export, {self.device.describe()}"


def refuse_pickles(path: Path) -> None:
    """Raise CheckpointError if torch would unpickle anything of the archive, which could be any program.

    `torch.export.load` (2.14) does so, with nothing in between, for what the archive itself marks as pickled, for
    constants that are no tensors, for the example inputs, and for files of an older format. We write none of these.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if inner.startswith(("data/weights/", "data/constants/", "data/sample_inputs/")):
                pickled = inner.endswith(".pt")
                if inner.endswith("_config.json"):
                    entries = from_json(archive.read(name))["config"].values()
                    pickled = any(
                        entry["use_pickle"] or not entry["path_name"].startswith(("weight_", "tensor_"))
                        for entry in entries
                    )
                if pickled and archive.getinfo(name).file_size:
                    raise CheckpointError(f"{path} holds pickled objects ({inner}), which may do anything; not opened")
