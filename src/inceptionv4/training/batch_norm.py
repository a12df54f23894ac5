"""Running statistics of batch norms, for steps whose batch goes through the network in micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inceptionv4.runtime.distributed import Ranks


class BatchNormStatistics:
    """Moves the running means and variances once a step, by the mean over all parts, on whatever process they are.

    A norm by itself moves them with each part that it sees. Then they would depend on how a batch is divided, and
    differ from process to process. Each part here starts from the values before the step instead, and the results are
    averaged by their number of images: the outcome is the same for n parts in one process and one part in each of n.
    """

    def __init__(self, network: nn.Module) -> None:
        self.values: list[Tensor] = []
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                assert module.running_mean is not None
                assert module.running_var is not None
                self.values += [module.running_mean, module.running_var]
        self._before = [torch.empty_like(value) for value in self.values]
        self._sums = [torch.empty_like(value) for value in self.values]

    @torch.no_grad()
    def begin(self) -> None:
        """Before the first part."""
        if self.values:
            torch._foreach_copy_(self._before, self.values)
            torch._foreach_zero_(self._sums)

    @torch.no_grad()
    def add(self, share: float) -> None:
        """After a part that has `share` of the step's images on all processes."""
        if self.values:
            torch._foreach_add_(self._sums, self.values, alpha=share)
        self.undo()

    @torch.no_grad()
    def undo(self) -> None:
        """Back to the values before the step."""
        if self.values:
            torch._foreach_copy_(self.values, self._before)

    @torch.no_grad()
    def end(self, ranks: Ranks) -> None:
        """After the last part."""
        if not self.values:
            return
        if ranks.count > 1:
            flat = ranks.sum(torch.cat(self._sums))
            self._sums = list(torch.split(flat, [len(value) for value in self.values]))
        torch._foreach_copy_(self.values, self._sums)
