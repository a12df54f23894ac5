"""The fused stages against the modules that they stand for, in float64 and in what is trained in."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm, max_pool2d

from inceptionv4.network import kernels
from inceptionv4.network.architecture import conv
from inceptionv4.network.blocks import ConvNormReLU
from inceptionv4.network.fused import fusible, run_fused
from inceptionv4.network.kernels import Kernels, load_kernels
from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.variants import ARCHITECTURES, Architecture

pytestmark = pytest.mark.skipif(load_kernels(torch.float32) is None, reason="there is no C compiler")


def network(architecture: Architecture = "inception-v4", dtype: torch.dtype = torch.float64) -> InceptionV4:
    torch.manual_seed(0)
    it = InceptionV4(5, dropout=0.0, width=0.1, architecture=architecture).to(dtype)
    for module in it.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.5)
    return it


def outcome(it: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What a step leaves: output, gradients of images and parameters, running statistics."""
    images = images.clone().requires_grad_()
    output = it(images)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()
    result = {"output": output, "images": images.grad}
    result |= {name: parameter.grad for name, parameter in it.named_parameters()}
    return result | {name: buffer.to(images.dtype) for name, buffer in it.named_buffers()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        difference = (ours[name] - value).abs().max() / value.abs().max().clamp_min(1e-30)
        assert difference.item() < tolerance, name


def plain(it: InceptionV4) -> InceptionV4:
    twin = copy.deepcopy(it)
    twin.fused = False
    return twin


def fused_steps(output: Tensor) -> int:
    """How many stages autograd sees as one."""
    seen, queue = set(), [output.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue += [before for before, _ in node.next_functions]
    return sum("Stage" in node.name() for node in seen)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [(75, 75), (107, 139)])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_fused_network_is_the_plain_one(
    architecture: Architecture, size: tuple[int, int], checkpointed: bool
) -> None:
    ours = network(architecture)
    theirs = plain(ours)
    ours.checkpointed = checkpointed
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    assert fused_steps(ours(images)) == len(ours.features)
    assert fused_steps(theirs(images)) == 0
    assert_equal(outcome(ours, images), outcome(theirs, images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_stage_in_what_is_trained_in(dtype: torch.dtype) -> None:
    """Stage by stage: over all of them, rounding decides ever more ReLUs otherwise, of torch's own too."""
    it = network(dtype=torch.float32)
    features = torch.randn(4, 3, 139, 139)
    for stage in it.features:
        theirs, exact = copy.deepcopy(stage), copy.deepcopy(stage).double()
        results = []
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            for compute in (lambda x, stage=stage: run_fused(stage, x), theirs):
                inputs = features.clone().requires_grad_()
                output = compute(inputs)
                assert output.dtype is dtype
                output.float().square().sum().backward()
                results.append(inputs.grad)
        inputs = features.double().requires_grad_()
        exact(inputs).square().sum().backward()
        ours, torchs, reference = (
            torch.cat([value.double().flatten() for value in (before, *(p.grad for p in part.parameters()))])
            for before, part in ((results[0], stage), (results[1], theirs), (inputs.grad, exact))
        )
        assert (ours - reference).norm() < 1.2 * (torchs - reference).norm() + 1e-4 * reference.norm()
        features = output.detach()


@pytest.mark.parametrize("shape", [(2, 32, 9, 7), (3, 16, 8, 8), (2, 48, 1, 1), (2, 16, 35, 35), (2, 16, 3, 80)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize(("stride", "outputs"), [(1, 13), (2, 24)])
def test_a_layer_is_that_of_torch(shape: tuple[int, ...], kernel: tuple[int, int], stride: int, outputs: int) -> None:
    torch.manual_seed(0)
    layer = ConvNormReLU(shape[1], conv(outputs, kernel, stride))
    twin = copy.deepcopy(layer).double()
    images = torch.randn(shape)
    ours, theirs = images.clone().requires_grad_(), images.double().requires_grad_()
    assert fusible(layer, ours)
    output, expected = run_fused(layer, ours), twin(theirs)
    gradient = torch.randn(output.shape)
    output.backward(gradient)
    expected.backward(gradient.double())
    pairs = [(output, expected), (ours.grad, theirs.grad)]
    pairs += [(one.grad, other.grad) for one, other in zip(layer.parameters(), twin.parameters(), strict=True)]
    pairs += list(zip(layer.buffers(), twin.buffers(), strict=True))
    for one, other in pairs:
        assert (one - other).abs().max() <= 2e-4 * other.abs().max() + 1e-5


def test_checkpointing_of_the_plain_modules_changes_nothing() -> None:
    theirs = plain(network())
    ours = copy.deepcopy(theirs)
    ours.checkpointed = True
    images = torch.randn(3, 3, 75, 75, dtype=torch.float64)
    expected = outcome(theirs, images)
    assert all(torch.equal(value, expected[name]) for name, value in outcome(ours, images).items())


def test_gradients_are_those_of_differences() -> None:
    it = network()
    block = it.features.reduction_a
    images = torch.randn(2, 32, 5, 5, dtype=torch.float64, requires_grad=True)
    assert fusible(block, images)
    assert torch.autograd.gradcheck(lambda x: run_fused(block, x), images, fast_mode=True)


def test_checkpointing_changes_no_bit() -> None:
    ours = network(dtype=torch.float32)
    theirs = copy.deepcopy(ours)
    theirs.checkpointed = True
    images = torch.randn(3, 3, 75, 75)
    expected = outcome(ours, images)
    assert all(torch.equal(value, expected[name]) for name, value in outcome(theirs, images).items())


def test_weights_changed_before_the_gradient_are_an_error() -> None:
    it = network(dtype=torch.float32)
    output = it(torch.randn(2, 3, 75, 75)).sum()
    with torch.no_grad():
        it.features.inception_a1[0].conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_a_retained_graph_has_the_same_gradients_again() -> None:
    it = network()
    output = it(torch.randn(2, 3, 75, 75, dtype=torch.float64)).sum()
    statistics = [buffer.clone() for buffer in it.buffers()]
    output.backward(retain_graph=True)
    first = [parameter.grad for parameter in it.parameters()]
    it.zero_grad()
    output.backward()
    assert all(torch.equal(one, other.grad) for one, other in zip(first, it.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(statistics, it.buffers(), strict=True))


def test_gradients_of_gradients_are_refused_and_the_plain_network_has_them() -> None:
    it = network()
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(it(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
    it.fused = False
    (slope,) = torch.autograd.grad(it(images).square().sum(), images, create_graph=True)
    slope.square().sum().backward()
    assert images.grad.abs().sum() > 0


def test_what_cannot_be_fused_is_not() -> None:
    it = network(dtype=torch.float32)
    stage, features = it.features.stem, torch.randn(2, 3, 75, 75)
    assert fusible(stage, features)
    assert not fusible(stage, features[:1])
    assert not fusible(stage, features.half())
    assert not fusible(stage, features.to("meta"))
    with torch.no_grad():
        assert not fusible(stage, features)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not fusible(stage, features)
    assert not fusible(copy.deepcopy(stage).eval(), features)
    assert not fusible(copy.deepcopy(stage).requires_grad_(False), features)
    assert not fusible(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(stage)), features)
    stranger = copy.deepcopy(stage)
    nn.utils.parametrizations.weight_norm(stranger[0].conv)
    assert not fusible(stranger, features)
    compiled = copy.deepcopy(stage)
    compiled.compile()
    assert not fusible(compiled, features)


@pytest.mark.parametrize(
    "kind", ["forward", "forward_pre", "full_backward", "full_backward_pre", "module_forward", "module_forward_pre"]
)
def test_where_somebody_waits_for_a_module_the_modules_are_run(kind: str) -> None:
    it = network(dtype=torch.float32)
    inner, called = it.features.stem[1].conv, []

    def note(module: nn.Module, *_: object) -> None:
        if module is inner:
            called.append(kind)

    everywhere = kind.startswith("module_")
    register = getattr(nn.modules.module if everywhere else inner, f"register_{kind}_hook")
    hook = register(note)
    try:
        images = torch.randn(2, 3, 75, 75)
        assert fused_steps(it(images)) == (0 if everywhere else len(it.features) - 1)
        called.clear()
        it(images).sum().backward()
        assert called == [kind]
    finally:
        hook.remove()
    assert fused_steps(it(images)) == len(it.features)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def compiled(request: pytest.FixtureRequest) -> tuple[Kernels, torch.dtype]:
    found = load_kernels(request.param)
    assert found is not None
    return found, request.param


def random_images(*shape: int, dtype: torch.dtype) -> Tensor:
    """Channels last, and a slice of a wider array."""
    batch, channels, height, width = shape
    wide = torch.randn(batch, channels + 5, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return wide[:, 2 : 2 + channels]


def test_moments_do_not_cancel_far_from_zero(compiled: tuple[Kernels, torch.dtype]) -> None:
    found, dtype = compiled
    images = random_images(5, 37, 61, 47, dtype=dtype)
    images.add_(1000.0)
    mean, variance = found.moments(images)
    exact = images.double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var((0, 2, 3), correction=0), rtol=1e-5, atol=0)


def test_pools_are_those_of_torch(compiled: tuple[Kernels, torch.dtype]) -> None:
    found, dtype = compiled
    for height, width in ((3, 3), (9, 8), (35, 17), (1, 1), (1, 4)):
        images = random_images(3, 21, height, width, dtype=dtype)
        gradient = random_images(3, 21, height, width, dtype=dtype)
        output, before = torch.empty_like(images), torch.empty_like(images)
        inputs = images.clone().requires_grad_()
        expected = avg_pool2d(inputs, 3, 1, 1, count_include_pad=False)
        expected.backward(gradient)
        found.average_pool(images, output)
        found.average_pool(gradient, before, backwards=True)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(before, inputs.grad, rtol=1e-5, atol=1e-6)
        if min(height, width) < 3:
            continue
        images = images.round()  # equal values: the first of them has the gradient
        inputs = images.clone().requires_grad_()
        expected = max_pool2d(inputs, 3, 2)
        gradient = random_images(*expected.shape, dtype=dtype)
        expected.backward(gradient)
        output, total = torch.empty_like(expected), torch.ones_like(images)
        found.max_pool(images, output)
        found.max_pool_gradient(images, gradient, total)
        assert torch.equal(output, expected)
        torch.testing.assert_close(total, inputs.grad + 1, rtol=1e-5, atol=1e-6)


def test_a_value_that_is_no_number_is_not_lost(compiled: tuple[Kernels, torch.dtype]) -> None:
    found, dtype = compiled
    images = random_images(2, 8, 5, 5, dtype=dtype)
    images[1, 3, 2, 2] = torch.nan
    output, pooled = torch.empty_like(images), torch.empty_like(images[:, :, :2, :2])
    found.rectify(images, torch.ones(8, dtype=dtype), torch.zeros(8, dtype=dtype), output)
    found.max_pool(images, pooled)
    assert output.isnan().sum() == 1
    assert pooled.isnan().sum() == 4
    mean, variance = found.moments(images)
    assert mean.isnan().tolist() == variance.isnan().tolist() == [channel == 3 for channel in range(8)]


def test_norm_and_relu_in_bf16_are_those_of_torch() -> None:
    found = load_kernels(torch.bfloat16)
    assert found is not None
    images = random_images(4, 24, 9, 9, dtype=torch.bfloat16)
    weight, bias = torch.rand(24) + 0.5, torch.randn(24)
    mean, variance = found.moments(images)
    scale = weight * (variance + 1e-3).rsqrt()
    output = torch.empty_like(images)
    found.rectify(images, scale, bias - mean * scale, output)
    expected = batch_norm(images, None, None, weight, bias, training=True, eps=1e-3).relu()
    torch.testing.assert_close(output, expected, rtol=2**-7, atol=1e-6)
    assert (output != expected).float().mean() < 0.01  # a rounding that falls the other way, seldom


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
def test_the_gradient_of_weights_is_that_of_torch_on_any_number_of_threads(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: tuple[int, int], outputs: int
) -> None:
    found = load_kernels(torch.float32)
    assert found is not None
    images = random_images(5, 48, *size, dtype=torch.float32)
    conv = nn.Conv2d(48, outputs, kernel, stride, padding, bias=False).double()
    output = conv(images.double())
    gradient = random_images(*output.shape, dtype=torch.float32)
    result = found.weight_gradient(images, gradient, conv)
    if result is None:
        pytest.skip("on this processor it is torch's own")
    (expected,) = torch.autograd.grad(output, conv.weight, gradient.double())
    assert (result - expected).abs().max() < 2e-6 * expected.abs().max()
    threads = torch.get_num_threads()
    try:
        for other in (1, 2, 7, 32):  # some have nothing to do
            torch.set_num_threads(other)
            assert torch.equal(cast(Tensor, found.weight_gradient(images, gradient, conv)), result)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where kernels are to be kept that nobody has made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.load_kernels.cache_clear()
    yield tmp_path / "inceptionv4"
    kernels.load_kernels.cache_clear()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (None, "No such file"),
        ("echo 'kernels.c: no such option' >&2; exit 1", "kernels.c: no such option"),
        ('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"', "file too short|invalid ELF header"),
    ],
    ids=["no compiler", "a compiler that fails", "a library that cannot be loaded"],
)
def test_without_a_compiler_the_modules_are_run_after_a_word(
    compiler: str | None, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    script = tmp_path / "my-cc"
    if compiler is not None:
        script.write_text(f"#!/bin/sh\n{compiler}\n")
        script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    it = network(dtype=torch.float32)
    images = torch.randn(2, 3, 75, 75)
    with pytest.warns(RuntimeWarning, match=rf"slower.*my-cc.*({reason}).*set CC") as told:
        assert fused_steps(it(images)) == 0
    assert fused_steps(it(images)) == 0  # and not a word more
    assert len(told) == 1


@pytest.mark.parametrize("words", ["{cc} -m64", "env {cc}", "'{cc}'", ""])
def test_a_compiler_may_have_options_and_a_wrapper(words: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CC", words.format(cc=shutil.which("cc")))
    assert load_kernels(torch.float32) is not None
    assert len(list(cache.iterdir())) == 1


def test_quotes_in_cc_that_do_not_close_are_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CC", "cc 'x")
    with pytest.warns(RuntimeWarning, match="No closing quotation"):
        assert load_kernels(torch.float32) is None


@pytest.mark.parametrize("obstacle", ["a folder that is read only", "a file in its place"])
def test_where_they_cannot_be_kept_kernels_are_made_all_the_same(
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
    found = load_kernels(torch.float32)
    assert found is not None
    mean, _ = found.moments(torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
    assert mean.tolist() == [1, 1, 1]
    assert list(scratch.iterdir()) == []
    assert cache.is_file() or list(cache.iterdir()) == []


def test_kernels_are_compiled_once(cache: Path) -> None:
    assert load_kernels(torch.float32) is not None
    (library,) = cache.iterdir()
    made = library.stat().st_mtime_ns
    kernels.load_kernels.cache_clear()
    assert load_kernels(torch.float32) is not None
    assert library.stat().st_mtime_ns == made
    assert list(cache.iterdir()) == [library]


def test_gradients_have_the_strides_of_their_weights() -> None:
    """Or each would be copied, and DistributedDataParallel warn of it."""
    it = network(dtype=torch.float32).to(memory_format=torch.channels_last)
    it(torch.randn(4, 3, 75, 75).contiguous(memory_format=torch.channels_last)).sum().backward()
    for name, parameter in it.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name
