"""MindSpore: .mindir files of this package, run as graphs."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.runtime.exported import read_sidecar
from inceptionv4.weights.graph_files import check_mindir


class MindSporeBackend(GraphBackend):
    """A graph in MindSpore, on the processor, where it computes in fp32."""

    runtime = "mindspore"

    def __init__(self, path: Path, *, key: bytes | None = None) -> None:
        """`key` decrypts what `export --encrypt-key-file` encrypted; such a file is not looked through before.

        Raises:
            UsageError: mindspore is not installed.
            CheckpointError: damaged, encrypted by another key, with anything that no exported network has, or its
                description is gone.
        """
        super().__init__(read_sidecar(path))
        os.environ.setdefault("GLOG_v", "4")  # what it writes before it raises says nothing that the error does not
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # words with numpy about versions
                import mindspore
        except ImportError:
            raise UsageError("a MINDIR is run by MindSpore: pip install 'inceptionv4[mindspore]'") from None
        self._mindspore: Any = mindspore
        mindspore.set_device("CPU")
        if key is None:
            check_mindir(path)
        try:
            graph = mindspore.load(str(path), **({} if key is None else {"dec_key": key}))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split("\n\n")[0].split())[:200]
            raise CheckpointError(
                f"{path} is damaged, or encrypted, and then for MindSpore's own runtimes only ({reason}); "
                "export the model again"
            ) from None
        self._graph: Any = mindspore.nn.GraphCell(graph)

    def run(self, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._graph(self._mindspore.Tensor(images)).asnumpy()
        return logits

    def describe(self) -> str:
        return f"MindSpore {self._mindspore.__version__}, {self._mindspore.get_context('device_target')}, fp32"
