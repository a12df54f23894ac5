"""A stage of which nothing is kept for the gradient but its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
