"""Stages that compute norm and ReLU again, against the modules that they stand for, in float64 and in what is trained
in.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from inceptionv4.network.architecture import conv
from inceptionv4.network.blocks import ConvNormReLU
from inceptionv4.network.layers import InceptionV4
from inceptionv4.network.recompute import can_recompute, run_recomputing
from inceptionv4.network.variants import ARCHITECTURES, Architecture


def network(architecture: Architecture = "inception-v4", dtype: torch.dtype = torch.float64) -> InceptionV4:
    torch.manual_seed(0)
    it = InceptionV4(5, dropout=0.0, width=0.1, architecture=architecture).to(dtype)
    for module in it.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.5)
    return it


FEW = 1e-7
"""Of the gradients over two images at 75 px, where the last norms see two pixels, and multiply rounding."""


def plain(it: InceptionV4) -> InceptionV4:
    """A copy that calls its modules."""
    twin = copy.deepcopy(it)
    twin._run = lambda stage, features: stage(features)  # type: ignore[method-assign]
    return twin


def backward(output: Tensor) -> None:
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()


def state(it: nn.Module) -> dict[str, Tensor | None]:
    """Gradients, running statistics and how many batches moved them."""
    return {name: p.grad for name, p in it.named_parameters()} | dict(it.named_buffers())


def outcome(it: nn.Module, images: Tensor) -> dict[str, Tensor | None]:
    """What a step leaves: output, gradients of images and parameters, running statistics."""
    images = images.clone().requires_grad_()
    output = it(images)
    backward(output)
    return {"output": output, "images": images.grad, **state(it)}


def assert_equal(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None], tolerance: float = 1e-9) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        result = ours[name]
        assert (result is None) == (value is None), name
        if result is not None and value is not None:
            difference = (result - value).abs().max() / value.abs().max().clamp_min(1e-30)
            assert difference.item() < tolerance, name


def recomputing(output: Tensor) -> int:
    """How many runs of layers autograd sees as one step."""
    seen, queue = set(), [output.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue += [before for before, _ in node.next_functions]
    return sum("Layers" in node.name() for node in seen)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [(75, 75), (107, 139)])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_network_that_recomputes_is_the_plain_one(
    architecture: Architecture, size: tuple[int, int], checkpointed: bool
) -> None:
    ours = network(architecture)
    theirs = plain(ours)
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    assert recomputing(copy.deepcopy(ours)(images)) > len(ours.features)
    assert recomputing(copy.deepcopy(theirs)(images)) == 0
    ours.checkpointed = checkpointed
    assert_equal(outcome(ours, images), outcome(theirs, images))


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_stage_in_what_is_trained_in(dtype: torch.dtype) -> None:
    """Stage by stage: over all of them, rounding decides ever more ReLUs otherwise, of torch's own too."""
    it = network(dtype=torch.float32)
    features = torch.randn(4, 3, 139, 139)
    for stage in it.features:
        theirs, exact = copy.deepcopy(stage), copy.deepcopy(stage).double()
        results = []
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            for compute in (lambda x, stage=stage: run_recomputing(stage, x), theirs):
                inputs = features.clone().requires_grad_()
                output = compute(inputs)
                assert output.dtype is dtype
                output.float().square().sum().backward()
                assert inputs.grad is not None
                assert inputs.grad.dtype is inputs.dtype
                results.append(inputs.grad)
        inputs = features.double().requires_grad_()
        exact(inputs).square().sum().backward()
        ours, torchs, reference = (
            torch.cat([value.double().flatten() for value in (before, *(p.grad for p in part.parameters()))])
            for before, part in ((results[0], stage), (results[1], theirs), (inputs.grad, exact))
        )
        assert (ours - reference).norm() < 1.2 * (torchs - reference).norm() + 1e-4 * reference.norm()
        for one, other in zip(stage.buffers(), theirs.buffers(), strict=True):
            within = {"rtol": 1e-2, "atol": 1e-3} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(one, other, **within)
        features = output.detach()


