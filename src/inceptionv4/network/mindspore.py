"""A rewritten network as MindSpore's cells, module by module, with its weights.

Importing this module needs MindSpore.
"""

from __future__ import annotations

from collections import OrderedDict

import mindspore as ms
from torch import Tensor, nn

from inceptionv4.network import blocks, layers


class InceptionV4(ms.nn.Cell):
    """What a network of `build_inference_graph` computes, in MindSpore; its weights are copied.

    Takes float32 images `(B, 3, H, W)`, normalised; returns logits `(B, num_classes)`.
    """

    def __init__(self, rewritten: layers.InceptionV4) -> None:
        super().__init__()
        self.features = build(rewritten.features)
        self.classifier = build(rewritten.classifier)

    def construct(self, images: ms.Tensor) -> ms.Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


class FromPixels(ms.nn.Cell):
    """uint8 `(B, H, W, 3)` to the logits of `network`, which takes pixels of 0 to 255 as floats."""

    def __init__(self, network: InceptionV4) -> None:
        super().__init__()
        self.network = network

    def construct(self, images: ms.Tensor) -> ms.Tensor:
        return self.network(ms.ops.cast(ms.ops.transpose(images, (0, 3, 1, 2)), ms.float32))


class Concatenate(ms.nn.SequentialCell):
    """Cells side by side on one input, their outputs concatenated by channel.

    A list of cells would be the word, but in graph mode a cell that is a list cannot be called.
    """

    def construct(self, images: ms.Tensor) -> ms.Tensor:
        outputs: tuple[ms.Tensor, ...] = ()
        for branch in self.cell_list:
            outputs += (branch(images),)
        return ms.ops.cat(outputs, axis=1)


def build(module: nn.Module) -> ms.nn.Cell:
    """The cell that computes what `module` does, with a copy of its weights.

    Raises:
        TypeError: no rewritten network has such a module.
    """
    match module:
        case nn.Sequential():
            return ms.nn.SequentialCell(OrderedDict((name, build(part)) for name, part in module.named_children()))
        case blocks.Concatenate():
            return Concatenate([build(branch) for branch in module])
        case nn.Conv2d():
            assert isinstance(module.padding, tuple)
            height, width = module.padding
            return ms.nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                stride=module.stride,
                pad_mode="pad",
                padding=(height, height, width, width),
                has_bias=True,
                weight_init=_copy(module.weight),
                bias_init=_copy(module.bias),
            )
        case nn.ReLU():
            return ms.nn.ReLU()
        case nn.MaxPool2d():
            return ms.nn.MaxPool2d(3, stride=2)
        case nn.AvgPool2d():
            # "same" leaves the padding out of the mean, as the architecture wants it.
            return ms.nn.AvgPool2d(3, stride=1, pad_mode="same")
        case nn.Linear():
            return ms.nn.Dense(
                module.in_features,
                module.out_features,
                weight_init=_copy(module.weight),
                bias_init=_copy(module.bias),
            )
        case _:
            raise TypeError(f"a {type(module).__name__} is in no rewritten network")


def _copy(weights: Tensor | None) -> ms.Tensor:
    assert weights is not None
    return ms.Tensor(weights.detach().cpu().float().contiguous().numpy())
