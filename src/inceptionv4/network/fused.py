"""A stage in training as one step of autograd, equal to its modules to rounding, with less work and memory.

Between two convolutions torch keeps three things for the gradient: what comes out of the first, the same normalised,
and, where branches end, that again within their concatenation. Here only the first is kept; a ReLU's output is computed
anew when the gradient needs it, and the gradient takes the place of what it was computed from. Besides:

- norm and ReLU are one pass over memory after one for the statistics, and so are their gradients (`kernels.c`);
- branches write into their channels of the concatenation, and read theirs of its gradient, without copies;
- 1 x 1 convolutions side by side on one input are one convolution, and their gradients are summed by it;
- where a mean pool comes before a 1 x 1 convolution, it comes after: both are linear, and there are fewer channels.

The modules remain what the network is; this reads them. There are no gradients of gradients: for those, set
`InceptionV4.fused` to False.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from inceptionv4.network.blocks import Concatenate, ConvNormReLU
from inceptionv4.network.kernels import Kernels, load_kernels

CHANNELS_LAST = torch.channels_last
KNOWN = (ConvNormReLU, nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.Sequential, Concatenate)


def fusible(stage: nn.Module, features: Tensor) -> bool:
    """Whether `run_fused` can stand for `stage(features)`: in plain training on a CPU, and if nobody looks inside."""
    if torch.compiler.is_compiling() or stage._compiled_call_impl is not None:
        return False
    if not (stage.training and torch.is_grad_enabled() and features.device.type == "cpu" and len(features) > 1):
        return False
    if _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    kernels = load_kernels(_dtype(features))
    return kernels is not None and all(_is_plain(module, kernels.real) for module in stage.modules())


def _is_plain(module: nn.Module, real: torch.dtype) -> bool:
    """Whether it is one of the modules that are known here, all of it is trained, and nobody waits for its call."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    if type(module) not in KNOWN or any(hooks):
        return False
    if isinstance(module, nn.BatchNorm2d) and not (module.training and module.track_running_stats and module.momentum):
        return False
    return all(p.requires_grad and p.dtype is real for p in module.parameters(recurse=False))


def run_fused(stage: nn.Module, features: Tensor, *, checkpointed: bool = False) -> Tensor:
    """`stage(features)`; if `checkpointed`, nothing is kept but `features`, and the rest computed again backwards."""
    output: Tensor = _Stage.apply(stage, checkpointed, features, *stage.parameters())
    return output


def _dtype(features: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else features.dtype


class _Stage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stage: nn.Module, checkpointed: bool, features: Tensor, *parameters: Tensor) -> Tensor:
        ctx.dtype, ctx.stage = _dtype(features), stage
        images = features.to(ctx.dtype).contiguous(memory_format=CHANNELS_LAST)
        output, node = _compute(stage, images, moves=True)
        ctx.save_for_backward(images, *parameters)  # these so that a change to them before `backward` is an error
        ctx.node = None if checkpointed else node
        ctx.input_dtype = features.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, *parameters = ctx.saved_tensors
        node, ctx.node = ctx.node, None
        with torch.autocast("cpu", enabled=False):
            if node is None:  # checkpointed, or a second time through a retained graph
                _, node = _compute(ctx.stage, images, moves=False)
            gradient = gradient.to(ctx.dtype).contiguous(memory_format=CHANNELS_LAST)
            before = node.backward(images, gradient, None, wanted=ctx.needs_input_grad[2])
        if before is not None:
            before = before.to(ctx.input_dtype)
        return None, None, before, *(node.run.gradients[parameter] for parameter in parameters)


class _Run:
    """What the nodes of a stage have in common in one pass forwards and back."""

    def __init__(self, dtype: torch.dtype, moves: bool) -> None:
        self.dtype, self.moves = dtype, moves
        self.kernels = cast(Kernels, load_kernels(dtype))
        self.gradients: dict[Tensor, Tensor] = {}

    def weight(self, conv: nn.Conv2d) -> Tensor:
        return conv.weight.detach().to(self.dtype)


