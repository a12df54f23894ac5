"""Other projects' networks, written down after their sources with the names of their variables, run in float64.

Arrays are made at random when a layer first asks for them, norms' statistics too, so that nothing of the package under
test is in them. Images are `(B, 3, H, W)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]


class Arrays(dict[str, Tensor]):
    """Random arrays by name, float64; made once."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)

    def normal(self, name: str, shape: Shape, deviation: float) -> Tensor:
        if name not in self:
            self[name] = deviation * torch.randn(shape, generator=self.random, dtype=torch.float64)
        return self[name]

    def uniform(self, name: str, size: int) -> Tensor:
        if name not in self:
            self[name] = 0.5 + torch.rand(size, generator=self.random, dtype=torch.float64)
        return self[name]

    def norm(self, x: Tensor, gamma: str | None, beta: str, mean: str, variance: str, eps: float) -> Tensor:
        size = x.shape[1]
        scale = torch.ones(size, dtype=torch.float64) if gamma is None else self.uniform(gamma, size)
        center, spread = self.normal(mean, (size,), 0.1), self.uniform(variance, size)
        return F.batch_norm(x, center, spread, scale, self.normal(beta, (size,), 0.1), eps=eps)


def same(x: Tensor, kernel: tuple[int, int]) -> tuple[int, int]:
    return kernel[0] // 2, kernel[1] // 2


def average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


def cat(*parts: Tensor) -> Tensor:
    return torch.cat(parts, 1)


class Zoo:
    """model_zoo/official/cv/inceptionv4/src/inceptionv4.py of MindSpore 1.x, without its log-softmax."""

    def __init__(self, classes: int = 1000) -> None:
        self.arrays, self.classes = Arrays(), classes

    def conv(self, x: Tensor, name: str, out: int, kernel: int | tuple[int, int], stride: int = 1, pad: str = "valid"):
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        deviation = math.sqrt(2 / (x.shape[1] * size[0] * size[1]))
        weight = self.arrays.normal(f"{name}.conv.conv.weight", (out, x.shape[1], *size), deviation)
        x = F.conv2d(x, weight, stride=stride, padding=same(x, size) if pad == "same" else 0)
        names = (f"{name}.conv.batchnorm.{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance"))
        return self.arrays.norm(x, *names, eps=1e-5).relu()

    def row(self, x: Tensor, name: str, layers: Iterable[tuple], start: int = 0) -> Tensor:
        for number, layer in enumerate(layers, start):
            x = self.conv(x, f"{name}.{number}", *layer)
        return x

    def stem(self, x: Tensor, name: str) -> Tensor:
        x = self.conv(x, f"{name}.conv2d_1a_3x3", 32, 3, 2)
        x = self.conv(x, f"{name}.conv2d_2a_3x3", 32, 3)
        x = self.conv(x, f"{name}.conv2d_2b_3x3", 64, 3, 1, "same")
        x = cat(pool(x), self.conv(x, f"{name}.mixed_3a_branch_1", 96, 3, 2))
        right = [(64, 1), (64, (1, 7), 1, "same"), (64, (7, 1), 1, "same"), (96, 3)]
        x = cat(
            self.row(x, f"{name}.mixed_4a_branch_0", [(64, 1), (96, 3)]),
            self.row(x, f"{name}.mixed_4a_branch_1", right),
        )
        return cat(self.conv(x, f"{name}.mixed_5a_branch_0", 192, 3, 2), pool(x))

    def a(self, x: Tensor, name: str) -> Tensor:
        return cat(
            self.conv(x, f"{name}.branch_0", 96, 1),
            self.row(x, f"{name}.branch_1", [(64, 1), (96, 3, 1, "same")]),
            self.row(x, f"{name}.branch_2", [(64, 1), (96, 3, 1, "same"), (96, 3, 1, "same")]),
            self.row(average(x), f"{name}.branch_3", [(96, 1)], 1),
        )

    def reduction_a(self, x: Tensor, name: str) -> Tensor:
        middle = [(192, 1), (224, 3, 1, "same"), (256, 3, 2)]
        return cat(self.conv(x, f"{name}.branch_0", 384, 3, 2), self.row(x, f"{name}.branch_1", middle), pool(x))

    def b(self, x: Tensor, name: str) -> Tensor:
        wide, high = (1, 7), (7, 1)
        two = [(192, 1), (192, high, 1, "same"), (224, wide, 1, "same"), (224, high, 1, "same"), (256, wide, 1, "same")]
        return cat(
            self.conv(x, f"{name}.branch_0", 384, 1),
            self.row(x, f"{name}.branch_1", [(192, 1), (224, wide, 1, "same"), (256, high, 1, "same")]),
            self.row(x, f"{name}.branch_2", two),
            self.row(average(x), f"{name}.branch_3", [(128, 1)], 1),
        )

    def reduction_b(self, x: Tensor, name: str) -> Tensor:
        middle = [(256, 1), (256, (1, 7), 1, "same"), (320, (7, 1), 1, "same"), (320, 3, 2)]
        return cat(
            self.row(x, f"{name}.branch_0", [(192, 1), (192, 3, 2)]), self.row(x, f"{name}.branch_1", middle), pool(x)
        )

    def c(self, x: Tensor, name: str) -> Tensor:
        one = self.conv(x, f"{name}.branch_1", 384, 1)
        two = self.row(x, f"{name}.branch_2", [(384, 1), (448, (3, 1), 1, "same"), (512, (1, 3), 1, "same")])
        return cat(
            self.conv(x, f"{name}.branch_0", 256, 1),
            self.conv(one, f"{name}.branch_1_1", 256, (1, 3), 1, "same"),
            self.conv(one, f"{name}.branch_1_2", 256, (3, 1), 1, "same"),
            self.conv(two, f"{name}.branch_2_1", 256, (1, 3), 1, "same"),
            self.conv(two, f"{name}.branch_2_2", 256, (3, 1), 1, "same"),
            self.row(average(x), f"{name}.branch_3", [(256, 1)], 1),
        )

    def __call__(self, x: Tensor) -> Tensor:
        blocks = [self.stem, *[self.a] * 4, self.reduction_a, *[self.b] * 7, self.reduction_b, *[self.c] * 3]
        for number, block in enumerate(blocks):
            x = block(x, f"features.{number}")
        x, parts = x.mean((2, 3)), ("gamma", "beta", "moving_mean", "moving_variance")
        x = self.arrays.norm(x, *(f"bn0.{part}" for part in parts), eps=1e-3)
        weight = self.arrays.normal("softmax.dense.weight", (self.classes, 1536), 0.03)
        x = F.linear(x, weight, self.arrays.normal("softmax.dense.bias", (self.classes,), 0.1))
        return self.arrays.norm(x, *(f"softmax.batchnorm.{part}" for part in parts), eps=1e-5)


