"""Losses on dense targets, mixup and CutMix, which make such targets, and a teacher, whose logits are targets, too."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, one_hot

from inceptionv4.config import AugmentConfig, LossConfig
from inceptionv4.data.samples import Samples
from inceptionv4.errors import UsageError
from inceptionv4.imagenet import canonical
from inceptionv4.runtime.device import Device
from inceptionv4.spec import Preprocessing
from inceptionv4.weights.checkpoint import digest_tensors
from inceptionv4.weights.load import load_model


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
    """Weights of the classes, float32 `(classes,)`: `n / (K n_k)` for `n_k` of all n images in K classes; or None.

    An image counts one on average over the data, as scikit-learn's "balanced" has it. A class without images never
    occurs; its weight is 0.
    """
    if config.class_weights == "none":
        return None
    counts = torch.from_numpy(samples.counts)
    occurring = (counts > 0).sum()
    weights = torch.where(counts > 0, len(samples) / (occurring * counts), 0.0)
    return weights.to(device.device, torch.float32)


def mix(
    images: Tensor, targets: Tensor, augment: AugmentConfig, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix images `(B, 3, H, W)` and targets `(B, K)`, each with that of the opposite place in the batch.

    A share l is drawn from Beta(a, a). Mixup (arXiv 1710.09412) is `l x + (1 - l) y`; CutMix (arXiv 1905.04899) pastes
    on x a box of y, of share 1 - l of the area, whose middle is anywhere and whose outside is cut off. Targets are
    mixed by the share that is really shown. Where both are asked for, each batch gets one of them at random.
    """
    if not (augment.mixup or augment.cutmix) or len(images) < 2:
        return images, targets
    cut = generator.random() < 0.5 if augment.mixup and augment.cutmix else bool(augment.cutmix)
    alpha = augment.cutmix if cut else augment.mixup
    share = float(generator.beta(alpha, alpha))
    if cut:
        height, width = images.shape[2:]
        top, bottom = _span(height, math.sqrt(1 - share), generator)
        left, right = _span(width, math.sqrt(1 - share), generator)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = share * images + (1 - share) * images.flip(0)
    return mixed, share * targets + (1 - share) * targets.flip(0)


def _span(length: int, share: float, generator: np.random.Generator) -> tuple[int, int]:
    """Both ends of a share of a length, about a middle that is anywhere in it."""
    half, middle = round(length * share) / 2, int(generator.integers(length))
    return max(math.floor(middle - half), 0), min(math.floor(middle + half), length)


class Teacher:
    """Answers for the very images that the student sees, mixed ones included ("a good teacher is patient and
    consistent", arXiv 2106.05237).
    """

    def __init__(self, model: str, classes: tuple[str, ...], student: Preprocessing, device: Device) -> None:
        """Raises:
        UsageError: there is no such model, or it has other classes.
        CheckpointError: it is damaged.
        """
        network, checkpoint = load_model(model)
        self.digest = digest_tensors(checkpoint.weights)
        """SHA-256 of the weights, by which a resumed run knows its teacher again."""
        if canonical(checkpoint.spec.classes) != canonical(classes):
            raise UsageError(
                f"the teacher {model} answers in other classes than the data have; train a teacher on the same data"
            )
        device.place(network)
        self.network, self.device = network.requires_grad_(False), device
        own = checkpoint.spec.preprocessing

        def planes(values: tuple[float, float, float]) -> Tensor:
            return torch.tensor(values, device=device.device).view(1, 3, 1, 1)

        # The student's normalisation is undone and the teacher's done, in one.
        self._scale = planes(student.std) / planes(own.std)
        self._shift = (planes(student.mean) - planes(own.mean)) / planes(own.std)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The student's input, float32 `(B, 3, H, W)`, to float32 logits `(B, K)`."""
        with self.device.autocast():
            logits: Tensor = self.network(images * self._scale + self._shift)
        return logits.float()
