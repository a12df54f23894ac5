"""Train a stage in less memory: keep the convolutions' outputs, and compute norm and ReLU again for the gradient.

    output = run_recomputing(stage, features) if can_recompute(stage, features) else stage(features)

Of each convolution, norm and ReLU, the modules keep the convolution's output and the ReLU's. Here consecutive layers
are one function of autograd (`_Layers`), which keeps the first only: norm and ReLU are two cheap passes over memory. It
takes parameters as arguments and keeps tensors by `save_for_backward`, so that whatever works on a graph works on it:
`torch.func.functional_call`, `save_on_cpu`, checkpoints, DistributedDataParallel, second derivatives. A 1 x 1
convolution is computed before the mean pool that precedes it.

Equal to the modules but for rounding. The modules remain what the network is; this reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm
from torch.nn.modules.module import _has_any_global_hook

from inceptionv4.network.blocks import Concatenate, ConvNormReLU, MeanPool
from inceptionv4.network.weight_gradient import weight_gradient

POOL = (3, 1, 1, False, False)
"""`MeanPool` in the words of torch's functions: size, stride, padding, ceil_mode, count_include_pad."""
KNOWN = (ConvNormReLU, nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, MeanPool, nn.Sequential, Concatenate)


def can_recompute(stage: nn.Module, features: Tensor) -> bool:
    """Whether `run_recomputing` can stand for `stage(features)`: in plain training on a CPU, if no hook looks inside.

    On accelerators it stands aside: their libraries have norms that are faster than torch's own, which this calls.
    """
    if torch.compiler.is_compiling() or stage._compiled_call_impl is not None:
        return False
    if torch._C._are_functorch_transforms_active() or _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    if not (stage.training and torch.is_grad_enabled() and features.device.type == "cpu" and len(features) > 1):
        return False
    return all(_is_plain(module) for module in stage.modules())


def _is_plain(module: nn.Module) -> bool:
    """Whether it is one of the modules that are known here, as `blocks` builds them, and has no hooks."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    if type(module) not in KNOWN or any(hooks):
        return False
    if isinstance(module, nn.BatchNorm2d):
        return module.training and module.track_running_stats and module.affine and module.momentum is not None
    return True


def run_recomputing(module: nn.Module, images: Tensor) -> Tensor:
    """`module(images)`, of which the convolutions' outputs are kept."""
    match module:
        case ConvNormReLU():
            return _run_layers([module], images)
        case Concatenate():
            return torch.cat([run_recomputing(branch, images) for branch in module], dim=1)
        case nn.Sequential() if _commutes(module):
            return _run_layers([cast(ConvNormReLU, module[1])], images, pooled=True)
        case nn.Sequential():
            for are_layers, parts in groupby(module, lambda part: isinstance(part, ConvNormReLU)):
                if are_layers:
                    images = _run_layers(cast(list[ConvNormReLU], list(parts)), images)
                else:
                    for part in parts:
                        images = run_recomputing(part, images)
            return images
    output: Tensor = module(images)
    return output


def _commutes(branch: nn.Sequential) -> bool:
    """Return whether the branch is a mean pool before a 1 x 1 convolution: both are linear and may change places.

    After the convolution the pool has fewer channels, and its input need not be kept.
    """
    if len(branch) != 2 or not isinstance(branch[0], MeanPool) or not isinstance(branch[1], ConvNormReLU):
        return False
    return branch[1].conv.kernel_size == (1, 1) and branch[1].conv.stride == (1, 1)


def _run_layers(layers: Sequence[ConvNormReLU], images: Tensor, *, pooled: bool = False) -> Tensor:
    """Run layers one after the other; if `pooled`, a mean pool follows the first one's convolution."""
    parameters = (p for layer in layers for p in (layer.conv.weight, layer.norm.weight, layer.norm.bias))
    output: Tensor = _Layers.apply(layers, pooled, images, *parameters)
    return output