class Slim:
    """research/slim/nets/inception_v4.py of TensorFlow's models."""

    def __init__(self, classes: int = 1001) -> None:
        self.arrays, self.classes = Arrays(), classes

    def conv(self, x: Tensor, scope: str, out: int, kernel: tuple[int, int], stride: int = 1, pad: str = "SAME"):
        deviation = math.sqrt(2 / (x.shape[1] * kernel[0] * kernel[1]))
        weight = self.arrays.normal(f"{scope}/weights", (*kernel, x.shape[1], out), deviation).permute(3, 2, 0, 1)
        x = F.conv2d(x, weight, stride=stride, padding=same(x, kernel) if pad == "SAME" else 0)
        names = (f"{scope}/BatchNorm/{part}" for part in ("beta", "moving_mean", "moving_variance"))
        return self.arrays.norm(x, None, *names, eps=1e-3).relu()

    def branch(self, x: Tensor, scope: str, layers: str) -> Tensor:
        """`0a_1x1:64 1a_3x3:96/2v`: scope's end, outputs, and where not 1 and SAME, stride and VALID."""
        for layer in layers.split():
            name, _, rest = layer.partition(":")
            height, width = map(int, name.split("_")[1].split("x"))
            out, _, stride = rest.rstrip("v").partition("/")
            pad = "VALID" if rest.endswith("v") else "SAME"
            x = self.conv(x, f"{scope}/Conv2d_{name}", int(out), (height, width), int(stride or 1), pad)
        return x

    def a(self, x: Tensor, scope: str) -> Tensor:
        return cat(
            self.branch(x, f"{scope}/Branch_0", "0a_1x1:96"),
            self.branch(x, f"{scope}/Branch_1", "0a_1x1:64 0b_3x3:96"),
            self.branch(x, f"{scope}/Branch_2", "0a_1x1:64 0b_3x3:96 0c_3x3:96"),
            self.branch(average(x), f"{scope}/Branch_3", "0b_1x1:96"),
        )

    def b(self, x: Tensor, scope: str) -> Tensor:
        return cat(
            self.branch(x, f"{scope}/Branch_0", "0a_1x1:384"),
            self.branch(x, f"{scope}/Branch_1", "0a_1x1:192 0b_1x7:224 0c_7x1:256"),
            self.branch(x, f"{scope}/Branch_2", "0a_1x1:192 0b_7x1:192 0c_1x7:224 0d_7x1:224 0e_1x7:256"),
            self.branch(average(x), f"{scope}/Branch_3", "0b_1x1:128"),
        )

    def c(self, x: Tensor, scope: str) -> Tensor:
        one = self.branch(x, f"{scope}/Branch_1", "0a_1x1:384")
        two = self.branch(x, f"{scope}/Branch_2", "0a_1x1:384 0b_3x1:448 0c_1x3:512")
        return cat(
            self.branch(x, f"{scope}/Branch_0", "0a_1x1:256"),
            self.branch(one, f"{scope}/Branch_1", "0b_1x3:256"),
            self.branch(one, f"{scope}/Branch_1", "0c_3x1:256"),
            self.branch(two, f"{scope}/Branch_2", "0d_1x3:256"),
            self.branch(two, f"{scope}/Branch_2", "0e_3x1:256"),
            self.branch(average(x), f"{scope}/Branch_3", "0b_1x1:256"),
        )

    def __call__(self, x: Tensor) -> Tensor:
        top = "InceptionV4"
        x = self.branch(x, top, "1a_3x3:32/2v 2a_3x3:32/1v 2b_3x3:64")
        x = cat(pool(x), self.branch(x, f"{top}/Mixed_3a/Branch_1", "0a_3x3:96/2v"))
        x = cat(
            self.branch(x, f"{top}/Mixed_4a/Branch_0", "0a_1x1:64 1a_3x3:96/1v"),
            self.branch(x, f"{top}/Mixed_4a/Branch_1", "0a_1x1:64 0b_1x7:64 0c_7x1:64 1a_3x3:96/1v"),
        )
        x = cat(self.branch(x, f"{top}/Mixed_5a/Branch_0", "1a_3x3:192/2v"), pool(x))
        for letter in "bcde":
            x = self.a(x, f"{top}/Mixed_5{letter}")
        x = cat(
            self.branch(x, f"{top}/Mixed_6a/Branch_0", "1a_3x3:384/2v"),
            self.branch(x, f"{top}/Mixed_6a/Branch_1", "0a_1x1:192 0b_3x3:224 1a_3x3:256/2v"),
            pool(x),
        )
        for letter in "bcdefgh":
            x = self.b(x, f"{top}/Mixed_6{letter}")
        x = cat(
            self.branch(x, f"{top}/Mixed_7a/Branch_0", "0a_1x1:192 1a_3x3:192/2v"),
            self.branch(x, f"{top}/Mixed_7a/Branch_1", "0a_1x1:256 0b_1x7:256 0c_7x1:320 1a_3x3:320/2v"),
            pool(x),
        )
        for letter in "bcd":
            x = self.c(x, f"{top}/Mixed_7{letter}")
        weight = self.arrays.normal(f"{top}/Logits/Logits/weights", (1536, self.classes), 0.03)
        return x.mean((2, 3)) @ weight + self.arrays.normal(f"{top}/Logits/Logits/biases", (self.classes,), 0.1)