def _compute(stage: nn.Module, images: Tensor, *, moves: bool) -> tuple[Tensor, _Node]:
    """The stage's output and what is kept for its gradient; `moves`: running statistics do."""
    with torch.autocast("cpu", enabled=False):
        node = _node(stage, _Run(images.dtype, moves))
        output = _empty(images, _shape(stage, images.shape[1:]))
        node.forward(images, output)
    return output, node


class _Node(ABC):
    """A part of a stage: `forward` once, then `backward` once."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    @abstractmethod
    def forward(self, images: Tensor, output: Tensor) -> None:
        """Compute `output`, which may be a slice of channels, and keep what `backward` needs but for `images`."""

    @abstractmethod
    def backward(self, images: Tensor, gradient: Tensor, total: Tensor | None, *, wanted: bool) -> Tensor | None:
        """Note the parameters' gradients; return `total` plus that of `images` if it is `wanted`, perhaps in place."""


def _node(module: nn.Module, run: _Run) -> _Node:
    match module:
        case ConvNormReLU():
            return _Layer(module, run)
        case nn.MaxPool2d():
            return _MaxPool(run)
        case Concatenate():
            return _Branches(module, run)
        case nn.Sequential():
            return _chain(list(module), run)
    raise TypeError(f"no stage is made of {type(module).__name__}")


def _chain(modules: list[nn.Module], run: _Run) -> _Node:
    return _node(modules[0], run) if len(modules) == 1 else _Chain(modules, run)


def _shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width that `module` makes of `shape`."""
    channels, height, width = shape
    match module:
        case ConvNormReLU(conv=conv):
            (pad_height, pad_width), (rows, columns) = cast(tuple[int, int], conv.padding), conv.kernel_size
            height = (height + 2 * pad_height - rows) // conv.stride[0] + 1
            return conv.out_channels, height, (width + 2 * pad_width - columns) // conv.stride[1] + 1
        case nn.MaxPool2d():
            return channels, (height - 3) // 2 + 1, (width - 3) // 2 + 1
        case Concatenate():
            shapes = [_shape(branch, shape) for branch in module]
            return sum(c for c, _, _ in shapes), *shapes[0][1:]
        case nn.Sequential():
            for part in module:
                shape = _shape(part, shape)
            return cast(tuple[int, int, int], shape)
    return channels, height, width


def _empty(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(len(images), *shape, dtype=images.dtype, memory_format=CHANNELS_LAST)


class _NormReLU:
    """Batch norm and ReLU on a convolution's output, which is kept, and which its gradient overwrites."""

    def __init__(self, norm: nn.BatchNorm2d, images: Tensor, output: Tensor, run: _Run) -> None:
        self.norm, self.images, self.run = norm, images, run
        self.mean, variance = run.kernels.moments(images)
        self.count = images.numel() // images.size(1)
        if run.moves:
            _move(norm, self.mean, variance * (self.count / (self.count - 1)))
        self.inverse = (variance + norm.eps).rsqrt()
        self.scale = norm.weight.detach() * self.inverse
        self.shift = norm.bias.detach() - self.mean * self.scale
        self.rectify(output)

    def rectify(self, output: Tensor) -> None:
        self.run.kernels.rectify(self.images, self.scale, self.shift, output)

    def output(self) -> Tensor:
        """What was computed, once more."""
        output = _empty(self.images, self.images.shape[1:])
        self.rectify(output)
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        factors = (self.scale, self.shift, self.mean)
        sums, products = self.run.kernels.gradient_sums(self.images, gradient, *factors)
        products *= self.inverse
        self.run.gradients[self.norm.bias], self.run.gradients[self.norm.weight] = sums, products
        slope = products * (self.inverse / self.count)
        self.run.kernels.gradient(self.images, gradient, *factors, sums / self.count, slope, self.images)
        return self.images


