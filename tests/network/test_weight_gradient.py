"""The gradient of weights by a kernel of our own, against torch's in float64, and how the kernel is made.

The kernel is for processors without AVX-512, but runs and is tested on every one with AVX2.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    yield tmp_path / "inceptionv4"
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


@pytest.mark.parametrize("obstacle", ["a folder that is read only", "a file in its place"])
def test_a_kernel_that_cannot_be_kept_is_made_all_the_same(
    obstacle: str, monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    if obstacle == "a file in its place":
        cache.write_text("")
    else:
        cache.mkdir()
        access = os.access  # for root, no mode of a folder is an obstacle

        def refuse(path: object, mode: int) -> bool:
            return str(path) != str(cache) and access(path, mode)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "access", refuse)
    library = load_library()
    assert library is not None
    conv = nn.Conv2d(16, 1, (1, 2), bias=False)
    result = run_kernel(library, torch.ones(2, 16, 1, 5), torch.ones(2, 1, 1, 4), conv)
    assert result.unique().tolist() == [8]
    assert list(scratch.iterdir()) == []
    assert cache.is_file() or list(cache.iterdir()) == []


def test_a_kernel_is_compiled_once(cache: Path) -> None:
    assert load_library() is not None
    (library,) = cache.iterdir()
    made = library.stat().st_mtime_ns
    load_library.cache_clear()
    assert load_library() is not None
    assert library.stat().st_mtime_ns == made
    assert list(cache.iterdir()) == [library]