class Paddle:
    """ppcls/arch/backbone/model_zoo/inception_v4.py of PaddleClas, as it infers: dropout multiplies by 0.8."""

    def __init__(self, classes: int = 1000) -> None:
        self.arrays, self.classes = Arrays(), classes

    def conv(self, x: Tensor, name: str, out: int, kernel: int | tuple[int, int], stride: int = 1, padding=0) -> Tensor:
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        deviation = math.sqrt(2 / (x.shape[1] * size[0] * size[1]))
        weight = self.arrays.normal(f"{name}._conv.weight", (out, x.shape[1], *size), deviation)
        x = F.conv2d(x, weight, stride=stride, padding=padding)
        names = (f"{name}._batch_norm.{part}" for part in ("weight", "bias", "_mean", "_variance"))
        return self.arrays.norm(x, *names, eps=1e-5).relu()

    def row(self, x: Tensor, name: str, layers: dict[str, tuple]) -> Tensor:
        for part, layer in layers.items():
            x = self.conv(x, f"{name}.{part}", *layer)
        return x

    def stem(self, x: Tensor, name: str) -> Tensor:
        x = self.row(x, name, {"_conv_1": (32, 3, 2), "_conv_2": (32, 3), "_conv_3": (64, 3, 1, 1)})
        x = cat(pool(x), self.conv(x, f"{name}._conv2", 96, 3, 2))
        left = self.row(x, name, {"_conv1_1": (64, 1), "_conv1_2": (96, 3)})
        right = {"_conv2_1": (64, 1), "_conv2_2": (64, (7, 1), 1, (3, 0)), "_conv2_3": (64, (1, 7), 1, (0, 3))}
        x = cat(left, self.row(x, name, right | {"_conv2_4": (96, 3)}))
        return cat(self.conv(x, f"{name}._conv3", 192, 3, 2), pool(x))

    def a(self, x: Tensor, name: str) -> Tensor:
        return cat(
            self.conv(average(x), f"{name}._conv1", 96, 1),
            self.conv(x, f"{name}._conv2", 96, 1),
            self.row(x, name, {"_conv3_1": (64, 1), "_conv3_2": (96, 3, 1, 1)}),
            self.row(x, name, {"_conv4_1": (64, 1), "_conv4_2": (96, 3, 1, 1), "_conv4_3": (96, 3, 1, 1)}),
        )

    def reduction_a(self, x: Tensor, name: str) -> Tensor:
        long = {"_conv3_1": (192, 1), "_conv3_2": (224, 3, 1, 1), "_conv3_3": (256, 3, 2)}
        return cat(pool(x), self.conv(x, f"{name}._conv2", 384, 3, 2), self.row(x, name, long))

    def b(self, x: Tensor, name: str) -> Tensor:
        wide, high = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        three = {"_conv3_1": (192, 1), "_conv3_2": (224, *wide), "_conv3_3": (256, *high)}
        four = {"_conv4_1": (192, 1), "_conv4_2": (192, *wide), "_conv4_3": (224, *high)}
        four |= {"_conv4_4": (224, *wide), "_conv4_5": (256, *high)}
        first, second = self.conv(average(x), f"{name}._conv1", 128, 1), self.conv(x, f"{name}._conv2", 384, 1)
        return cat(first, second, self.row(x, name, three), self.row(x, name, four))

    def reduction_b(self, x: Tensor, name: str) -> Tensor:
        three = {"_conv3_1": (256, 1), "_conv3_2": (256, (1, 7), 1, (0, 3)), "_conv3_3": (320, (7, 1), 1, (3, 0))}
        return cat(
            pool(x),
            self.row(x, name, {"_conv2_1": (192, 1), "_conv2_2": (192, 3, 2)}),
            self.row(x, name, three | {"_conv3_4": (320, 3, 2)}),
        )

    def c(self, x: Tensor, name: str) -> Tensor:
        wide, high = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        three = self.conv(x, f"{name}._conv3_0", 384, 1)
        four = self.row(x, name, {"_conv4_0": (384, 1), "_conv4_00": (448, *wide), "_conv4_000": (512, *high)})
        return cat(
            self.conv(average(x), f"{name}._conv1", 256, 1),
            self.conv(x, f"{name}._conv2", 256, 1),
            self.conv(three, f"{name}._conv3_1", 256, *wide),
            self.conv(three, f"{name}._conv3_2", 256, *high),
            self.conv(four, f"{name}._conv4_1", 256, *wide),
            self.conv(four, f"{name}._conv4_2", 256, *high),
        )

    def __call__(self, x: Tensor) -> Tensor:
        x = self.stem(x, "_inception_stem")
        rows: list[tuple[Callable[[Tensor, str], Tensor], str]] = [
            *((self.a, f"_inceptionA_{i}") for i in range(1, 5)),
            (self.reduction_a, "_reductionA"),
            *((self.b, f"_inceptionB_{i}") for i in range(1, 8)),
            (self.reduction_b, "_reductionB"),
            *((self.c, f"_inceptionC_{i}") for i in range(1, 4)),
        ]
        for block, name in rows:
            x = block(x, name)
        weight = self.arrays.normal("out.weight", (1536, self.classes), 0.03)
        return 0.8 * x.mean((2, 3)) @ weight + self.arrays.normal("out.bias", (self.classes,), 0.1)