@pytest.mark.parametrize("shape", [(2, 32, 9, 7), (2, 48, 1, 1), (2, 16, 35, 35), (2, 16, 3, 80)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize(("stride", "outputs"), [(1, 13), (2, 24)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_a_layer_is_that_of_torch(
    shape: tuple[int, ...], kernel: tuple[int, int], stride: int, outputs: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = ConvNormReLU(shape[1], conv(outputs, kernel, stride)).to(memory_format=layout)
    twin = copy.deepcopy(layer).double()
    images = torch.randn(shape).contiguous(memory_format=layout)
    ours, theirs = images.clone().requires_grad_(), images.double().requires_grad_()
    assert can_recompute(layer, ours)
    output, expected = run_recomputing(layer, ours), twin(theirs)
    gradient = torch.randn(output.shape)
    output.backward(gradient)
    expected.backward(gradient.double())
    pairs = [(output, expected), (ours.grad, theirs.grad)]
    pairs += [(one.grad, other.grad) for one, other in zip(layer.parameters(), twin.parameters(), strict=True)]
    pairs += list(zip(layer.buffers(), twin.buffers(), strict=True))
    for one, other in pairs:
        assert (one - other).abs().max() <= 2e-4 * other.abs().max() + 1e-5


def test_a_value_that_is_no_number_is_not_lost() -> None:
    layer = ConvNormReLU(4, conv(8, 1))
    images = torch.randn(2, 4, 3, 3)
    images[0, 0, 0, 0] = torch.nan
    assert torch.equal(run_recomputing(layer, images).isnan(), copy.deepcopy(layer)(images).isnan())


@pytest.mark.parametrize(
    "frozen",
    [
        ["stem", "inception_a1"],
        ["inception_b3"],
        ["conv.weight"],
        ["norm"],
        ["norm.weight"],
        ["stem.0", "stem.1.conv", "stem.1.norm.weight"],
    ],
    ids=" ".join,
)
def test_frozen_parameters_have_no_gradients_and_the_others_have_theirs(frozen: list[str]) -> None:
    ours = network()
    for name, parameter in ours.named_parameters():
        if any(part in name for part in frozen):
            parameter.requires_grad_(False)
    theirs = plain(ours)
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64)
    for it in (ours, theirs):
        backward(it(images))
    assert_equal(state(ours), state(theirs))
    assert_equal(outcome(ours, images), outcome(theirs, images))


def test_a_stage_in_evaluation_mode_between_others_is_run_as_it_is() -> None:
    ours = network()
    ours.features.inception_a1.eval()
    ours.features.inception_b2[1].eval()
    theirs = plain(ours)
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64)
    assert_equal(outcome(ours, images), outcome(theirs, images))


def test_gradients_add_up_over_parts_and_statistics_move_with_each() -> None:
    ours = network()
    theirs = plain(ours)
    for part in torch.randn(3, 2, 3, 75, 75, dtype=torch.float64):
        for it in (ours, theirs):
            backward(it(part))
    assert_equal(state(ours), state(theirs), FEW)
    assert ours.features.stem[0].norm.num_batches_tracked == 3


def test_a_copy_trains_as_its_original_and_the_state_is_that_of_the_modules() -> None:
    ours = network()
    twin = copy.deepcopy(ours)
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64)
    assert_equal(outcome(twin, images), outcome(ours, images), 1e-15)
    assert ours.state_dict().keys() == plain(ours).state_dict().keys()


def test_checkpointing_of_the_plain_modules_changes_nothing() -> None:
    theirs = network()
    handle = theirs.features.register_forward_hook(lambda *_: None)
    for stage in theirs.features:
        stage[0].register_forward_hook(lambda *_: None)
    ours = copy.deepcopy(theirs)
    ours.checkpointed = True
    images = torch.randn(3, 3, 75, 75, dtype=torch.float64)
    assert recomputing(copy.deepcopy(theirs)(images)) == 0
    assert_equal(outcome(ours, images), outcome(theirs, images), 1e-30)
    handle.remove()


def test_gradients_are_those_of_differences() -> None:
    it = network()
    block = it.features.reduction_a
    images = torch.randn(2, 32, 5, 5, dtype=torch.float64, requires_grad=True)
    assert can_recompute(block, images)
    assert torch.autograd.gradcheck(lambda x: run_recomputing(block, x), images, fast_mode=True)


def test_second_derivatives_are_those_of_the_plain_network() -> None:
    ours = network()
    theirs = plain(ours)
    results = []
    for it in (ours, theirs):
        torch.manual_seed(1)
        images = torch.randn(2, 3, 75, 75, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(it(images).square().sum(), images, create_graph=True)
        slope.square().sum().backward()
        results.append({"slope": slope, "images": images.grad, **state(it)})
    assert_equal(results[0], results[1], 1e-8)


def test_checkpointing_changes_no_bit() -> None:
    ours = network(dtype=torch.float32)
    theirs = copy.deepcopy(ours)
    theirs.checkpointed = True
    images = torch.randn(3, 3, 75, 75)
    assert_equal(outcome(theirs, images), outcome(ours, images), 1e-30)


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


def test_torchs_checkpoint_of_the_network() -> None:
    """It moves the statistics twice, of any network; the gradients are the same."""
    ours = network()
    theirs = plain(ours)
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64, requires_grad=True)
    backward(checkpoint(ours, images, use_reentrant=False))
    backward(theirs(images))
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_equal({name: one.grad}, {name: other.grad})


@pytest.mark.parametrize("checkpointed", [False, True])
def test_kept_tensors_may_be_moved_elsewhere(checkpointed: bool) -> None:
    ours = network()
    theirs = copy.deepcopy(ours)
    ours.checkpointed = checkpointed
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64)
    with save_on_cpu():
        result = outcome(ours, images)
    assert_equal(result, outcome(theirs, images), 1e-30)


def test_a_functional_call_has_gradients_for_the_tensors_that_it_was_given() -> None:
    ours, other = network(), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    theirs = plain(other)
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64)
    given = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    buffers = {name: b.clone() for name, b in other.named_buffers()}
    output = torch.func.functional_call(ours, {**given, **buffers}, (images,))
    assert recomputing(output) > 0
    backward(output)
    backward(theirs(images))
    expected = {name: p.grad for name, p in theirs.named_parameters()} | dict(theirs.named_buffers())
    assert_equal({name: p.grad for name, p in given.items()} | buffers, expected, FEW)
    assert all(p.grad is None for p in ours.parameters())
    assert_equal(dict(ours.named_buffers()), dict(network().named_buffers()))


