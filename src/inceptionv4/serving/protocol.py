"""The Open Inference Protocol, version 2, as KServe and Triton speak it over HTTP: requests read, responses written.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with two of Triton's extensions:
binary tensors, which its clients ask for unless told otherwise, and classification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from inceptionv4.errors import ServingError
from inceptionv4.serving.limits import JSON_BYTES, JSON_VALUES
from inceptionv4.serving.tensors import (
    read_binary_files,
    read_binary_numbers,
    read_files,
    read_numbers,
    write_binary_texts,
)
from inceptionv4.spec import ModelSpec
from inceptionv4.strict_json import to_json

EXTENSIONS = ("binary_tensor_data", "classification")
VERSION = "1"
"""Of the model: a server has one."""
HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that says how much of a body is JSON; the rest is binary."""
PLATFORMS = {
    "onnx": "onnxruntime_onnx",
    "openvino": "openvino_ir",
    "mindir": "mindspore_mindir",
    "om": "ascend_om",
}
"""By the format of an exported file."""


@dataclass(frozen=True)
class Tensors:
    """An input or output: its name, its type in the protocol's words, its shape with -1 for any number of images."""

    name: str
    datatype: Literal["BYTES", "UINT8", "FP32"]
    shape: tuple[int, ...]

    def describe(self) -> dict[str, object]:
        """As a model's metadata have it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for."""

    name: str
    binary: bool
    top: int | None = None
    """Not the tensor, but its so many largest values of each image, with the classes' numbers and names."""


@dataclass(frozen=True)
class Inference:
    """A request that was read. `images` are files, or a tensor as `Backend.infer` takes it."""

    id: str | None
    images: list[bytes] | Tensor
    outputs: tuple[Wanted, ...]


@dataclass(frozen=True)
class Response:
    """JSON, and perhaps binary data behind it."""

    body: bytes
    json_bytes: int | None
    """How much of the body is JSON; None: all."""


