"""Files of other projects: what is in them is read, what is broken or malicious is refused, and nothing is executed."""

from __future__ import annotations

import binascii
import contextlib
import io
import json
import pickle
import random
import resource
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from inceptionv4.errors import CheckpointError
from inceptionv4.weights.formats import containers
from inceptionv4.weights.formats.assemble import assemble
from inceptionv4.weights.formats.containers import read_arrays
from inceptionv4.weights.formats.mindspore import read_mindspore, write_mindspore
from inceptionv4.weights.formats.naming import TIMM

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.float32([1.5, -2])}


def tensors() -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}


def write(kind: str, path: Path) -> None:
    match kind:
        case "safetensors":
            safetensors.torch.save_file(tensors(), path)
        case "torch":
            torch.save(tensors(), path)
        case "torch, legacy":
            torch.save(tensors(), path, _use_new_zipfile_serialization=False)
        case "torch, of a training":
            torch.save({"epoch": 3, "state_dict": OrderedDict(tensors()), "optimizer": {"lr": [0.1]}}, path)
        case "torch, of several processes":
            torch.save({"module." + name: tensor for name, tensor in tensors().items()}, path)
        case "numpy":
            np.savez(path.with_suffix(".npz"), **ARRAYS)
            path.with_suffix(".npz").rename(path)
        case "paddle":
            path.write_bytes(pickle.dumps({**ARRAYS, "StructuredToParameterName@@": {"a.weight": "conv_0.w_0"}}, 2))
        case "paddle, pairs":
            path.write_bytes(pickle.dumps({name: (name + "_0", array) for name, array in ARRAYS.items()}, 4))
        case "mindspore":
            write_mindspore(ARRAYS, path)


