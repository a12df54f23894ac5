"""Files of graphs are looked through before a library opens them that would heed more in them than a network needs.

MINDIR   MindSpore (2.10) loads the library that an operator `Custom` names, wherever that lies, and executes it.
ONNX     ONNX Runtime before 1.24 takes weights from any file that a tensor names, such as ../../secret, and from
         any address in memory.
"""

from __future__ import annotations

import mmap
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inceptionv4.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import onnx

OPERATORS = frozenset(
    (
        *("Transpose", "Cast", "Conv2D", "BiasAdd", "ReLU", "MaxPool", "AvgPool", "Concat", "ReduceMean", "MatMul"),
        *("Constant", "Load", "MakeTuple", "TupleGetItem", "Depend", "UpdateState", "Return"),
    )
)
"""What MindSpore writes for `network.mindspore`: its computing, and the bookkeeping around it."""
ATTRIBUTES = frozenset(
    (
        *("UNDEFINED", "FLOAT", "DOUBLE", "INT32", "INT64", "BOOL", "STRING"),
        *("TENSOR", "TENSORS", "TUPLE", "LIST", "NONE", "UMONAD", "IOMONAD"),
    )
)
"""Types of a MINDIR's attributes that are values; others name operators, Python's classes or functions."""
LIBRARY = "cust_aicpu"
"""The attribute by which an operator names a library for an Ascend."""
LOCATION = b"location"
"""The key of the name of the file that holds a tensor of ONNX's."""


def check_mindir(path: Path) -> None:
    """Refuse a MINDIR unless it has the operators of an exported network and nothing else.

    MindSpore must have been imported: it knows the messages.

    Raises:
        CheckpointError: it is damaged or encrypted, or has an operator, an attribute, or weights in another file, that
            no exported network has.
    """
    from google.protobuf.message import DecodeError
    from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except DecodeError:
        raise CheckpointError(
            f"{path} is damaged, or encrypted, and then for MindSpore's own runtimes only; export the model again"
        ) from None
    for message in messages(model):
        found = ""
        match message.DESCRIPTOR.name:
            case "NodeProto":
                # A node names one of the file's primitives as REF::NAME; these are looked at themselves.
                if message.op_type not in OPERATORS and not message.op_type.startswith("REF::"):
                    found = f"the operator {message.op_type[:100]!r}"
            case "PrimitiveProto":
                if message.op_type not in OPERATORS:
                    found = f"the operator {message.op_type[:100]!r}"
            case "AttributeProto":
                kind = AttributeProto.AttributeType.Name(message.type)
                if kind not in ATTRIBUTES or message.name == LIBRARY:
                    found = f"the attribute {message.name[:100]!r} of the type {kind}"
            case "ExternalDataProto":
                found = f"weights in another file, {message.location[:100]!r}"
            case "FunctorProto" | "MapTensorProto" | "PreprocessOpProto":
                found = f"a {message.DESCRIPTOR.name}"
        if found:
            raise CheckpointError(
                f"{path} has {found}, which no file of this package has, and by which MindSpore may execute or read "
                "other files; it is not opened; export the model again"
            )


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file with tensors that lie anywhere but in regular files beside it.

    Raises:
        UsageError: the package onnx is not installed, and needed.
        CheckpointError: it is damaged, or has such a tensor.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise CheckpointError(f"{path} is damaged: it is empty; copy it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(LOCATION) < 0:
                return  # as in all that this package exports; nothing has to be parsed
    parse_onnx(path)


def parse_onnx(path: Path) -> onnx.ModelProto:
    """The graph in an ONNX file, without the tensors that lie in other files, which must be regular ones beside it.

    Raises:
        UsageError: the package onnx is not installed.
        CheckpointError: it is damaged, or has a tensor that lies elsewhere.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError("ONNX files are read with onnx: pip install 'inceptionv4[onnx]'") from None
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf's own, which it has changed before
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is damaged, or no ONNX file ({reason}); copy it again") from None
    for message in messages(model):
        if message.DESCRIPTOR.name != "TensorProto":
            continue
        if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
            names = [entry.value for entry in message.external_data if entry.key == LOCATION.decode()] or [""]
            for name in names:
                if not _is_beside(path, name):
                    raise CheckpointError(
                        f"{path} has weights in {name[:100]!r}, which is no regular file beside it; other files are "
                        "not read; copy it there under that name"
                    )
    return model


def _is_beside(path: Path, name: str) -> bool:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        return False
    try:
        return stat.S_ISREG((path.parent / name).lstat().st_mode)
    except OSError:
        return False


def messages(message: Any) -> Iterator[Any]:
    """A message of protobuf, and all that are in it."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "DESCRIPTOR") else value)