def _move(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Running statistics follow, the variance as an unbiased one."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)
    norm.num_batches_tracked += 1


def _convolve(images: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
    output = torch.conv2d(images, weight, None, conv.stride, cast(tuple[int, int], conv.padding))
    return output.contiguous(memory_format=CHANNELS_LAST)


def _is_product(conv: nn.Conv2d) -> bool:
    """Whether it is a product of matrices, pixel by pixel."""
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1)


def _convolution_gradients(
    images: Tensor, gradient: Tensor, weight: Tensor, conv: nn.Conv2d, run: _Run, *, wanted: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradients of the images, if they are `wanted`, and of the weights."""
    geometry = (None, conv.stride, conv.padding, (1, 1), False, (0, 0), 1)
    backward = torch.ops.aten.convolution_backward
    before = None
    if wanted:
        before = backward(gradient, images, weight, *geometry, (True, False, False))[0]
        before = before.contiguous(memory_format=CHANNELS_LAST)
    if _is_product(conv) and images.dtype is not torch.bfloat16:
        rows, columns = gradient.permute(0, 2, 3, 1).flatten(0, 2), images.permute(0, 2, 3, 1).flatten(0, 2)
        product = rows.T @ columns
        # With the strides of a weight, channels last: otherwise torch copies it, and DistributedDataParallel warns.
        return before, product.view(len(product), 1, 1, -1).permute(0, 3, 1, 2)
    ours = run.kernels.weight_gradient(images, gradient, conv)
    if ours is not None:
        return before, ours
    return before, backward(gradient, images, weight, *geometry, (False, True, False))[1]


class _Layer(_Node):
    def __init__(self, layer: ConvNormReLU, run: _Run) -> None:
        super().__init__(run)
        self.layer = layer

    def forward(self, images: Tensor, output: Tensor) -> None:
        convolved = _convolve(images, self.run.weight(self.layer.conv), self.layer.conv)
        self.after = _NormReLU(self.layer.norm, convolved, output, self.run)

    def backward(self, images: Tensor, gradient: Tensor, total: Tensor | None, *, wanted: bool) -> Tensor | None:
        conv = self.layer.conv
        convolved = self.after.backward(gradient)
        del self.after
        before, weight = _convolution_gradients(images, convolved, self.run.weight(conv), conv, self.run, wanted=wanted)
        self.run.gradients[conv.weight] = weight.to(conv.weight.dtype)
        return before if total is None or before is None else total.add_(before)


class _MaxPool(_Node):
    def forward(self, images: Tensor, output: Tensor) -> None:
        self.run.kernels.max_pool(images, output)

    def backward(self, images: Tensor, gradient: Tensor, total: Tensor | None, *, wanted: bool) -> Tensor | None:
        if not wanted:
            return total
        if total is None:
            total = torch.zeros_like(images)
        self.run.kernels.max_pool_gradient(images, gradient, total)
        return total


class _Chain(_Node):
    def __init__(self, modules: list[nn.Module], run: _Run) -> None:
        super().__init__(run)
        self.modules = modules
        self.nodes = [_node(module, run) for module in modules]
        self.between: list[Tensor | None] = []

    def forward(self, images: Tensor, output: Tensor) -> None:
        *first, last = self.nodes
        for node, module in zip(first, self.modules, strict=False):
            result = _empty(images, _shape(module, images.shape[1:]))
            node.forward(images, result)
            self.between.append(None if isinstance(node, _Layer) else result)
            images = result
        last.forward(images, output)

    def backward(self, images: Tensor, gradient: Tensor, total: Tensor | None, *, wanted: bool) -> Tensor | None:
        while len(self.nodes) > 1:
            node, inputs, previous = self.nodes.pop(), self.between.pop(), self.nodes[-1]
            if inputs is None:
                assert isinstance(previous, _Layer)
                inputs = previous.after.output()
            before = node.backward(inputs, gradient, None, wanted=True)
            assert before is not None
            gradient = before
        return self.nodes.pop().backward(images, gradient, total, wanted=wanted)


class _Head:
    """The beginning of a branch, a 1 x 1 convolution whose output is given, and the rest of the branch."""

    def __init__(self, layer: ConvNormReLU, pooled: bool, rest: list[nn.Module], run: _Run) -> None:
        self.layer, self.pooled, self.run = layer, pooled, run
        self.rest = _chain(rest, run) if rest else None

    def forward(self, convolved: Tensor, output: Tensor) -> None:
        self.convolved = convolved
        if self.pooled:
            convolved = _empty(convolved, convolved.shape[1:])
            self.run.kernels.average_pool(self.convolved, convolved)
        result = output if self.rest is None else _empty(convolved, convolved.shape[1:])
        self.after = _NormReLU(self.layer.norm, convolved, result, self.run)
        if self.rest is not None:
            self.rest.forward(result, output)

    def backward(self, gradient: Tensor) -> None:
        """The convolution's output gives way to its gradient."""
        if self.rest is not None:
            before = self.rest.backward(self.after.output(), gradient, None, wanted=True)
            assert before is not None
            gradient = before
        gradient = self.after.backward(gradient)
        if self.pooled:
            self.run.kernels.average_pool(gradient, self.convolved, backwards=True)


class _Branches(_Node):
    """Branches on one input. Those that begin with a 1 x 1 convolution, be it behind a mean pool, share that one."""

    def __init__(self, branches: Concatenate, run: _Run) -> None:
        super().__init__(run)
        self.modules = list(branches)
        self.parts = [_head(branch, run) or _node(branch, run) for branch in branches]
        self.heads = [part for part in self.parts if isinstance(part, _Head)]

    def forward(self, images: Tensor, output: Tensor) -> None:
        self.widths = [_shape(branch, images.shape[1:])[0] for branch in self.modules]
        if self.heads:
            self.convolved = _convolve(images, self._weight(), self.heads[0].layer.conv)
            own = iter(torch.split(self.convolved, [head.layer.conv.out_channels for head in self.heads], dim=1))
        for part, result in zip(self.parts, torch.split(output, self.widths, dim=1), strict=True):
            if isinstance(part, _Head):
                part.forward(next(own), result)
            else:
                part.forward(images, result)

    def backward(self, images: Tensor, gradient: Tensor, total: Tensor | None, *, wanted: bool) -> Tensor | None:
        gradients = dict(zip(self.parts, torch.split(gradient, self.widths, dim=1), strict=True))
        for head in self.heads:
            head.backward(gradients.pop(head))
        if self.heads:
            conv = self.heads[0].layer.conv
            before, weight = _convolution_gradients(
                images, self.convolved, self._weight(), conv, self.run, wanted=wanted
            )
            del self.convolved
            total = before if total is None or before is None else total.add_(before)
            convs = [head.layer.conv for head in self.heads]
            for conv, part in zip(convs, torch.split(weight, [conv.out_channels for conv in convs]), strict=True):
                self.run.gradients[conv.weight] = part.to(conv.weight.dtype)
        # A pool adds to what is there, so that there had better be something.
        for node in sorted(gradients, key=lambda node: isinstance(node, _MaxPool)):
            assert isinstance(node, _Node)
            total = node.backward(images, gradients[node], total, wanted=wanted)
        return total

    def _weight(self) -> Tensor:
        return torch.cat([self.run.weight(head.layer.conv) for head in self.heads])


def _head(branch: nn.Module, run: _Run) -> _Head | None:
    """The branch as one whose first convolution can be shared, or None."""
    parts = list(branch) if isinstance(branch, nn.Sequential) else [branch]
    pooled = isinstance(parts[0], nn.AvgPool2d)
    layer, *rest = parts[1:] if pooled else parts
    if isinstance(layer, ConvNormReLU) and _is_product(layer.conv):
        return _Head(layer, pooled, rest, run)
    return None
