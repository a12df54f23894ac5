"""Which settings a run may go on with: its own, and of others only what does not change its result.

Settings are compared by their values; comments, order and spelling of `config.yaml` count for nothing. What a state was
trained with is read from the state itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from inceptionv4.config import Config, PrecisionOption
from inceptionv4.errors import ConfigError, UsageError
from inceptionv4.runtime.storage import PathOrUri
from inceptionv4.settings import Given, build, flatten
from inceptionv4.training.schedule import learning_rate

MAY_CHANGE = (
    "data.path",  # of the same images: they are compared by themselves
    "data.workers",
    "schedule.epochs",  # to more of them
    "training.device",
    "training.tracker",
    "checkpoint.keep",
    "checkpoint.every_minutes",
    "recipe",  # names the folder of new runs
    "output",
)
"""Settings that a run may go on with other values of."""
PRECISIONS = ("training.precision", "training.eval_precision")
"""Settings whose `auto` is whatever the run began with; old states may hold it, too."""


def settle(asked: Config, begun: Config, run: PathOrUri) -> tuple[Config, list[str]]:
    """The settings that a run goes on with, which began with `begun`, where `asked` are wished for.

    Returns them, and in words what changes.

    Raises:
        UsageError: what is asked for would change the result; every such setting is named.
    """
    old, new = flatten(begun), flatten(asked)
    if refused := [f"{name} {_show(new[name])} (begun with {_show(old[name])})" for name in differences(asked, begun)]:
        raise UsageError(
            f"{run} cannot go on with {', '.join(refused)}: that would be another training. Leave "
            f"{'it' if len(refused) == 1 else 'them'} out; or begin a new run from its model and with its other "
            f"settings, by adding `--model.weights {run}`"
        )
    own = {name.partition(".")[2]: old[name] for name in PRECISIONS if old[name] != "auto"}
    kept = replace(asked, recipe=begun.recipe, training=replace(asked.training, **own))
    changed = [name for name, value in flatten(kept).items() if value != old[name] and name != "output"]
    return kept, [f"{name}: {_show(old[name])} before, {_show(new[name])} from here on" for name in changed]


def differences(asked: Config, begun: Config) -> list[str]:
    """The settings in which `asked` differs from `begun` so that a run cannot go on."""
    old, new = flatten(begun), flatten(asked)
    return [
        name
        for name, value in new.items()
        if value != old[name]
        and not (name in MAY_CHANGE and (name != "schedule.epochs" or value > old[name]))
        and not (name in PRECISIONS and "auto" in (value, old[name]))
    ]


def recorded_settings(training: Mapping[str, Any], where: str, precision: PrecisionOption | None) -> Config:
    """The settings in a state, as its `training` has them; `where` names it in errors.

    Versions before 0.17 wrote `precision: auto` into them, and had no `eval_precision`: they evaluated in the
    precision that they trained in. `precision` is what the run's environment says of it.

    Raises:
        UsageError: another version wrote them, with settings that are gone.
    """
    given = {name: Given(value, where) for name, value in _leaves(training.get("config") or {})}
    own = given.get(PRECISIONS[0], Given("auto", where)).value
    if own == "auto" and precision is not None:
        own = precision
    given[PRECISIONS[0]] = Given(own, where)
    given.setdefault(PRECISIONS[1], Given(own, where))
    try:
        return build(Config, given)
    except ConfigError as error:
        raise UsageError(f"{where} was written by another version of this program: {error}") from None


def describe_rate(begun: Config, config: Config, step: int, steps_per_epoch: int, batch_size: int) -> str:
    """How the learning rate goes on where there are more epochs than before; "" where there are not.

    The schedule is a function of the step and the settings. So the rate from here on is that of a training which had
    all the epochs from its beginning; what was trained before keeps what it had.
    """
    if begun.schedule.epochs == config.schedule.epochs:
        return ""
    last, following = (
        learning_rate(max(step - 1, 0), begun, steps_per_epoch, batch_size),
        learning_rate(step, config, steps_per_epoch, batch_size),
    )
    return (
        f"the learning rate goes on as in a training of {config.schedule.epochs} epochs: "
        f"{following:.3g} in the next step, after {last:.3g} in the last one"
    )


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """List the values of nested mappings as `section.key` and value."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _show(value: object) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)
