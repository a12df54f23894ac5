"""Inception-v4 as a torch module, and activation checkpointing of its stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inceptionv4.network.architecture import MIN_SIZE, widen
from inceptionv4.network.blocks import ConvNormReLU as ConvNormReLU
from inceptionv4.network.blocks import build as build
from inceptionv4.network.blocks import channels_after
from inceptionv4.network.recompute import can_recompute, run_recomputing
from inceptionv4.network.variants import ARCHITECTURES, Architecture


class InceptionV4(nn.Module):
    """Inception-v4 (arXiv 1602.07261, figure 9): 149 convolutions, 42,679,816 parameters at its defaults.

    Takes float images `(B, in_channels, H, W)`, `H` and `W` at least 75, normalised; returns logits
    `(B, num_classes)`.

    Args:
        num_classes: outputs of the classifier.
        in_channels: planes of an image.
        dropout: probability of dropping a pooled feature. The paper keeps 80 %, so drops 0.2.
        width: factor on every convolution's channels (in steps of 8); 1.0 is the paper's network.
        architecture: one of `network.variants`, for weights that need another than the authors' own.

    Attributes:
        checkpointed: whether training keeps the input of each stage only, and computes the rest twice.

    Raises:
        ValueError: an argument out of range; in `forward`, images of the wrong shape.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        dropout: float = 0.2,
        width: float = 1.0,
        architecture: Architecture = "inception-v4",
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes and in_channels must be at least 1, got {num_classes} and {in_channels}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if width <= 0:
            raise ValueError(f"width must be above 0, got {width}")
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
        self.in_channels = in_channels
        self.checkpointed = False
        channels = in_channels
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for stage in ARCHITECTURES[architecture]:
            node = widen(stage.node, width)
            stages[stage.name] = build(node, channels)
            channels = channels_after(node, channels)
        self.num_features = channels
        self.features = nn.Sequential(stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all weights anew from torch's global generator.

        Convolutions: normal with variance 2 / fan_in (He et al., arXiv 1502.01852, section 2.2), which keeps the
        second moment through a convolution and its ReLU, so that 149 layers neither fade nor explode.

        Norms: scale one, shift one. A shift of zero would cut every ReLU's input in half, and through batch norm
        that makes gradients grow by a fifth a layer towards the image; a ReLU that is kept near its linear range
        does not (Yang et al., "A Mean Field Theory of Batch Normalization", arXiv 1902.08129). Without residual
        connections it decides how soon the network begins to learn.

        The classifier starts near zero (normal, 0.01), so that the first loss is the logarithm of the number of
        classes.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                nn.init.ones_(module.weight)
                nn.init.ones_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images `(B, in_channels, H, W)` to feature maps `(B, 1536, h, w)`; 8 x 8 at 299 x 299."""
        check_images(images.shape, self.in_channels)
        features = images
        for stage in self.features:
            features = self._run(stage, features)
        return features

    def _run(self, stage: nn.Module, features: Tensor) -> Tensor:
        compute: Callable[[Tensor], Tensor] = stage
        if can_recompute(stage, features):
            compute = partial(run_recomputing, stage)
        if self.checkpointed and self.training and torch.is_grad_enabled():
            return run_checkpointed(stage, compute, features)
        return compute(features)

    def embed(self, images: Tensor) -> Tensor:
        """Images `(B, in_channels, H, W)` to pooled features `(B, 1536)`, before dropout."""
        return self.forward_features(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, in_channels, H, W)` to logits `(B, num_classes)`."""
        logits: Tensor = self.classifier(self.dropout(self.embed(images)))
        return logits


def check_images(shape: torch.Size, in_channels: int) -> None:
    """Raise ValueError unless `shape` is `(B, in_channels, H, W)` with H and W of at least 75."""
    expected = f"(B, {in_channels}, H, W) with H and W of at least {MIN_SIZE}"
    if len(shape) != 4 or shape[1] != in_channels or min(shape[2:]) < MIN_SIZE:
        raise ValueError(f"images must be {expected}, got {tuple(shape)}")


def run_checkpointed(stage: nn.Module, compute: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """`compute(features)`, done a second time for the gradient, in which `stage`'s running statistics stay."""
    output: Tensor = checkpoint(
        compute,
        features,
        use_reentrant=False,
        preserve_rng_state=False,  # no stage draws at random
        context_fn=lambda: (nullcontext(), _resting_statistics(stage)),
    )
    return output


@contextmanager
def _resting_statistics(stage: nn.Module) -> Iterator[None]:
    norms = [module for module in stage.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, batches) in zip(norms, before, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if batches is None else batches.clone()
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
