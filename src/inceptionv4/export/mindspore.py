"""MINDIR and AIR: the rewritten network as MindSpore's cells, written by MindSpore itself."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from inceptionv4.errors import Error, UsageError
from inceptionv4.export.verify import Exporter
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.backends.mindspore import MindSporeBackend
from inceptionv4.network.inference_graph import fold_normalization
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.exported import write_sidecar

KEY_SIZES = (16, 24, 32)


@dataclass
class MindIrExporter(Exporter):
    """A rewritten network that is to be a MINDIR of a fixed number of images; with `key`, encrypted by AES-GCM.

    Raises (in `save`):
        UsageError: MindSpore is not installed.
        Error: MindSpore fails.
    """

    rewritten: InceptionV4
    key: bytes | None = None

    def save(self, metadata: ExportMetadata, path: Path) -> ExportMetadata:
        """Write the graph, unless it is there already, and its description beside it."""
        if not path.exists():
            with _mindspore() as ms:
                protection = {} if self.key is None else {"enc_key": self.key, "enc_mode": "AES-GCM"}
                cells, images = _cells(ms, self.rewritten, metadata)
                ms.export(cells, images, file_name=str(path), file_format="MINDIR", **protection)
        return write_sidecar(path, metadata)

    def open(self, path: Path) -> Backend:
        """What was saved, in MindSpore, decrypted."""
        return MindSporeBackend(path, key=self.key)


class AirExporter(Exporter):
    """A rewritten network that is to be AIR, which is deprecated, and which only a machine with an Ascend can write.

    Untested on hardware: what is written here was never run.

    Raises:
        UsageError: MindSpore is not installed, or there is no Ascend.
    """

    def __init__(self, rewritten: InceptionV4) -> None:
        self.rewritten = rewritten
        with _mindspore() as ms:
            if not ms.hal.is_available("Ascend"):
                raise UsageError(
                    "AIR is written only where there is an Ascend with CANN, and it is deprecated; "
                    "write a MINDIR (--format mindir), which any machine can"
                )

    def save(self, metadata: ExportMetadata, path: Path) -> ExportMetadata:
        """Write the graph and its description beside it."""
        with _mindspore() as ms:
            ms.set_device("Ascend")
            cells, images = _cells(ms, self.rewritten, metadata)
            ms.export(cells, images, file_name=str(path), file_format="AIR")
        return write_sidecar(path, metadata)


def read_key(file: Path) -> bytes:
    """The key in a file: 16, 24 or 32 bytes, and a line's end if there is one.

    Raises:
        UsageError: no such file, or it is of another size.
    """
    try:
        key = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the key in {file}: {error.strerror}") from None
    if len(key) not in KEY_SIZES:
        key = key.removesuffix(b"\n")
    if len(key) not in KEY_SIZES:
        raise UsageError(f"the key in {file} has {len(key)} bytes; AES takes 16, 24 or 32")
    return key


@contextlib.contextmanager
def _mindspore() -> Iterator[ModuleType]:
    """MindSpore, without what it and numpy say of each other's versions."""
    os.environ.setdefault("GLOG_v", "3")  # errors only
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                import mindspore
            except ImportError:
                raise UsageError("MindSpore is not installed: pip install 'inceptionv4[mindspore]'") from None
            yield mindspore
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())[:300]
        raise Error(f"MindSpore could not write the model: {reason}") from error


def _cells(ms: ModuleType, rewritten: InceptionV4, metadata: ExportMetadata) -> tuple[Any, Any]:
    """The network as cells, and images that say how many it takes, of which size."""
    from inceptionv4.network import mindspore as cells

    pixels, batch_size = metadata.spec.preprocessing, metadata.batch_size or 1
    if metadata.input == "uint8":
        network = cells.FromPixels(cells.InceptionV4(fold_normalization(rewritten, pixels.mean, pixels.std)))
        return network, ms.Tensor(np.zeros((batch_size, pixels.size, pixels.size, 3), np.uint8))
    return cells.InceptionV4(rewritten), ms.Tensor(np.zeros((batch_size, 3, pixels.size, pixels.size), np.float32))
