"""The model zoo's network in MindSpore, from MindSpore's own compound layers, which fetch names and numbers."""

from __future__ import annotations

from mindspore import Tensor, nn, ops


class Average(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.avg_pool = nn.AvgPool2d(3, 1, "same")

    def construct(self, x: Tensor) -> Tensor:
        return self.avg_pool(x)


class Conv(nn.Cell):
    """`mode` is valid, same, or pad for a border of one."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, mode: str = "valid"):
        super().__init__()
        border = 1 if mode == "pad" else 0
        self.conv = nn.Conv2dBnAct(
            inputs, outputs, kernel, stride, pad_mode=mode, padding=border, has_bn=True, activation="relu"
        )

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


def row(inputs: int, *layers: tuple) -> nn.SequentialCell:
    cells = []
    for layer in layers:
        cells.append(Conv(inputs, *layer))
        inputs = layer[0]
    return nn.SequentialCell(cells)


def pooled(inputs: int, outputs: int) -> nn.SequentialCell:
    return nn.SequentialCell([Average(), Conv(inputs, outputs, 1)])


class Stem(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a_3x3, self.conv2d_2a_3x3 = Conv(3, 32, 3, 2), Conv(32, 32, 3)
        self.conv2d_2b_3x3 = Conv(32, 64, 3, 1, "pad")
        self.pool, self.mixed_3a_branch_1 = nn.MaxPool2d(3, 2), Conv(64, 96, 3, 2)
        self.mixed_4a_branch_0 = row(160, (64, 1), (96, 3))
        self.mixed_4a_branch_1 = row(160, (64, 1), (64, (1, 7), 1, "same"), (64, (7, 1), 1, "same"), (96, 3))
        self.mixed_5a_branch_0 = Conv(192, 192, 3, 2)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(x)))
        x = ops.cat((self.pool(x), self.mixed_3a_branch_1(x)), 1)
        x = ops.cat((self.mixed_4a_branch_0(x), self.mixed_4a_branch_1(x)), 1)
        return ops.cat((self.mixed_5a_branch_0(x), self.pool(x)), 1)


class Four(nn.Cell):
    """Inception-A and -B."""

    def __init__(self, branches: tuple[nn.Cell, ...]) -> None:
        super().__init__()
        self.branch_0, self.branch_1, self.branch_2, self.branch_3 = branches

    def construct(self, x: Tensor) -> Tensor:
        return ops.cat((self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)), 1)


def a() -> Four:
    two = row(384, (64, 1), (96, 3, 1, "pad"), (96, 3, 1, "pad"))
    return Four((Conv(384, 96, 1), row(384, (64, 1), (96, 3, 1, "pad")), two, pooled(384, 96)))


def b() -> Four:
    wide, high = ((1, 7), 1, "same"), ((7, 1), 1, "same")
    two = row(1024, (192, 1), (192, *high), (224, *wide), (224, *high), (256, *wide))
    return Four((Conv(1024, 384, 1), row(1024, (192, 1), (224, *wide), (256, *high)), two, pooled(1024, 128)))


class Reduction(nn.Cell):
    def __init__(self, left: nn.Cell, middle: nn.Cell) -> None:
        super().__init__()
        self.branch_0, self.branch_1, self.pool = left, middle, nn.MaxPool2d(3, 2)

    def construct(self, x: Tensor) -> Tensor:
        return ops.cat((self.branch_0(x), self.branch_1(x), self.pool(x)), 1)


class C(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        wide, high = ((1, 3), 1, "same"), ((3, 1), 1, "same")
        self.branch_0, self.branch_1 = Conv(1536, 256, 1), Conv(1536, 384, 1)
        self.branch_1_1, self.branch_1_2 = Conv(384, 256, *wide), Conv(384, 256, *high)
        self.branch_2 = row(1536, (384, 1), (448, *high), (512, *wide))
        self.branch_2_1, self.branch_2_2 = Conv(512, 256, *wide), Conv(512, 256, *high)
        self.branch_3 = pooled(1536, 256)

    def construct(self, x: Tensor) -> Tensor:
        one, two = self.branch_1(x), self.branch_2(x)
        middle = (self.branch_1_1(one), self.branch_1_2(one), self.branch_2_1(two), self.branch_2_2(two))
        return ops.cat((self.branch_0(x), *middle, self.branch_3(x)), 1)


class Inceptionv4(nn.Cell):
    """Returns the logarithms of probabilities."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        middle_a = row(384, (192, 1), (224, 3, 1, "pad"), (256, 3, 2))
        middle_b = row(1024, (256, 1), (256, (1, 7), 1, "same"), (320, (7, 1), 1, "same"), (320, 3, 2))
        blocks = [Stem(), *(a() for _ in range(4)), Reduction(Conv(384, 384, 3, 2), middle_a)]
        blocks += [*(b() for _ in range(7)), Reduction(row(1024, (192, 1), (192, 3, 2)), middle_b)]
        self.features = nn.SequentialCell([*blocks, *(C() for _ in range(3))])
        self.softmax = nn.DenseBnAct(1536, classes, has_bias=True, has_bn=True, activation="logsoftmax")
        self.bn0 = nn.BatchNorm1d(1536, eps=0.001, momentum=0.1)

    def construct(self, x: Tensor) -> Tensor:
        return self.softmax(self.bn0(self.features(x).mean((2, 3))))
