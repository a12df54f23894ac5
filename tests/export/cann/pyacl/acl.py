"""A stand-in for pyACL that keeps CANN's rules: memory is checked for its size, handles for their life and their order.

`calls` are the calls so far, `alive` what was taken and not given back, by kind. `fail` maps a call to the error code
that it is to return; `lie` maps one to what it is to return instead of the truth. The file that FAKE_ACL_LOG names,
if it is set, has a line for each call.
"""

import ctypes
import itertools
import os
import threading
from types import SimpleNamespace

import numpy as np
from chip import Chip

calls: list[str] = []
alive: dict[int, tuple[str, object]] = {}
fail: dict[str, int] = {}
lie: dict[str, object] = {}
soc: str | None = "Ascend310P3"
"""None: CANN is here, and no Ascend."""
started = False
_numbers = itertools.count(1)
_thread = threading.local()
FLOAT, FLOAT16, UINT8 = 0, 1, 4


def _called(name: str) -> int:
    calls.append(name)
    if log := os.environ.get("FAKE_ACL_LOG"):
        with open(log, "a") as file:  # noqa: PTH123
            file.write(name + "\n")
    return fail.get(name, 0)


def _take(kind: str, thing: object = None) -> int:
    number = next(_numbers)
    alive[number] = (kind, thing)
    return number


def _give_back(kind: str, number: int) -> None:
    assert alive.pop(number)[0] == kind


def _get(kind: str, number: int) -> object:
    assert alive[number][0] == kind, f"{number} is {alive[number][0]}, not {kind}"
    return alive[number][1]


def _none(*kinds: str) -> None:
    left = [kind for kind, _ in alive.values() if kind in kinds]
    assert not left, f"still there: {left}"


def _in_context() -> int:
    context = getattr(_thread, "context", None)
    assert context in alive, "no context is set in this thread"
    return context


def init(config: str = "") -> int:
    global started
    code = _called("init")
    if started:
        return 100002
    started = code == 0
    return code


def finalize() -> int:
    global started
    _called("finalize")
    _none("device", "context", "model", "desc", "dataset", "buffer", "memory")
    started = False
    return 0


def get_soc_name() -> str | None:
    return soc


def get_recent_err_msg() -> str:
    return "EZ9999: Inner Error!\n   what it is about" if fail else ""


def create_data_buffer(address: int, size: int) -> int:
    _called("create_data_buffer")
    assert ctypes.sizeof(_memory(address)) == size
    return _take("buffer", (address, size))


def destroy_data_buffer(buffer: int) -> int:
    _give_back("buffer", buffer)
    return _called("destroy_data_buffer")


def _memory(address: int) -> ctypes.Array:
    return next(thing for kind, thing in alive.values() if kind == "memory" and ctypes.addressof(thing) == address)


def _set_device(device: int) -> int:
    assert started
    if code := _called("rt.set_device"):
        return code
    _take("device", device)
    return 0


def _reset_device(device: int) -> int:
    _none("context", "model", "memory")
    number = next(number for number, (kind, thing) in alive.items() if (kind, thing) == ("device", device))
    _give_back("device", number)
    return _called("rt.reset_device")


def _create_context(device: int) -> tuple[int, int]:
    if code := _called("rt.create_context"):
        return 0, code
    _thread.context = _take("context", device)
    return _thread.context, 0


def _destroy_context(context: int) -> int:
    _none("model", "desc", "dataset", "buffer", "memory")
    _give_back("context", context)
    return _called("rt.destroy_context")


def _set_context(context: int) -> int:
    _get("context", context)
    _thread.context = context
    return _called("rt.set_context")


def _malloc(size: int, policy: int) -> tuple[int, int]:
    _in_context()
    assert (size > 0, policy) == (True, 0)
    if code := _called("rt.malloc"):
        return 0, code
    memory = (ctypes.c_uint8 * size)()
    _take("memory", memory)
    return ctypes.addressof(memory), 0


def _free(address: int) -> int:
    assert all(kind != "buffer" or thing[0] != address for kind, thing in alive.values())
    memory = _memory(address)
    _give_back("memory", next(number for number, (_, thing) in alive.items() if thing is memory))
    return _called("rt.free")


