"""Inception-v4 as data: what the layers are, not how a framework computes them.

The tables of the paper (Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the
Impact of Residual Connections on Learning", arXiv 1602.07261) are written here once, as expressions of
five immutable node kinds. `network.blocks` reads them as torch modules. Input channels are never
written down: they follow from the node before.

    Convolution   conv without bias -> batch norm (eps 1e-3) -> ReLU
    MaxPool       3 x 3, stride 2, no padding
    AveragePool   3 x 3, stride 1, padding 1, padding not counted in the mean
    Chain         one after the other
    Branches      side by side on one input, concatenated by channel
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Padding = Literal["same", "valid"]
Shape = tuple[int, int, int]
"""Channels, height, width."""

NORM_EPS = 1e-3
MIN_SIZE = 75
"""Height and width in pixels below which reduction B has nothing left to pool."""
WIDTH_STEP = 8
"""A scaled width is rounded to this many channels, which vector units like; the paper's are all multiples."""


@dataclass(frozen=True)
class Convolution:
    """`channels` outputs from a `kernel` (height, width) with a step of `stride`, then norm and ReLU."""

    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: Padding = "same"

    @property
    def pad(self) -> tuple[int, int]:
        """Rows and columns of zeros on each side."""
        height, width = self.kernel
        return (height // 2, width // 2) if self.padding == "same" else (0, 0)


@dataclass(frozen=True)
class MaxPool:
    """3 x 3, stride 2, no padding."""


@dataclass(frozen=True)
class AveragePool:
    """3 x 3, stride 1, keeping the size; zeros of the padding do not count in the mean."""


@dataclass(frozen=True)
class Chain:
    """`nodes` one after the other."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Branches:
    """`nodes` side by side on the same input, outputs concatenated by channel in this order."""

    nodes: tuple[Node, ...]


Node = Convolution | MaxPool | AveragePool | Chain | Branches


@dataclass(frozen=True)
class Stage:
    """A named part of the network; the names address it in checkpoints and settings."""

    name: str
    node: Node


def conv(channels: int, kernel: int | tuple[int, int], stride: int = 1, padding: Padding = "same") -> Convolution:
    height_width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return Convolution(channels, height_width, stride, padding)


def chain(*nodes: Node) -> Chain:
    return Chain(nodes)


def branches(*nodes: Node) -> Branches:
    return Branches(nodes)


max_pool = MaxPool()
avg_pool = AveragePool()

# Shapes: channels x height x width for a 299 x 299 image. Figure numbers are the paper's.

# Figure 3
stem = chain(
    conv(32, 3, stride=2, padding="valid"),  #  32 x 149 x 149
    conv(32, 3, padding="valid"),  #  32 x 147 x 147
    conv(64, 3),  #  64 x 147 x 147
    branches(
        max_pool,
        conv(96, 3, stride=2, padding="valid"),
    ),  # 160 x 73 x 73
    branches(
        chain(conv(64, 1), conv(96, 3, padding="valid")),
        chain(conv(64, 1), conv(64, (1, 7)), conv(64, (7, 1)), conv(96, 3, padding="valid")),
    ),  # 192 x 71 x 71
    branches(
        conv(192, 3, stride=2, padding="valid"),
        max_pool,
    ),  # 384 x 35 x 35
)

# Figure 4
inception_a = branches(
    conv(96, 1),
    chain(conv(64, 1), conv(96, 3)),
    chain(conv(64, 1), conv(96, 3), conv(96, 3)),
    chain(avg_pool, conv(96, 1)),
)  # 384 x 35 x 35

# Figure 7 with Table 1: k, l, m, n = 192, 224, 256, 384
reduction_a = branches(
    conv(384, 3, stride=2, padding="valid"),
    chain(conv(192, 1), conv(224, 3), conv(256, 3, stride=2, padding="valid")),
    max_pool,
)  # 1024 x 17 x 17

# Figure 5
inception_b = branches(
    conv(384, 1),
    chain(conv(192, 1), conv(224, (1, 7)), conv(256, (7, 1))),
    chain(conv(192, 1), conv(192, (7, 1)), conv(224, (1, 7)), conv(224, (7, 1)), conv(256, (1, 7))),
    chain(avg_pool, conv(128, 1)),
)  # 1024 x 17 x 17

# Figure 8
reduction_b = branches(
    chain(conv(192, 1), conv(192, 3, stride=2, padding="valid")),
    chain(conv(256, 1), conv(256, (1, 7)), conv(320, (7, 1)), conv(320, 3, stride=2, padding="valid")),
    max_pool,
)  # 1536 x 8 x 8

# Figure 6
inception_c = branches(
    conv(256, 1),
    chain(conv(384, 1), branches(conv(256, (1, 3)), conv(256, (3, 1)))),
    chain(conv(384, 1), conv(448, (3, 1)), conv(512, (1, 3)), branches(conv(256, (1, 3)), conv(256, (3, 1)))),
    chain(avg_pool, conv(256, 1)),
)  # 1536 x 8 x 8

# Figure 9, up to the average pool
STAGES = (
    Stage("stem", stem),
    *(Stage(f"inception_a{i}", inception_a) for i in range(1, 5)),
    Stage("reduction_a", reduction_a),
    *(Stage(f"inception_b{i}", inception_b) for i in range(1, 8)),
    Stage("reduction_b", reduction_b),
    *(Stage(f"inception_c{i}", inception_c) for i in range(1, 4)),
)


def widen(node: Node, width: float) -> Node:
    """The same node with every convolution's channels times `width`, in steps of `WIDTH_STEP`, at least one step."""
    match node:
        case Convolution(channels=channels):
            return replace(node, channels=max(1, round(channels * width / WIDTH_STEP)) * WIDTH_STEP)
        case Chain(nodes) | Branches(nodes):
            return replace(node, nodes=tuple(widen(part, width) for part in nodes))
        case _:
            return node


def output_shape(node: Node, shape: Shape) -> Shape:
    """Channels, height and width that come out when `shape` goes in. A size below 1 means: too small."""
    channels, height, width = shape
    match node:
        case Convolution(kernel=(kernel_height, kernel_width), stride=stride, pad=(pad_height, pad_width)):
            return (
                node.channels,
                (height + 2 * pad_height - kernel_height) // stride + 1,
                (width + 2 * pad_width - kernel_width) // stride + 1,
            )
        case MaxPool():
            return channels, (height - 3) // 2 + 1, (width - 3) // 2 + 1
        case AveragePool():
            return shape
        case Chain(nodes):
            for part in nodes:
                shape = output_shape(part, shape)
            return shape
        case Branches(nodes):
            shapes = [output_shape(part, shape) for part in nodes]
            return sum(c for c, _, _ in shapes), shapes[0][1], shapes[0][2]


def stage_shapes(shape: Shape, stages: Sequence[Stage] = STAGES) -> dict[str, Shape]:
    """The output of every stage, by its name, for an image of `shape`."""
    shapes = {}
    for stage in stages:
        shape = output_shape(stage.node, shape)
        shapes[stage.name] = shape
    return shapes
