"""What is minimised: losses on dense targets, so that smoothed and mixed labels are nothing special."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, one_hot

from inceptionv4.config import LossConfig
from inceptionv4.data.samples import Samples
from inceptionv4.runtime.device import Device


class Loss:
    """The sum of a loss over images, to be divided by `weight` of all images of a step.

    For logits z, with p their softmax, targets t that are smoothed by s to `(1 - s) t + s / K`, and class weights w:

        cross_entropy   - sum_k w_k t_k log p_k                        (torch's, weights and smoothing included)
        focal           - sum_k w_k t_k (1 - p_k)^gamma log p_k        (arXiv 1708.02002, equation 4, for K classes)
        bce             the mean over classes of the binary cross entropies of sigmoid(z_k), times the image's weight
                        (arXiv 2110.00476, section 3)

    With a teacher's logits u, a share a and a temperature T, the sum is `(1 - a)` of the above and a of
    `T^2 KL(softmax(u / T) || softmax(z / T))`, times the image's weight (arXiv 1503.02531).
    """

    def __init__(self, config: LossConfig, classes: int, class_weights: Tensor | None = None) -> None:
        self.config, self.classes, self.class_weights = config, classes, class_weights

    def targets(self, labels: Tensor) -> Tensor:
        """int64 `(B,)` to float32 `(B, K)`, one at the label."""
        return one_hot(labels, self.classes).to(torch.float32)

    def weight(self, labels: Tensor) -> float:
        """How much images with these labels, int64 `(B,)`, count together, mixed or not: B without class weights."""
        if self.class_weights is None:
            return float(len(labels))
        return float(self.class_weights[labels.to(self.class_weights.device)].sum())

    def __call__(self, logits: Tensor, targets: Tensor, teacher: Tensor | None = None) -> Tensor:
        """float32 logits, targets and a teacher's logits, all `(B, K)`, to the sum of the losses, a scalar."""
        loss = self._labels(logits, targets)
        if teacher is None:
            return loss
        share, temperature = self.config.teacher_share, self.config.teacher_temperature
        theirs, ours = ((values / temperature).log_softmax(1) for values in (teacher, logits))
        divergence = kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        if self.class_weights is not None:
            divergence = divergence * (targets @ self.class_weights)
        return (1 - share) * loss + share * temperature**2 * divergence.sum()

    def _labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        smooth = (1 - self.config.smoothing) * targets + self.config.smoothing / self.classes
        if self.config.name == "bce":
            losses = binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1)
            return (losses if self.class_weights is None else losses * (targets @ self.class_weights)).sum()
        log_p = logits.log_softmax(1)
        if self.class_weights is not None:
            smooth = smooth * self.class_weights
        if self.config.name == "focal":
            smooth = smooth * (1 - log_p.exp()).clamp_min(0) ** self.config.focal_gamma
        return -(smooth * log_p).sum()


def class_weights(samples: Samples, config: LossConfig, device: Device) -> Tensor | None:
    """Of the loss, float32 `(classes,)`: `n / (K n_k)` for a class of `n_k` of all n images in K classes; or None.

    An image counts one on average over the data, as scikit-learn's "balanced" has it. A class without images never
    occurs; its weight is 0.
    """
    if config.class_weights == "none":
        return None
    counts = torch.from_numpy(samples.counts)
    occurring = (counts > 0).sum()
    weights = torch.where(counts > 0, len(samples) / (occurring * counts), 0.0)
    return weights.to(device.device, torch.float32)