class _Layers(torch.autograd.Function):
    """Layers one after the other; `parameters` are weight, scale and shift of each."""

    @staticmethod
    def forward(ctx: Any, layers: Sequence[ConvNormReLU], pooled: bool, images: Tensor, *parameters: Tensor) -> Tensor:
        ctx.layers, ctx.pooled = layers, pooled
        ctx.autocast_dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        kept: list[Tensor] = []
        output = images
        with torch.autocast("cpu", enabled=False):
            for layer, (weight, scale, shift) in zip(layers, _threes(parameters), strict=True):
                conv, norm = layer.conv, layer.norm
                inputs, weight = _cast(output, ctx.autocast_dtype), _cast(weight, ctx.autocast_dtype)
                convolved = torch.conv2d(inputs, weight, None, conv.stride, cast(tuple[int, int], conv.padding))
                if pooled and output is images:
                    convolved = avg_pool2d(convolved, *POOL)
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(1)
                assert norm.momentum is not None
                output, mean, inverse = torch.native_batch_norm(
                    convolved, scale, shift, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
                )
                output.relu_()
                kept += (convolved, mean, inverse)
        ctx.save_for_backward(images, *parameters, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, *tensors = ctx.saved_tensors
        parameters, kept = tensors[: 3 * len(ctx.layers)], tensors[3 * len(ctx.layers) :]
        needed = ctx.needs_input_grad[2:]
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():  # create_graph: what is kept has no graph of its own
                return None, None, *_differentiable_gradients(ctx, gradient, images, parameters, needed)
            return None, None, *_gradients(ctx, gradient, images, parameters, kept, needed)


def _gradients(
    ctx: Any, gradient: Tensor, images: Tensor, parameters: list[Tensor], kept: list[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the images and of the parameters, those that are needed."""
    results: list[Tensor | None] = [None] * len(needed)
    output = None
    for number, layer in reversed(list(enumerate(ctx.layers))):
        first = 3 * number
        weight, scale, shift = parameters[first : first + 3]
        convolved, mean, inverse = kept[first : first + 3]
        if output is None:
            output = _norm_relu(convolved, scale, shift, mean, inverse, layer.norm.eps)
        # The gradient takes the memory of the output, whose sign is all that it needs of it.
        gradient = torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=output)
        # Of what comes before the norm, only the part down to the first that is needed.
        mask = (any(needed[: first + 2]), needed[first + 2], needed[first + 3])
        gradient, results[first + 2], results[first + 3] = torch.ops.aten.native_batch_norm_backward(
            gradient, convolved, scale, None, None, mean, inverse, True, layer.norm.eps, mask
        )
        if not mask[0]:
            break
        if number == 0:
            inputs, output = _cast(images, ctx.autocast_dtype), None
            if ctx.pooled:  # of what the pool is given, only the shape matters
                gradient = torch.ops.aten.avg_pool2d_backward(gradient, convolved, *POOL, None)
        else:
            scale, shift = parameters[first - 2 : first]
            mean, inverse = kept[first - 2 : first]
            eps = ctx.layers[number - 1].norm.eps
            inputs = output = _norm_relu(kept[first - 3], scale, shift, mean, inverse, eps)
        wanted = any(needed[: first + 1]), needed[first + 1]
        gradient, of_weight = _convolution_gradients(
            gradient, inputs, _cast(weight, ctx.autocast_dtype), layer.conv, wanted
        )
        results[first + 1] = None if of_weight is None else of_weight.to(weight.dtype)
        if not wanted[0]:
            break
    else:
        results[0] = gradient.to(images.dtype)
    return results


def _norm_relu(convolved: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    """What a layer made of its convolution's output, from the statistics of then: `inverse` is 1 / sqrt(var + eps)."""
    variance = inverse.square().reciprocal_().sub_(eps)
    return torch.native_batch_norm(convolved, scale, shift, mean, variance, False, 0.0, eps)[0].relu_()


def _convolution_gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, conv: nn.Conv2d, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the images and of the weights, those that are wanted."""
    of_weight = weight_gradient(images, gradient, conv) if wanted[1] else None
    mask = (wanted[0], wanted[1] and of_weight is None, False)
    before, torchs, _ = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, conv.stride, conv.padding, (1, 1), False, (0, 0), 1, mask
    )
    return before, torchs if of_weight is None else of_weight


def _differentiable_gradients(
    ctx: Any, gradient: Tensor, images: Tensor, parameters: list[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The same gradients with a graph, by what torch has for each operation."""
    output = images
    for layer, (weight, scale, shift) in zip(ctx.layers, _threes(parameters), strict=True):
        inputs, weight = _cast(output, ctx.autocast_dtype), _cast(weight, ctx.autocast_dtype)
        pooled = ctx.pooled and output is images
        output = torch.conv2d(inputs, weight, None, layer.conv.stride, layer.conv.padding)
        if pooled:
            output = avg_pool2d(output, *POOL)
        output = batch_norm(output, None, None, scale, shift, training=True, eps=layer.norm.eps).relu()
    inputs_needed = [tensor for tensor, is_needed in zip((images, *parameters), needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(output, inputs_needed, gradient, create_graph=True))
    return [next(found) if is_needed else None for is_needed in needed]


def _threes(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(zip(tensors[0::3], tensors[1::3], tensors[2::3], strict=True))


def _cast(tensor: Tensor, autocast_dtype: torch.dtype | None) -> Tensor:
    """As autocast casts what a convolution takes: everything but float64."""
    return tensor if autocast_dtype is None or tensor.dtype is torch.float64 else tensor.to(autocast_dtype)
