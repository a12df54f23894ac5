"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from inceptionv4.config import Config

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000
"""Of the peak, at both ends of one cycle: torch's OneCycleLR, after arXiv 1708.07120."""


def learning_rate(step: int, config: Config, steps_per_epoch: int) -> float:
    """The learning rate of optimizer step `step`, from 0: a linear rise to the peak, then as `schedule.name` says.

    With t from 0 to 1 between the end of the warm-up and the end of the training, f the final factor, n the epochs
    since the beginning, d the decay factor and m the decay epochs:

        cosine        f + (1 - f) (1 + cos pi t) / 2
        linear        f + (1 - f) (1 - t)
        exponential   d^(n / m), continuous
        step          d^floor(n / m), the paper's (arXiv 1602.07261, section 4: 0.94 every two epochs)
        one_cycle     a cosine from 1/25 up to the peak in the warm-up, and one down to 1/250,000
        constant      1

    The first step of a rise already moves; the last step of training is one short of the end.
    """
    schedule, peak = config.schedule, config.optimizer.lr
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


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` at 0 to `end` at 1, flat at both."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
