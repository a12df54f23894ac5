"""MindSpore: .mindir files of this package, run as graphs.

MindSpore (2.10) loads the library that an operator `Custom` of a MINDIR names, and executes what is in it, from the
folder of the file or any other. So a file is opened only if its operators are those of an exported network.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inceptionv4.errors import CheckpointError, UsageError
from inceptionv4.inference.backends.backend import GraphBackend
from inceptionv4.runtime.exported import read_sidecar

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
"""Types of attributes that are values; others name operators, Python's classes or functions."""


class MindSporeBackend(GraphBackend):
    """A graph in MindSpore, on the processor, where it computes in fp32."""

    runtime = "mindspore"

    def __init__(self, path: Path, *, key: bytes | None = None) -> None:
        """`key` decrypts what `export --encrypt-key-file` encrypted; what is in such a file is not looked at before.

        Raises:
            UsageError: mindspore is not installed.
            CheckpointError: damaged, encrypted by another key, with operators that no network of ours has, with
                weights in another file, or its description is gone.
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
            check_operators(path)
        try:
            graph = mindspore.load(str(path), **({} if key is None else {"dec_key": key}))
        except (RuntimeError, ValueError) as error:
            raise _damaged(path, str(error).split("\n\n")[0]) from None
        self._graph: Any = mindspore.nn.GraphCell(graph)

    def run(self, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._graph(self._mindspore.Tensor(images)).asnumpy()
        return logits

    def describe(self) -> str:
        return f"MindSpore {self._mindspore.__version__}, {self._mindspore.get_context('device_target')}, fp32"


def check_operators(path: Path) -> None:
    """Look through a MINDIR before it is loaded.

    Raises:
        CheckpointError: it is damaged or encrypted, or has an operator, an attribute or weights elsewhere that no
            exported network has.
    """
    from google.protobuf.message import DecodeError
    from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except DecodeError as error:
        raise _damaged(path, str(error)) from None
    for message in _messages(model):
        found = ""
        match message.DESCRIPTOR.name:
            case "NodeProto" | "PrimitiveProto":
                operator = message.op_type
                # A node names a primitive, all of which are looked at, as REF::NAME.
                if operator not in OPERATORS and not (operator.startswith("REF::") and hasattr(message, "input")):
                    found = f"the operator {operator[:100]!r}"
            case "AttributeProto":
                kind = AttributeProto.AttributeType.Name(message.type)
                if kind not in ATTRIBUTES or message.name == "cust_aicpu":  # a library, on an Ascend
                    found = f"the attribute {message.name[:100]!r} of the type {kind}"
            case "ExternalDataProto":
                found = f"weights in another file, {message.location[:100]!r}"
            case "FunctorProto" | "MapTensorProto" | "PreprocessOpProto":
                found = f"a {message.DESCRIPTOR.name}"
        if found:
            raise CheckpointError(
                f"{path} has {found}, which no file of this package has, and which may execute other files or read "
                "them; it is not opened; export the model again"
            )


def _messages(message: Any) -> Iterator[Any]:
    """A message of protobuf and all that are in it."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "DESCRIPTOR") else value)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged, or encrypted, and then for MindSpore's own runtimes only "
        f"({' '.join(reason.split())[:200]}); export the model again"
    )