KINDS = (
    "safetensors", "torch", "torch, legacy", "torch, of a training", "torch, of several processes", "numpy", "paddle",
    "paddle, pairs", "mindspore",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_known_by_its_content(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    write(kind, path)
    found = read_arrays(path).arrays
    assert sorted(found) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(np.asarray(found[name]), array)


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_cut_short_or_scrambled_are_refused_or_read_with_their_names(kind: str, tmp_path: Path) -> None:
    """Never any other error; what safetensors and pickles do not notice is left to the checks of names and shapes."""
    path = tmp_path / "weights.bin"
    write(kind, path)
    content = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    cuts = [content[: draw.randrange(len(content))] for _ in range(40)]
    flips = []
    for _ in range(100):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        flips.append(bytes(flipped))
    for broken in (*cuts, *flips, b"", b"\n", b"\x80", b"PK\x03\x04"):
        path.write_bytes(broken)
        try:
            read_arrays(path)
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017 - in a loop
    assert refused > 30


class Evil:
    """What pickles as a call of `os.system`."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.sentinel}",)


def zip_pickle(content: bytes) -> bytes:
    """As torch packs a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


@pytest.mark.parametrize("place", ["top", "within", "torch within", "numpy objects", "npz"])
@pytest.mark.parametrize("kind", ["paddle", "torch", "torch, legacy"])
def test_code_in_a_pickle_is_refused_and_not_run(
    kind: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sentinel, path = tmp_path / "sentinel", tmp_path / "evil.bin"
    evil: object = Evil(sentinel)
    if place == "within":
        evil = {"a": ARRAYS["a.bias"], "b": [evil]}
    elif place == "torch within":  # a pickle in the bytes of a pickle
        inner = io.BytesIO()
        torch.save({"x": Evil(sentinel)}, inner)
        evil = {"a": ARRAYS["a.bias"], "b": torch.storage._load_from_bytes, "c": Evil(sentinel)}
    elif place == "numpy objects":
        evil = {"a": np.array([Evil(sentinel)], dtype=object)}
    if place == "npz":
        np.savez(tmp_path / "evil.npz", a=np.array([evil], dtype=object))
        path = tmp_path / "evil.npz"
    elif kind == "torch":
        path.write_bytes(zip_pickle(pickle.dumps(evil, 2)))
    elif kind == "torch, legacy":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(evil, 2))
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        read_arrays(path)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(Evil(sentinel)))  # which would have run it
    assert sentinel.exists()


def test_no_command_runs_the_code_in_a_file_of_weights(
    command: Callable[..., Any], textures: Path, tmp_path: Path
) -> None:
    """Wherever a model can be named."""
    sentinel, evil = tmp_path / "sentinel", tmp_path / "evil.pth"
    evil.write_bytes(zip_pickle(pickle.dumps({"state_dict": Evil(sentinel)}, 2)))
    train = ("train", "--data", textures, "--output", tmp_path / "runs")
    for arguments in (
        ("predict", evil, textures / "val/brick/000.jpg"),
        ("evaluate", evil, "--data", textures),
        ("convert", evil, tmp_path / "new.safetensors"),
        ("export", evil, "--format", "onnx", "--output", tmp_path / "new.onnx"),
        ("serve", evil, "--port", 0),
        ("benchmark", "predict", evil, textures / "val/brick/000.jpg"),
        (*train, "--model.weights", evil),
        (*train, "--loss.teacher", evil),
    ):
        result = command(*arguments)
        assert (result.code, "nothing in it was executed" in result.err) == (1, True), (arguments, result.err)
        assert not sentinel.exists(), arguments
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


def test_names_in_pickles_import_nothing(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    path = tmp_path / "x.pdparams"
    path.write_bytes(b"\x80\x02ctrap\nanything\n.")
    with pytest.raises(CheckpointError, match=r"it asks for trap\.anything"):
        read_arrays(path)
    path.write_bytes(b"\x80\x02X\x01\x00\x00\x00xQ.")  # a reference to something outside
    with pytest.raises(CheckpointError, match="objects outside"):
        read_arrays(path)


def test_import_strings_in_metadata_are_only_text(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(tensors(), path, {"class": "os.system", "spec": "__import__('os')"})
    assert read_arrays(path).notes["class"] == "os.system"


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1 << 20, np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="unpacks to more than"):
        read_arrays(tmp_path / "bomb.npz")


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes.fromhex("d85e3a7f") + bytes(100))
    with pytest.raises(CheckpointError, match="encrypted MindSpore checkpoint; load it in MindSpore with its key"):
        read_arrays(path)
    path.write_bytes(bytes(100) + bytes.fromhex("57fb808b247547db"))
    with pytest.raises(CheckpointError, match=r"TensorFlow checkpoint; export it .* numpy\.savez"):
        read_arrays(path)
    path.write_bytes(b"GIF89a, and more")
    with pytest.raises(CheckpointError, match="of no kind that is read here: safetensors"):
        read_arrays(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list, not weights"):
        read_arrays(path)
    path.write_bytes(pickle.dumps([1], 2))
    with pytest.raises(CheckpointError, match="holds a list, not arrays"):
        read_arrays(path)


def test_mindspores_parts_checksum_texts_and_bfloat16(tmp_path: Path) -> None:
    """Messages laid out by hand, after the format's description."""

    def message(field: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([field << 3 | 2, len(content)]) + content

    def value(tag: str, kind: str, shape: list[int], data: bytes) -> bytes:
        dims = b"".join(bytes([8, size]) for size in shape)
        tensor = dims + message(2, kind.encode()) + message(3, data)
        return message(1, message(1, tag.encode()) + message(2, tensor))

    array = np.arange(8, dtype=np.float32).reshape(4, 2)
    path = tmp_path / "x.ckpt"
    parts = value("w", "Float32", [4, 2], array[:1].tobytes()) + value("w", "Float32", [4, 2], array[1:].tobytes())
    scalar = value("step", "Int64", [], (7).to_bytes(8, "little"))
    text = value("note", "str", [0], "hi".encode("utf-32-le"))
    half = value("b", "BFloat16", [2], (array[1].view(np.uint32) >> 16).astype(np.uint16).tobytes())
    path.write_bytes(parts + scalar + text + half)
    found = read_mindspore(path)
    np.testing.assert_array_equal(found["w"], array)
    assert found["step"] == 7
    assert found["step"].shape == ()
    np.testing.assert_array_equal(found["b"], array[1])
    assert set(found) == {"w", "step", "b"}

    checked = parts + b"crc_num" + binascii.crc32(parts).to_bytes(10, "big")
    path.write_bytes(checked)
    np.testing.assert_array_equal(read_mindspore(path)["w"], array)
    path.write_bytes(checked.replace(array[2].tobytes(), array[1].tobytes()))
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        read_mindspore(path)
    path.write_bytes(value("w", "Float32", [4, 2], array[:3].tobytes()))
    with pytest.raises(CheckpointError, match=r"w has 24 bytes for a shape of \(4, 2\)"):
        read_mindspore(path)
    path.write_bytes(value("w", "Complex64", [1], bytes(8)))
    with pytest.raises(CheckpointError, match="of the type Complex64"):
        read_mindspore(path)
    path.write_bytes(parts[:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        read_mindspore(path)
    assert json.dumps(sorted(found)) == '["b", "step", "w"]'


def pickled(*opcodes: bytes) -> bytes:
    """A dict with one array, `a`, that these make."""
    return b"\x80\x03}X\x01\x00\x00\x00a" + b"".join(opcodes) + b"s."


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\x00\x00\x00\x00tX\x01\x00\x00\x00btR"
OBJECTS = b"cnumpy\ndtype\n(X\x01\x00\x00\x00O\x89\x88tR(J\x03\x00\x00\x00X\x01\x00\x00\x00|NNN" + 2 * number(8)
FLOATS = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4\x89\x88tR"
PICKLES = {
    "addresses of objects": pickled(
        *(ARRAY, b"(", number(1), b"(", number(2), b"t", OBJECTS, number(0), b"tb", b"\x89C\x10", b"A" * 16, b"tb")
    ),
    "a stride of 0": pickled(
        *(b"cnumpy\nndarray\n((", number(2**31 - 1), number(1000), b"tX\x02\x00\x00\x00f4C\x04abcd", number(0)),
        *(b"(", number(0), number(0), b"ttR"),
    ),
    "fewer bytes than its shape": pickled(
        *(ARRAY, b"(", number(1), b"(", number(2**31 - 1), b"t", FLOATS, b"\x89C\x04abcd", b"tb")
    ),
    "a place far away for what it remembers": pickled(b"Kdr\xff\xff\xff\x7f"),
    "bytes that are not there": pickled(b"\x96" + struct.pack("<q", 1 << 40)),
    "many arrays of the same bytes": b"\x80\x03}(" + b"".join(
        b"X\x01\x00\x00\x00" + name.encode() + ARRAY + b"(" + number(1) + b"(" + number(250) + b"t" + FLOATS + b"\x89"
        + (b"B\xe8\x03\x00\x00" + bytes(1000) + b"q\x07" if name == "a" else b"h\x07") + b"tb"
        for name in "abcdefgh"
    ) + b"u.",
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_neither_reaches_into_memory_nor_fills_it(kind: str, tmp_path: Path) -> None:
    """numpy, left to it, takes any address for an object's; pickle in C reserves 64 GB for a place far away."""
    path = tmp_path / "x.pdparams"
    path.write_bytes(PICKLES[kind])
    with limited_memory(), pytest.raises(CheckpointError, match=r"x\.pdparams"):
        read_arrays(path)


def test_the_pickles_above_are_sound_but_for_one_thing(tmp_path: Path) -> None:
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickled(ARRAY, b"(", number(1), b"(", number(1), b"t", FLOATS, b"\x89C\x04\0\0\x80?", b"tb"))
    np.testing.assert_array_equal(read_arrays(path).arrays["a"], np.float32([1]))


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """2 GiB more than there are now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def reserve() -> bytes:
    class Reserve:
        def __reduce__(self) -> tuple[object, ...]:
            return bytearray, (1 << 40,)

    return pickle.dumps({"a": Reserve()}, 2)


def test_a_torch_checkpoint_fills_no_memory_and_holds_each_member_once(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(zip_pickle(reserve()))
    with pytest.raises(CheckpointError, match="holds a bytearray"):
        read_arrays(path)
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + reserve())
    with pytest.raises(CheckpointError, match="holds a bytearray"):
        read_arrays(path)
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)
    with pytest.raises(CheckpointError, match="arrays of more than 8 GiB"):
        read_arrays(path)
    for name in ("x/data.pkl", "x/Data.pkl"):
        torch.save(tensors(), path)
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(name, archive.read("x/data.pkl"))
        with pytest.raises(CheckpointError, match="members of one name"):
            read_arrays(path)


def odd_arrays() -> dict[str, Any]:
    weight = torch.ones(2, 2)
    return {
        "sparse": weight.to_sparse(), "complex": weight.to(torch.complex64), "meta": weight.to("meta"),
        "texts": np.array(["a", "b"]), "times": np.array([0], "datetime64[s]"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", odd_arrays())
def test_weights_are_plain_arrays(kind: str) -> None:
    arrays: dict[str, Any] = dict.fromkeys(
        (name + part for name in TIMM.convolutions for part in (".conv.weight", ".bn.weight")), odd_arrays()[kind]
    )
    with pytest.raises(CheckpointError, match=r"features\.0\.conv\.weight is no plain array of real numbers"):
        assemble(arrays, TIMM)
