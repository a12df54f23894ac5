"""pyACL, the Python interface of CANN: one compiled model on one Ascend, with its memory there.

The calls, their order and what they return follow "Application Development (Python)" of CANN 8 and 9. Addresses and
handles are integers; most calls return an error code, or a pair of a value and an error code; 0 is success.
"""

from __future__ import annotations

import functools
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from inceptionv4.errors import CheckpointError, Error
from inceptionv4.export_metadata import ExportMetadata

ALREADY_STARTED = 100002
"""ACL_ERROR_REPEAT_INITIALIZE"""
HUGE_PAGES_FIRST = 0
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
INPUT_TYPES = {"float32": 0, "uint8": 4}
OUTPUT_TYPES = {0: np.float32, 1: np.float16}


class PyAclModel:
    """A .om in the memory of an Ascend, until this object is collected or the process ends."""

    name = "pyACL"

    def __init__(self, path: Path, metadata: ExportMetadata, device: int) -> None:
        """`device` is counted among those that ASCEND_RT_VISIBLE_DEVICES leaves.

        Raises:
            CheckpointError: the file is damaged, or for another Ascend, or another's description lies beside it.
            Error: the device cannot be used, or its memory does not suffice.
        """
        import acl

        self._acl: Any = acl
        # Whatever is taken is given back in the opposite order, also where a later step fails.
        with ExitStack() as taken:
            _start(acl)
            self._check("acl.rt.set_device", acl.rt.set_device(device))
            taken.callback(acl.rt.reset_device, device)
            # A context of its own: a model is loaded, executed and unloaded in one, by whichever thread.
            self._context = self._value("acl.rt.create_context", acl.rt.create_context(device))
            taken.callback(acl.rt.destroy_context, self._context)
            self._model, code = acl.mdl.load_from_file(str(path))
            if code:
                raise CheckpointError(
                    f"{path} was not loaded (pyACL: error {code}{_details(acl)}): it is compiled for "
                    f"{metadata.soc_version}, this is {acl.get_soc_name()}; if these are the same, it is damaged; "
                    "export it again with --soc-version"
                )
            taken.callback(acl.mdl.unload, self._model)
            self._description = acl.mdl.create_desc()
            taken.callback(acl.mdl.destroy_desc, self._description)
            self._check("acl.mdl.get_desc", acl.mdl.get_desc(self._description, self._model))
            self._shape, self._type = self._match(path, metadata)
            self._input = self._reserve(acl.mdl.get_input_size_by_index(self._description, 0), taken)
            self._output = self._reserve(acl.mdl.get_output_size_by_index(self._description, 0), taken)
            taken.callback(acl.rt.set_context, self._context)  # first of all: the thread may be another one by then
            weakref.finalize(self, taken.pop_all().close)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Float32 logits `(B, classes)` of contiguous images as the model takes them, exactly B.

        Raises:
            Error: the device fails.
        """
        acl = self._acl
        self._check("acl.rt.set_context", acl.rt.set_context(self._context))
        self._copy(self._input.address, self._input.size, images.ctypes.data, images.nbytes, HOST_TO_DEVICE)
        executed = acl.mdl.execute(self._model, self._input.dataset, self._output.dataset)
        self._check("acl.mdl.execute", executed)
        content = np.empty(self._output.size, np.uint8)
        self._copy(content.ctypes.data, content.nbytes, self._output.address, self._output.size, DEVICE_TO_HOST)
        # Sizes may be rounded up; what counts comes first.
        counting = content[: int(np.prod(self._shape)) * np.dtype(self._type).itemsize]
        logits: np.ndarray = counting.view(self._type).reshape(self._shape).astype(np.float32)
        return logits

    def _match(self, path: Path, metadata: ExportMetadata) -> tuple[tuple[int, ...], Any]:
        """The shape and type of the output, if the model is the one that its description describes."""
        mdl, description = self._acl.mdl, self._description
        spec, batch = metadata.spec, metadata.batch_size or 1
        image = 3 * spec.preprocessing.size**2 * np.dtype(metadata.input).itemsize
        found: tuple[Any, ...] = (mdl.get_num_inputs(description), mdl.get_num_outputs(description))
        if found == (1, 1):
            dimensions = self._value("acl.mdl.get_output_dims", mdl.get_output_dims(description, 0))
            shape = tuple(dimensions["dims"])
            kind, size = mdl.get_input_data_type(description, 0), mdl.get_input_size_by_index(description, 0)
            result = mdl.get_output_data_type(description, 0)
            fits = kind == INPUT_TYPES[metadata.input] and 0 <= size - batch * image < image
            if fits and shape == (batch, len(spec.classes)) and result in OUTPUT_TYPES:
                return shape, OUTPUT_TYPES[result]
            found = (f"type {kind}, {size} bytes", f"type {result}, {shape}")
        raise CheckpointError(
            f"{path} is not the model that {path.name}.json describes: {batch} {metadata.input} images of "
            f"{spec.preprocessing.size} px, {len(spec.classes)} classes; it has input {found[0]}, output {found[1]}; "
            "copy the two together, or export the model again"
        )

    def _reserve(self, size: int, taken: ExitStack) -> _Buffer:
        acl = self._acl
        address = self._value("acl.rt.malloc", acl.rt.malloc(size, HUGE_PAGES_FIRST))
        taken.callback(acl.rt.free, address)
        dataset = acl.mdl.create_dataset()
        taken.callback(acl.mdl.destroy_dataset, dataset)
        buffer = acl.create_data_buffer(address, size)
        taken.callback(acl.destroy_data_buffer, buffer)
        self._value("acl.mdl.add_dataset_buffer", acl.mdl.add_dataset_buffer(dataset, buffer))
        return _Buffer(address, size, dataset)

    def _copy(self, target: int, room: int, source: int, size: int, direction: int) -> None:
        self._check("acl.rt.memcpy", self._acl.rt.memcpy(target, room, source, size, direction))

    def _value(self, call: str, returned: tuple[Any, int]) -> Any:
        self._check(call, returned[1])
        return returned[0]

    def _check(self, call: str, code: int) -> None:
        if code:
            raise Error(f"{call} failed: error {code}{_details(self._acl)}; `npu-smi info` shows the state of devices")


@dataclass(frozen=True)
class _Buffer:
    """Memory on the device, and the data set, of this memory alone, by which a model is given it."""

    address: int
    size: int
    dataset: int


@functools.cache
def _start(acl: ModuleType) -> None:
    """Initialise pyACL, which can be done once a process, and have it end after all models are unloaded."""
    code = acl.init()
    if code == ALREADY_STARTED:
        return  # by another library of this process, such as the plugin of torch, which ends it too
    if code:
        raise Error(f"acl.init failed: error {code}{_details(acl)}; is CANN's driver running? See `npu-smi info`")
    # Finalizers run at the end in reverse order, so that models made later are unloaded before.
    weakref.finalize(acl, acl.finalize)


def _details(acl: ModuleType) -> str:
    """What CANN says of the last error, where its version says anything."""
    words = acl.get_recent_err_msg() if hasattr(acl, "get_recent_err_msg") else None
    return f", {' '.join(words.split())[:300]}" if words else ""
