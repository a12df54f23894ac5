"""The gradient of weights by a kernel of our own, against torch's in float64, and how the kernel is made.

The kernel is for processors without AVX-512, but runs and is tested on every one with AVX2.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.recompute import run_recomputing
from inceptionv4.network.weight_gradient import load_library, run_kernel, weight_gradient

pytestmark = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx2") or shutil.which("cc") is None, reason="no AVX2, or no C compiler"
)


def random_images(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "outputs"),
    [
        *(((8, 8), (3, 3), 1, (1, 1), outputs) for outputs in range(1, 21)),  # strips of several images
        ((17, 17), (1, 7), 1, (0, 3), 26),
        ((17, 17), (7, 1), 1, (3, 0), 26),
        ((35, 20), (3, 3), 2, (0, 0), 26),
        ((35, 20), (3, 3), 2, (1, 1), 26),
        ((4, 301), (3, 3), 1, (0, 0), 26),  # rows longer than a strip
        ((1, 2), (7, 7), 1, (3, 3), 26),  # taps that meet nothing
    ],
    ids=str,
)
def test_it_is_that_of_torch_on_any_number_of_threads(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: tuple[int, int], outputs: int
) -> None:
    library = load_library()
    assert library is not None
    images = random_images(5, 48, *size)
    conv = nn.Conv2d(48, outputs, kernel, stride, padding, bias=False).double()
    output = conv(images.double())
    gradient = random_images(*output.shape)
    result = run_kernel(library, images, gradient, conv)
    (expected,) = torch.autograd.grad(output, conv.weight, gradient.double())
    assert (result - expected).abs().max() < 2e-6 * expected.abs().max()
    threads = torch.get_num_threads()
    try:
        for other in (1, 2, 7, 32):  # some have nothing to do
            torch.set_num_threads(other)
            assert torch.equal(run_kernel(library, images, gradient, conv), result)
    finally:
        torch.set_num_threads(threads)


def test_any_layout_in_memory_is_read() -> None:
    library = load_library()
    assert library is not None
    conv = nn.Conv2d(16, 8, 3, padding=1, bias=False)
    wide, gradient = torch.randn(2, 40, 9, 7), torch.randn(2, 8, 9, 7)
    images = wide[:, 3:19]
    expected = run_kernel(library, random_images(2, 16, 9, 7).copy_(images), gradient, conv)
    assert torch.equal(run_kernel(library, images, gradient, conv), expected)
    assert expected.stride() == conv.weight.to(memory_format=torch.channels_last).stride()


@pytest.mark.parametrize("capability", ["AVX2", "AVX512", "DEFAULT"])
def test_it_is_used_where_torch_is_slower(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    conv = nn.Conv2d(16, 8, 3, bias=False)
    images, gradient = torch.randn(2, 16, 9, 9), torch.randn(2, 8, 7, 7)
    assert (weight_gradient(images, gradient, conv) is None) == (capability != "AVX2")
    assert weight_gradient(images.bfloat16(), gradient.bfloat16(), conv) is None
    assert weight_gradient(images.double(), gradient.double(), conv) is None
    assert weight_gradient(images[:, :8], gradient, nn.Conv2d(8, 8, 3, bias=False)) is None
    assert weight_gradient(images, torch.randn(2, 8, 9, 9), nn.Conv2d(16, 8, 1, bias=False)) is None


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_gradients_of_the_network(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the strides of the weights, or each would be copied, and DistributedDataParallel warn of it."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    torch.manual_seed(0)
    it = InceptionV4(5, dropout=0.0, width=0.25).to(memory_format=torch.channels_last)
    it(random_images(4, 3, 75, 75)).square().sum().backward()
    for name, parameter in it.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name
    stage = it.features.reduction_a
    exact = copy.deepcopy(stage).double()
    exact.zero_grad()
    features = random_images(4, 96, 9, 9)
    it.zero_grad()
    run_recomputing(stage, features).square().sum().backward()
    exact(features.double()).square().sum().backward()
    for (name, parameter), other in zip(stage.named_parameters(), exact.parameters(), strict=True):
        assert (parameter.grad - other.grad).norm() < 1e-3 * other.grad.norm(), name


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a kernel is to be kept that nobody has made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    load_library.cache_clear()
    (tmp_path / "inceptionv4").mkdir()
    yield tmp_path / "inceptionv4/kernels"
    load_library.cache_clear()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (None, "No such file"),
        ("echo 'weight_gradient.c: no such option' >&2; exit 1", "weight_gradient.c: no such option"),
        ('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"', "file too short|invalid ELF header"),
    ],
    ids=["no compiler", "a compiler that fails", "a library that cannot be loaded"],
)
def test_without_a_compiler_torch_does_it_after_a_word(
    compiler: str | None, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    script = tmp_path / "my-cc"
    if compiler is not None:
        script.write_text(f"#!/bin/sh\n{compiler}\n")
        script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    conv = nn.Conv2d(16, 8, 3, bias=False)
    tensors = torch.randn(2, 16, 9, 9), torch.randn(2, 8, 7, 7)
    with pytest.warns(RuntimeWarning, match=rf"slower.*my-cc.*({reason}).*set CC") as told:
        assert weight_gradient(*tensors, conv) is None
    assert weight_gradient(*tensors, conv) is None  # and not a word more
    assert len(told) == 1


@pytest.mark.parametrize("words", ["{cc} -m64", "env {cc}", "'{cc}'", ""])
def test_a_compiler_may_have_options_and_a_wrapper(words: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CC", words.format(cc=shutil.which("cc")))
    assert load_library() is not None
    assert len(list(cache.iterdir())) == 1


def test_quotes_in_cc_that_do_not_close_are_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CC", "cc 'x")
    with pytest.warns(RuntimeWarning, match="No closing quotation"):
        assert load_library() is None


def works(library: ctypes.CDLL | None) -> bool:
    """Whether the kernel computes: a gradient of twice four ones."""
    assert library is not None
    conv = nn.Conv2d(16, 1, (1, 2), bias=False)
    return run_kernel(library, torch.ones(2, 16, 1, 5), torch.ones(2, 1, 1, 4), conv).unique().tolist() == [8]


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The compilations from here on."""
    commands: list[list[str]] = []
    run = subprocess.run

    def note(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", note)
    return commands


OBSTACLES: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "a file in its place": lambda cache, _: cache.write_text("") and None,
    "a folder of somebody else": lambda cache, _: (cache.mkdir(), os.chown(cache, 12345, 12345))[1],
    "a folder that all may write": lambda cache, _: (cache.mkdir(), cache.chmod(0o777))[1],
    "a folder that a group may write": lambda cache, _: (cache.mkdir(), cache.chmod(0o775))[1],
    "a link to a folder": lambda cache, _: (cache.with_name("x").mkdir(), cache.symlink_to(cache.with_name("x")))[1],
    "a disk that is full": lambda cache, patch: patch.setattr(os, "fsync", fail),
    "no temporary file there": lambda cache, patch: patch.setattr(tempfile, "NamedTemporaryFile", fail),
}


