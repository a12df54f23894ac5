"""Files of named arrays, told apart by their content: what is in them, and nothing executed.

safetensors              timm, Hugging Face, MindSpore
torch's zip or pickle    `.pth`; read by torch's own restricted unpickler
MindSpore's protobuf     `.ckpt`
PaddlePaddle's pickle    `.pdparams`; read by an unpickler of ours, in which nothing is called
numpy's zip              `.npz`; what a TensorFlow checkpoint is exported to
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from inceptionv4.errors import CheckpointError
from inceptionv4.weights.formats.mindspore import ENCRYPTED, read_mindspore
from inceptionv4.weights.formats.paddle import read_paddle

MAX_BYTES = 8 << 30
"""That a compressed archive may unpack to, and all arrays have together: above any Inception-v4, below most machines'
memory."""
RESERVES = b"bytearray"
"""What torch's restricted unpickler may call, which reserves as much memory as a file of sixty bytes asks for."""
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that torch's files before 1.6 begin with, pickled."""
TENSORFLOW_TABLE = bytes.fromhex("57fb808b247547db")
"""The number that TensorFlow's checkpoints (the first format, and the second's index) end with."""
EXPORTED_PROGRAM = ("models/model.json", "serialized_exported_program.json", "/archive_format", "archive_version")
"""How members of a .pt2 are called, which torch.export writes (torch 2.0 to 2.14)."""
TO_NPZ = (
    "export it where TensorFlow is installed: `r = tf.train.load_checkpoint(PATH); "
    'numpy.savez("inception_v4.npz", **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})`'
)


@dataclass(frozen=True)
class Arrays:
    """Arrays by their names, what kind of file they came from, and its own notes."""

    container: str
    arrays: Mapping[str, Tensor | np.ndarray]
    notes: Mapping[str, str] = field(default_factory=dict)


def read_arrays(path: Path) -> Arrays:
    """Read all arrays of a file of any kind above.

    Raises:
        CheckpointError: damaged, encrypted, of no known kind, or it asks for code to be run.
    """
    try:
        found = _read(path)
        # A stride of 0 makes any number of them of a few bytes.
        if sum(array.nbytes for array in found.arrays.values()) > MAX_BYTES:
            raise CheckpointError(f"{path} has arrays of more than {MAX_BYTES >> 30} GiB, which no Inception-v4 has")
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - on scrambled files torch, numpy and pickle raise nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged, or holds more than arrays ({reason}); nothing in it was executed; copy it again"
        ) from None
    return found


def is_onnx(path: Path) -> bool:
    """Whether a file's content is that of an ONNX model, which is no list of arrays."""
    start, _, _ = _ends(path)
    return start[:1] == b"\x08" and start[8:9] != b"{"  # the number of its version comes first


def _read(path: Path) -> Arrays:
    start, end, size = _ends(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return Arrays("safetensors", tensors, dict(file.metadata() or {}))
    if start[:4] == b"PK\x03\x04":
        if _is_npz(path):
            return Arrays("numpy .npz", _read_npz(path))
        return Arrays("torch", _read_torch(path))
    if start.startswith(TORCH_LEGACY):
        _refuse_reserves(path, path.read_bytes())
        return Arrays("torch", _read_torch(path))
    if start[:1] == b"\x80":
        return Arrays("PaddlePaddle", read_paddle(path))
    if start[:4] in ENCRYPTED:
        raise CheckpointError(
            f"{path} is an encrypted MindSpore checkpoint; load it in MindSpore with its key and save it without one"
        )
    if end == TENSORFLOW_TABLE or path.name.endswith(".data-00000-of-00001"):
        raise CheckpointError(f"{path} is a TensorFlow checkpoint; {TO_NPZ}")
    if b"\x12\tMindSpore" in start:
        raise CheckpointError(f"{path} is a MINDIR, a graph to be run by MindSpore; give the checkpoint it was made of")
    if start[:1] == b"\n":
        return Arrays("MindSpore", read_mindspore(path))
    raise CheckpointError(
        f"{path} is of no kind that is read here: safetensors, torch's .pth, MindSpore's .ckpt, "
        "PaddlePaddle's .pdparams, numpy's .npz or ONNX"
    )


def _ends(path: Path) -> tuple[bytes, bytes, int]:
    """The first bytes of a file, its last eight, and how many there are."""
    with path.open("rb") as file:
        start = file.read(64)
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        return start, file.read(8), size


def _is_npz(path: Path) -> bool:
    """True if a zip holds numpy's arrays, and no checkpoint of torch's.

    Raises:
        CheckpointError: it unpacks to too much, is a .pt2, or has a member twice, of which one reader may take the
            first and another one the second.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > MAX_BYTES:
            raise CheckpointError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB, which no Inception-v4 does")
        names = [member.filename for member in members]
        if path.suffix.lower() == ".pt2" or any(name.endswith(EXPORTED_PROGRAM) for name in names):
            raise CheckpointError(
                f"{path} is a .pt2 of torch.export, which is not opened: torch executes code that such a file holds; "
                "give the weights that it was made of, or export them to ONNX or OpenVINO"
            )
        if len({name.lower() for name in names}) < len(names):
            raise CheckpointError(f"{path} has members of one name, which no file of weights has; copy it again")
        for name in names:
            if name.endswith(".pkl"):
                _refuse_reserves(path, archive.read(name))
    return bool(names) and all(name.endswith(".npy") for name in names)


def _refuse_reserves(path: Path, content: bytes) -> None:
    if RESERVES in content:
        raise CheckpointError(f"{path} holds a {RESERVES.decode()}, which may take any amount of memory; not read")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_torch(path: Path) -> dict[str, Tensor]:
    """The state dict of a training script's file: by itself, or under the usual name, of one process or of several."""
    content: Any = torch.load(path, map_location="cpu", weights_only=True)
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not weights by their names")
    tensors = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if tensors and all(name.startswith("module.") for name in tensors):  # torch's DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors
