"""How the trials before a training are shown."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from inceptionv4.cli.console import print_json, say
from inceptionv4.config import Config
from inceptionv4.printable import note
from inceptionv4.training.probe import Plan, find_batch_size, find_learning_rate, make_plan
from inceptionv4.training.schedule import describe_growth


def show_plan(config: Config, seconds: float, json: bool) -> None:
    note(f"trying a training for {seconds:g} seconds ...")
    plan = make_plan(config, seconds)
    if json:
        print_json(asdict(plan))
        return
    rows = {
        "device": plan.device,
        "batch": f"{plan.batch_size} images{_parts(plan)}",
        **({"size": growth} if (growth := describe_growth(config)) else {}),
        "memory": f"{_gigabytes(plan.memory_bytes)} of {_gigabytes(plan.memory_total_bytes)}; "
        f"{plan.largest_part} images would fit at once{_advice(plan)}",
        "loader": f"{plan.loader_images_per_second:.1f} img/s",
        "network": f"{plan.compute_images_per_second:.1f} img/s",
        "together": f"{plan.images_per_second:.1f} img/s{_bottleneck(plan)}",
        "training": f"{_duration(plan.training_hours)} for {config.schedule.epochs} epochs",
        "evaluation": f"{_duration(plan.evaluation_hours)}, once an epoch",
        "disk": f"{_gigabytes(plan.disk_bytes)} for {config.checkpoint.keep} states and the best model",
    }
    for name, text in rows.items():
        say(f"{name:<11} {text}")


def show_batch_size(config: Config) -> None:
    largest = find_batch_size(config)
    say(f"{largest} images of {config.image.size} px fit into the memory at once")
    if largest < 2:
        say("less than a step needs: take smaller images (--image.size) or a narrower network (--model.width)")
    elif largest < config.training.batch_size:
        say(
            f"a batch of {config.training.batch_size} fits in parts: {_accumulate(config.training.batch_size, largest)}"
        )


def show_rates(config: Config) -> None:
    test = find_learning_rate(config)
    shown = range(0, len(test.rates), max(len(test.rates) // 12, 1))
    low, high = min(test.losses), max(test.losses)
    for number in shown:
        bar = "#" * (1 + round(40 * (min(test.losses[number], high) - low) / max(high - low, 1e-9)))
        say(f"{test.rates[number]:9.2g}  {test.losses[number]:7.3f}  {bar}")
    rate = f"{test.suggestion:.2g}"
    say(f"lowest loss at {10 * test.suggestion:.2g}; try a tenth: --optimizer.lr {rate} (now {test.now:.2g})")


def _parts(plan: Plan) -> str:
    return f", in parts of {plan.part_size}" if plan.part_size < plan.batch_size else ""


def _advice(plan: Plan) -> str:
    if plan.largest_part >= plan.part_size:
        return ""
    if plan.largest_part < 2:
        return "; take smaller images (--image.size) or a narrower network (--model.width)"
    return f"; use {_accumulate(plan.batch_size, plan.largest_part)}"


def _accumulate(batch_size: int, largest: int) -> str:
    return f"--training.accumulate {-(-batch_size // largest)}"


def _bottleneck(plan: Plan) -> str:
    if plan.loader_images_per_second < plan.compute_images_per_second:
        return "; the loader is what is slow: try --data.workers, or `inceptionv4 data pack`"
    return ""


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _duration(hours: float) -> str:
    return str(timedelta(seconds=round(hours * 3600)))