def fail(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_kernel_that_cannot_be_kept_is_made_all_the_same(
    obstacle: str, monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path
) -> None:
    if "somebody" in obstacle and os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with monkeypatch.context() as patched:
        OBSTACLES[obstacle](cache, patched)
        assert works(load_library())
    assert list(scratch.iterdir()) == []
    assert cache.is_file() or list(cache.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64, 4096, 10_000, -1])
def test_a_kept_kernel_that_is_cut_short_is_made_again(length: int, cache: Path, compilers: list[list[str]]) -> None:
    """In a process of its own it would be SIGBUS, at every start."""
    assert load_library() is not None
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:length])
    load_library.cache_clear()
    assert works(load_library())
    assert len(compilers) == 2
    assert len(kept.read_bytes()) == len(whole)
    load_library.cache_clear()
    assert works(load_library())
    assert len(compilers) == 2


@pytest.mark.parametrize("place", [0, 31, 32, 40, 5000, -1])
def test_a_kept_kernel_with_a_flipped_bit_is_made_again(place: int, cache: Path, compilers: list[list[str]]) -> None:
    assert load_library() is not None
    (kept,) = cache.iterdir()
    content = bytearray(kept.read_bytes())
    content[place] ^= 1
    kept.write_bytes(content)
    load_library.cache_clear()
    assert works(load_library())
    assert len(compilers) == 2


def test_a_umask_that_lets_a_group_write_does_not_matter(cache: Path, compilers: list[list[str]]) -> None:
    before = os.umask(0o002)
    try:
        for _ in range(2):
            load_library.cache_clear()
            assert works(load_library())
    finally:
        os.umask(before)
    assert len(compilers) == 1


def test_a_kept_kernel_that_cannot_be_loaded_is_made_again(cache: Path, compilers: list[list[str]]) -> None:
    assert load_library() is not None
    (kept,) = cache.iterdir()
    kept.write_bytes(hashlib.sha256(b"of another machine").digest() + b"of another machine")
    load_library.cache_clear()
    assert works(load_library())
    assert len(compilers) == 2


PLANTED: dict[str, Callable[[Path], object]] = {
    "of another user": lambda kept: os.chown(kept, 12345, 12345),
    "that all may write": lambda kept: kept.chmod(0o666),
    "that a group may write": lambda kept: kept.chmod(0o620),
    "a link": lambda kept: kept.symlink_to(kept.rename(kept.parent.parent / "elsewhere")),
    "a folder": lambda kept: (kept.unlink(), kept.mkdir()),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_kernel_that_others_may_have_written_is_not_executed(
    planted: str, cache: Path, tmp_path: Path, compilers: list[list[str]]
) -> None:
    """The planted one would say so, by a file, when it is loaded."""
    if "another" in planted and os.geteuid() != 0:
        pytest.skip("only root may give a file away")
    source, evil, sentinel = tmp_path / "evil.c", tmp_path / "evil.so", tmp_path / "executed"
    source.write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ open("{sentinel}", O_CREAT | O_WRONLY, 0600); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(evil)], check=True)
    assert load_library() is not None
    (kept,) = cache.iterdir()
    code = evil.read_bytes()
    kept.write_bytes(hashlib.sha256(code).digest() + code)
    PLANTED[planted](kept)
    load_library.cache_clear()
    assert works(load_library())
    assert not sentinel.exists()
    # Such a file is loaded where it is the user's own: the test can fail.
    if planted == "that all may write":
        kept.write_bytes(hashlib.sha256(code).digest() + code)
        kept.chmod(0o600)
        load_library.cache_clear()
        load_library()
        assert sentinel.exists()


def test_a_damaged_kernel_and_no_compiler_leave_torch_s(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert load_library() is not None
    (kept,) = cache.iterdir()
    kept.write_bytes(b"")
    compiler = shutil.which("cc")
    monkeypatch.setattr(subprocess, "run", fail)
    load_library.cache_clear()
    with pytest.warns(RuntimeWarning, match=f"its kernel was not made by 'cc' .*{os.strerror(errno.ENOSPC)}"):
        assert load_library() is None
    assert compiler is not None


@pytest.mark.parametrize("missing", ["memory", "execution", "a home"])
def test_it_loads_on_systems_of_less(missing: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Without anonymous memory files; where the cache may not be executed from; for a user without a name or home."""
    if missing == "memory":
        monkeypatch.setattr(os, "memfd_create", fail)
    elif missing == "execution":
        load = ctypes.CDLL

        def refuse(name: str) -> ctypes.CDLL:
            if name.startswith(str(cache)):
                raise OSError("failed to map segment from shared object")
            return load(name)

        monkeypatch.setattr(ctypes, "CDLL", refuse)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)

        def unknown(number: int) -> None:
            raise KeyError(f"getpwuid(): uid not found: {number}")

        monkeypatch.setattr(pwd, "getpwuid", unknown)
    for _ in range(2):
        assert works(load_library())
        load_library.cache_clear()


def test_a_kernel_is_compiled_once(cache: Path) -> None:
    assert load_library() is not None
    (library,) = cache.iterdir()
    made = library.stat().st_mtime_ns
    load_library.cache_clear()
    assert load_library() is not None
    assert library.stat().st_mtime_ns == made
    assert list(cache.iterdir()) == [library]