def test_transformed_functions_see_the_modules() -> None:
    stage = network().features.inception_a1
    seen = []

    def loss(features: Tensor) -> Tensor:
        seen.append(can_recompute(stage, features))
        return features.sum()

    features = torch.randn(2, 40, 5, 5, dtype=torch.float64)
    torch.func.grad(loss)(features)
    assert seen == [False]
    loss(features)
    assert seen == [False, True]


def test_distributed_training_in_one_process(tmp_path: object) -> None:
    ours = network()
    theirs = plain(ours)
    images = torch.randn(2, 3, 75, 75, dtype=torch.float64)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        backward(DistributedDataParallel(ours)(images))
    finally:
        torch.distributed.destroy_process_group()
    backward(theirs(images))
    assert_equal(state(ours), state(theirs))


def test_where_it_cannot_stand_for_the_modules_it_does_not() -> None:
    it = network(dtype=torch.float32)
    stage, features = it.features.stem, torch.randn(2, 3, 75, 75)
    assert can_recompute(stage, features)
    assert not can_recompute(stage, features[:1])
    assert not can_recompute(stage, features.to("meta"))
    with torch.no_grad():
        assert not can_recompute(stage, features)
    assert not can_recompute(copy.deepcopy(stage).eval(), features)
    assert not can_recompute(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(stage)), features)
    stranger = copy.deepcopy(stage)
    nn.utils.parametrizations.weight_norm(stranger[0].conv)
    assert not can_recompute(stranger, features)
    compiled = copy.deepcopy(stage)
    compiled.compile()
    assert not can_recompute(compiled, features)
    cumulative = copy.deepcopy(stage)
    cumulative[0].norm.momentum = None  # a mean over all batches
    assert not can_recompute(cumulative, features)


@pytest.mark.parametrize("cast", [nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "kind", ["forward", "forward_pre", "full_backward", "full_backward_pre", "module_forward", "module_forward_pre"]
)
def test_where_a_hook_looks_at_a_module_the_modules_are_run(kind: str, cast: nullcontext[None]) -> None:
    it = network(dtype=torch.float32)
    inner, called = it.features.stem[1].conv, []

    def note(module: nn.Module, *_: object) -> None:
        if module is inner:
            called.append(kind)

    images = torch.randn(2, 3, 75, 75)
    everywhere = kind.startswith("module_")
    register = getattr(nn.modules.module if everywhere else inner, f"register_{kind}_hook")
    with cast:
        without = recomputing(it(images))
        hook = register(note)
        try:
            assert recomputing(it(images)) < (1 if everywhere else without)
            called.clear()
            it(images).sum().backward()
            assert called == [kind]
        finally:
            hook.remove()
        assert recomputing(it(images)) == without
