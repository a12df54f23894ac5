"""MINDIR and AIR: the network as MindSpore's cells, with our weights, written by MindSpore itself."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from inceptionv4.errors import Error, UsageError
from inceptionv4.runtime.files import write_text, write_whole
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.load import load_model

TOLERANCE = 1e-4
"""Largest difference of logits between the written graph and the network it was made of, in float32, as a share of the
largest logit, or of one where all are smaller: rounding grows with what is rounded.
"""
KEY_SIZES = (16, 24, 32)


def export_mindir(model: str, path: Path, *, batch_size: int = 1, key: bytes | None = None) -> float:
    """Write the network of `model` as a MINDIR that takes normalised float32 images `(batch_size, 3, size, size)` and
    returns logits, and beside it, as .json, the classes and the preprocessing.

    The file is loaded again as `nn.GraphCell` and must agree with ours to 1e-4 of the largest logit (of one, if all are
    smaller) on random images, or it is not kept.
    With `key`, 16, 24 or 32 bytes, it is encrypted by AES-GCM, as MindSpore offers it.

    Returns the largest difference of a logit.

    Raises:
        UsageError: no such model, or MindSpore is not installed.
        CheckpointError: the model is damaged.
        Error: the file does not answer as the model does.
        RunError: the file cannot be written.
    """
    with _mindspore() as ms:
        network, spec, images, logits = _cells(ms, model, batch_size)
        protection = {} if key is None else {"enc_key": key, "enc_mode": "AES-GCM"}
        difference = float("inf")

        def write(temporary: Path) -> None:
            nonlocal difference
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                made = Path(folder) / "model.mindir"
                ms.export(network, ms.Tensor(images), file_name=str(made), file_format="MINDIR", **protection)
                graph = ms.nn.GraphCell(ms.load(str(made), **({} if key is None else {"dec_key": key})))
                difference = float(np.abs(graph(ms.Tensor(images)).asnumpy() - logits).max())
                if not difference <= TOLERANCE * max(1.0, float(np.abs(logits).max())):
                    raise Error(
                        f"the MINDIR of {model} differs from it by {difference:.2g} in a logit; it was not kept; "
                        "try another version of MindSpore"
                    )
                made.chmod(0o600)
                made.replace(temporary)

        write_whole(path, write)
    write_text(path.with_suffix(".json"), _describe(spec, batch_size, "MINDIR", difference))
    return difference


def export_air(model: str, path: Path, *, batch_size: int = 1) -> None:
    """Write the network of `model` as AIR, which is deprecated, and which only a machine with an Ascend can write.

    Untested on hardware: what is written here was never run.

    Raises:
        UsageError: no such model, MindSpore is not installed, or there is no Ascend.
    """
    with _mindspore() as ms:
        if not ms.hal.is_available("Ascend"):
            raise UsageError(
                "AIR is written only where there is an Ascend with CANN, and it is deprecated; "
                "write a MINDIR (--format mindir), which any machine can"
            )
        ms.set_device("Ascend")
        network, spec, images, _ = _cells(ms, model, batch_size)

        def write(temporary: Path) -> None:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                made = Path(folder) / "model.air"
                ms.export(network, ms.Tensor(images), file_name=str(made), file_format="AIR")
                made.chmod(0o600)
                made.replace(temporary)

        write_whole(path, write)
    write_text(path.with_suffix(".json"), _describe(spec, batch_size, "AIR", None))


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
    """MindSpore, without what it and numpy say of each other's versions; that is shown if anything fails."""
    os.environ.setdefault("GLOG_v", "3")  # errors only
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            try:
                import mindspore
            except ImportError:
                raise UsageError("MindSpore is not installed: pip install 'inceptionv4[mindspore]'") from None
            yield mindspore
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())[:300]
        raise Error(f"MindSpore could not write the model: {reason}") from error


def _cells(ms: ModuleType, model: str, batch_size: int) -> tuple[Any, ModelSpec, np.ndarray, np.ndarray]:
    """The network as cells with the model's weights, its specification, random images and our logits for them."""
    from inceptionv4.network import mindspore as bridge

    ours, checkpoint = load_model(model)
    spec = checkpoint.spec
    cells = bridge.InceptionV4(len(spec.classes), width=spec.width, architecture=spec.architecture)
    weights = {}
    for name, tensor in ours.state_dict().items():
        theirs = bridge.parameter_name(name)
        if theirs is not None:
            weights[theirs] = ms.Parameter(ms.Tensor(tensor.contiguous().numpy()), name=theirs)
    bridge.load_weights(cells, weights)
    cells.set_train(False)
    size = spec.preprocessing.size
    images = np.random.default_rng(0).standard_normal((batch_size, 3, size, size), np.float32)
    with torch.inference_mode():
        logits = ours(torch.from_numpy(images)).numpy()
    return cells, spec, images, logits


def _describe(spec: ModelSpec, batch_size: int, kind: str, difference: float | None) -> str:
    size = spec.preprocessing.size
    description = {
        "format": kind,
        "input": {"name": "images", "shape": [batch_size, 3, size, size], "type": "float32", "normalised": True},
        "output": {"shape": [batch_size, len(spec.classes)], "type": "float32", "meaning": "logits"},
        "largest_difference": difference,
        "verified": difference is not None,
        "spec": spec.to_dict(),
    }
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"
