"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from inceptionv4.config import Config


def learning_rate(step: int, config: Config, steps_per_epoch: int) -> float:
    """The learning rate of optimizer step `step`, from 0: a linear rise to the peak, then a cosine to its end.

    The first step of the rise already moves; the last step of training is one short of `final_factor`.
    """
    peak = config.optimizer.lr
    total = config.schedule.epochs * steps_per_epoch
    warmup = round(config.schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    final = config.schedule.final_factor
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