class Protocol:
    """What one model says and understands."""

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        *,
        takes_floats: bool,
        platform: str,
        most_images: int,
        parameters: Mapping[str, str],
    ) -> None:
        """`parameters` go into the model's metadata: what computes the answers, and in which precision."""
        self.name, self.spec, self.platform, self.most_images = name, spec, platform, most_images
        self.parameters = parameters
        size, classes = spec.preprocessing.size, len(spec.classes)
        inputs = [Tensors("files", "BYTES", (-1,)), Tensors("pixels", "UINT8", (-1, size, size, 3))]
        if takes_floats:
            inputs.append(Tensors("images", "FP32", (-1, 3, size, size)))
        self.inputs = {tensor.name: tensor for tensor in inputs}
        self.outputs = {
            tensor.name: tensor
            for tensor in (
                Tensors("logits", "FP32", (-1, classes)),
                Tensors("probabilities", "FP32", (-1, classes)),
                Tensors("classes", "BYTES", (-1,)),
            )
        }

    def metadata(self) -> dict[str, object]:
        """Of the model. Of its inputs a request has one."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": self.platform,
            "inputs": [tensor.describe() for tensor in self.inputs.values()],
            "outputs": [tensor.describe() for tensor in self.outputs.values()],
            "parameters": dict(self.parameters),
        }

    def read(self, body: bytearray, header_length: str | None) -> Inference:
        """A request from its body and its `HEADER_LENGTH`, if it has one. A tensor shares the body's memory.

        Raises:
            ServingError: 400, it is not as the protocol and the model's metadata say; 413, too much of it is JSON.
        """
        head, binary = _split(body, header_length)
        request = _parse(head)
        identity = request.get("id")
        if identity is not None and not isinstance(identity, str):
            raise ServingError(400, "id must be a string")
        outputs = self._read_outputs(request.get("outputs"), _parameters(request))
        return Inference(identity, self._read_images(request.get("inputs"), binary), outputs)

    def write(self, inference: Inference, logits: Tensor) -> Response:
        """The response with the outputs that were asked for, of logits `(N, classes)`."""
        described, binary = [], []
        for wanted in inference.outputs:
            datatype, shape, data = self._output(wanted, logits)
            output: dict[str, object] = {"name": wanted.name, "datatype": datatype, "shape": shape}
            if wanted.binary:
                content = write_binary_texts(data) if isinstance(data, list) else data.numpy().astype("<f4").tobytes()
                output["parameters"] = {"binary_data_size": len(content)}
                binary.append(content)
            else:
                output["data"] = data if isinstance(data, list) else data.flatten().tolist()
            described.append(output)
        answer: dict[str, object] = {"model_name": self.name, "model_version": VERSION, "outputs": described}
        if inference.id is not None:
            answer["id"] = inference.id
        head = to_json(answer).encode()
        return Response(head + b"".join(binary), len(head) if binary else None)

    def _read_images(self, inputs: Any, binary: memoryview) -> list[bytes] | Tensor:
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise ServingError(400, f"inputs must be a list of one, {self._names(self.inputs)}")
        given: dict[str, Any] = inputs[0]
        tensor = self._known(self.inputs, given.get("name"), "input")
        if given.get("datatype") != tensor.datatype:
            raise ServingError(400, f"the input {tensor.name} is of datatype {tensor.datatype}")
        shape = self._read_shape(given.get("shape"), tensor)
        size = _parameters(given).get("binary_data_size")
        if (size is None) == ("data" not in given):
            raise ServingError(400, "an input needs either data or the parameter binary_data_size")
        if (0 if size is None else size) != len(binary) or isinstance(size, bool):
            raise ServingError(400, f"there are {len(binary)} bytes behind the JSON, which says another number")
        if tensor.datatype == "BYTES":
            return read_files(given["data"], shape[0]) if size is None else read_binary_files(binary, shape[0])
        if size is None:
            array = read_numbers(given["data"], tensor.datatype, shape)
        else:
            array = read_binary_numbers(binary, tensor.datatype, shape)
        images = torch.from_numpy(array)
        return images.permute(0, 3, 1, 2) if tensor.datatype == "UINT8" else images

    def _read_shape(self, given: Any, tensor: Tensors) -> tuple[int, ...]:
        """The shape, which fits the model's; a tensor of it is of a size that can be."""
        expected = "[N" + "".join(f", {length}" for length in tensor.shape[1:]) + "]"
        if not isinstance(given, list) or not all(type(length) is int for length in given):
            raise ServingError(400, f"the input {tensor.name} needs a shape {expected}")
        if len(given) != len(tensor.shape) or tuple(given[1:]) != tensor.shape[1:]:
            raise ServingError(400, f"the shape of {tensor.name} must be {expected}")
        if not 1 <= given[0] <= self.most_images:
            raise ServingError(400, f"a request must have 1 to {self.most_images} images")
        return tuple(given)

    def _read_outputs(self, outputs: Any, parameters: Mapping[str, Any]) -> tuple[Wanted, ...]:
        binary = _flag(parameters, "binary_data_output", False)
        if outputs is None or outputs == []:
            return tuple(Wanted(name, binary) for name in self.outputs)
        if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
            raise ServingError(400, "outputs must be a list of objects with a name")
        wanted = []
        for output in outputs:
            tensor, own = self._known(self.outputs, output.get("name"), "output"), _parameters(output)
            top = own.get("classification")
            if top is not None and (type(top) is not int or top < 1 or tensor.datatype == "BYTES"):
                raise ServingError(400, "classification must be a number from 1 on, of logits or probabilities")
            wanted.append(Wanted(tensor.name, _flag(own, "binary_data", binary), top))
        if len({output.name for output in wanted}) < len(wanted):
            raise ServingError(400, "an output is asked for twice")
        return tuple(wanted)

    def _output(self, wanted: Wanted, logits: Tensor) -> tuple[str, list[int], Tensor | list[str]]:
        """Datatype, shape and data."""
        if wanted.name == "classes":
            return "BYTES", [len(logits)], [self.spec.classes[number] for number in logits.argmax(1).tolist()]
        values = logits if wanted.name == "logits" else logits.softmax(1)
        if wanted.top is None:
            return "FP32", list(values.shape), values
        best = values.topk(min(wanted.top, values.shape[1]))
        pairs = zip(best.values.flatten().tolist(), best.indices.flatten().tolist(), strict=True)
        return "BYTES", list(best.values.shape), [f"{value:f}:{i}:{self.spec.classes[i]}" for value, i in pairs]

    def _known(self, tensors: Mapping[str, Tensors], name: Any, kind: str) -> Tensors:
        if not isinstance(name, str) or name not in tensors:
            raise ServingError(400, f"there is no such {kind}; there is {self._names(tensors)}")
        return tensors[name]

    def _names(self, tensors: Mapping[str, Tensors]) -> str:
        *names, last = (f"{tensor.name} ({tensor.datatype})" for tensor in tensors.values())
        return f"{', '.join(names)} or {last}"


def _split(body: bytearray, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON and the binary data behind it."""
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
            raise ServingError(400, f"{HEADER_LENGTH} must be a number of bytes")
        length = int(header_length)
        if length > len(body):
            raise ServingError(400, f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes")
    if length > JSON_BYTES or body.count(b",", 0, length) > JSON_VALUES:
        raise ServingError(413, "so many values are too many for JSON; send tensors as binary data")
    return bytes(body[:length]), memoryview(body)[length:]


def _parse(head: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not in JSON")

    try:
        request = json.loads(head, parse_constant=refuse, object_hook=_without_nulls)
    except (ValueError, RecursionError) as error:
        raise ServingError(400, f"the request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise ServingError(400, "the request must be a JSON object with inputs")
    return request


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that are null count as not given: libraries write so what a program left open."""
    return {name: value for name, value in fields.items() if value is not None}


def _parameters(of: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a request or tensor. Those that are not known here are others' to know."""
    parameters = of.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ServingError(400, "parameters must be an object")
    if any(name.startswith("shared_memory") for name in parameters):
        raise ServingError(400, "shared memory is not offered; send and take tensors as binary data")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ServingError(400, f"{name} must be true or false")
    return value
