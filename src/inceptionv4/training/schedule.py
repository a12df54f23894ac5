"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from inceptionv4.config import Config

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000
"""Of the peak, at both ends of one cycle: torch's OneCycleLR, after arXiv 1708.07120."""


def learning_rate(step: int, config: Config, steps_per_epoch: int, batch_size: int | None = None) -> float:
    """The learning rate of optimizer step `step`, from 0: a linear rise to the peak, then as `schedule.name` says.

    With t from 0 to 1 between the end of the warm-up and the end of the training, f the final factor, n the epochs
    since the beginning, d the decay factor and m the decay epochs:

        cosine        f + (1 - f) (1 + cos pi t) / 2
        linear        f + (1 - f) (1 - t)
        exponential   d^(n / m), continuous
        step          d^floor(n / m), the paper's (arXiv 1602.07261, section 4: 0.94 every two epochs)
        one_cycle     a cosine from 1/25 up to the peak in the warm-up, and one down to 1/250,000
        constant      1

    The first step of a rise already moves; the last step of training is one short of the end. `batch_size` is that of
    all processes together as it is used, which with few images is less than `training.batch_size`, what is taken if it
    is not given.
    """
    schedule, peak = config.schedule, peak_rate(config, batch_size)
    total = schedule.epochs * steps_per_epoch
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.name == "one_cycle":
        if step < warmup:
            return peak * _cosine(ONE_CYCLE_START, 1, step / warmup)
        return peak * _cosine(1, ONE_CYCLE_END, (step - warmup) / (total - warmup))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    decays = step / steps_per_epoch / schedule.decay_epochs
    factors: dict[str, float] = {
        "cosine": _cosine(1, schedule.final_factor, progress),
        "linear": 1 + (schedule.final_factor - 1) * progress,
        "exponential": schedule.decay_factor**decays,
        "step": schedule.decay_factor ** math.floor(decays + 1e-9),  # two epochs are two, though divided
        "constant": 1.0,
    }
    return peak * factors[schedule.name]


def peak_rate(config: Config, batch_size: int | None = None) -> float:
    """The learning rate at its peak: `optimizer.lr`, changed from `optimizer.reference_batch` to `batch_size`.

    For k times the batch it is k times as high for SGD (arXiv 1706.02677) and for RMSprop, which the paper's epsilon of
    one makes much the same; root k times for AdamW, whose step does not shrink with the gradient's noise
    (arXiv 2205.10287). The batch is that of all processes together, so that their number changes nothing.
    """
    reference = config.optimizer.reference_batch
    if reference is None:
        return config.optimizer.lr
    ratio = (batch_size or config.training.batch_size) / reference
    return config.optimizer.lr * (math.sqrt(ratio) if config.optimizer.name == "adamw" else ratio)


def image_size(epoch: int, config: Config) -> int:
    """Height and width of the images in an epoch, from 0, px: from about `schedule.first_size` up to `image.size`.

    It grows evenly over three quarters of the epochs, in steps of the network's whole stride, 32, so that all sizes
    meet the image's edge alike. The steps are counted down from `image.size`, so that the first epoch gets the smallest
    such size that is not below `schedule.first_size`: 171 px for 160 and 299. Small images first cost less and teach as
    much ("EfficientNetV2", arXiv 2104.00298, section 4; "Fixing the train-test resolution discrepancy", arXiv
    1906.06423).
    """
    first, last = config.schedule.first_size, config.image.size
    if first is None:
        return last
    left = max(1 - epoch / max(0.75 * config.schedule.epochs, 1), 0)
    return last - 32 * int((last - first) * left / 32)


def describe_growth(config: Config) -> str:
    """What a training says of images that change their size, `images grow from 171 to 299 px`; empty if none do."""
    first, last = image_size(0, config), image_size(config.schedule.epochs - 1, config)
    if first < last:
        return f"images grow from {first} to {last} px"
    return "" if last == config.image.size else f"images of {last} px, too few epochs to grow to {config.image.size}"


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` at 0 to `end` at 1, flat at both."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