def _memcpy(target: int, room: int, source: int, size: int, kind: int) -> int:
    _in_context()
    on_device = _memory(target if kind == 1 else source)
    assert kind in (1, 2)
    assert size <= room
    assert (room if kind == 1 else size) <= ctypes.sizeof(on_device)
    if code := _called("rt.memcpy"):
        return code
    ctypes.memmove(target, source, size)
    return 0


def _load(path: str) -> tuple[int, int]:
    context = _in_context()
    if code := _called("mdl.load_from_file"):
        return 0, code
    chip = Chip(path)
    if chip.options["soc_version"] != soc:
        return 0, 500002
    return _take("model", (chip, context)), 0


def _unload(model: int) -> int:
    _, context = _get("model", model)
    assert context == _in_context()
    _give_back("model", model)
    return _called("mdl.unload")


def _create_desc() -> int:
    _called("mdl.create_desc")
    return _take("desc", [])


def _destroy_desc(desc: int) -> int:
    _give_back("desc", desc)
    return _called("mdl.destroy_desc")


def _get_desc(desc: int, model: int) -> int:
    _get("desc", desc).append(_get("model", model)[0])
    return _called("mdl.get_desc")


def _described(name: str, tell: object) -> object:
    def answer(desc: int, *index: int) -> object:
        assert index in ((), (0,))
        _called(name)
        return lie.get(name, tell(_get("desc", desc)[0]))

    return answer


def _create_dataset() -> int:
    _called("mdl.create_dataset")
    return _take("dataset", [])


def _destroy_dataset(dataset: int) -> int:
    _give_back("dataset", dataset)
    return _called("mdl.destroy_dataset")


def _add_dataset_buffer(dataset: int, buffer: int) -> tuple[int, int]:
    if code := _called("mdl.add_dataset_buffer"):
        return dataset, code
    _get("dataset", dataset).append(_get("buffer", buffer))
    return dataset, 0


def _execute(model: int, inputs: int, outputs: int) -> int:
    chip, context = _get("model", model)
    assert context == _in_context()
    if code := _called("mdl.execute"):
        return code
    (source, _), (target, room) = _get("dataset", inputs)[0], _get("dataset", outputs)[0]
    images = np.frombuffer(_memory(source), chip.type, int(np.prod(chip.shape))).reshape(chip.shape)
    logits = chip.compute(images)
    if lie.get("mdl.get_output_data_type") == FLOAT16:
        logits = logits.astype(np.float16)
    assert logits.nbytes <= room
    ctypes.memmove(target, np.ascontiguousarray(logits).ctypes.data, logits.nbytes)
    return 0


rt = SimpleNamespace(
    set_device=_set_device,
    reset_device=_reset_device,
    create_context=_create_context,
    destroy_context=_destroy_context,
    set_context=_set_context,
    malloc=_malloc,
    free=_free,
    memcpy=_memcpy,
)
mdl = SimpleNamespace(
    load_from_file=_load,
    unload=_unload,
    create_desc=_create_desc,
    destroy_desc=_destroy_desc,
    get_desc=_get_desc,
    get_num_inputs=_described("mdl.get_num_inputs", lambda chip: 1),
    get_num_outputs=_described("mdl.get_num_outputs", lambda chip: 1),
    get_input_size_by_index=_described(
        "mdl.get_input_size_by_index", lambda chip: int(np.prod(chip.shape)) * chip.type.itemsize
    ),
    get_output_size_by_index=_described(
        "mdl.get_output_size_by_index", lambda chip: int(np.prod(chip.output_shape)) * 4
    ),
    get_input_data_type=_described("mdl.get_input_data_type", lambda chip: UINT8 if chip.aipp else FLOAT),
    get_output_data_type=_described("mdl.get_output_data_type", lambda chip: FLOAT),
    get_output_dims=_described(
        "mdl.get_output_dims",
        lambda chip: ({"name": "logits", "dimCount": 2, "dims": list(chip.output_shape)}, 0),
    ),
    create_dataset=_create_dataset,
    destroy_dataset=_destroy_dataset,
    add_dataset_buffer=_add_dataset_buffer,
    execute=_execute,
)
