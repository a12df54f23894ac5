"""Stages that a training leaves as they are: neither their weights nor their norms' statistics move."""

from __future__ import annotations

import difflib

from inceptionv4.errors import ConfigError
from inceptionv4.network.architecture import STAGES
from inceptionv4.network.layers import InceptionV4

NAMES = tuple(stage.name for stage in STAGES)


def frozen_stages(text: str | None) -> tuple[str, ...]:
    """The stages that `training.freeze` names: one, or a range such as `stem..reduction_a`, both ends included.

    Raises:
        ConfigError: there is no such stage, or the range runs backwards.
    """
    if text is None:
        return ()
    first, _, last = text.partition("..")
    places = []
    for name in (first, last or first):
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
            raise ConfigError(f"training.freeze names no stage with {name!r}; {known}")
        places.append(NAMES.index(name))
    if places[0] > places[1]:
        raise ConfigError(f"training.freeze runs from the image to the classifier, got {text!r}")
    return NAMES[places[0] : places[1] + 1]


def freeze(network: InceptionV4, stages: tuple[str, ...]) -> None:
    """Take the stages out of the training, once and for all."""
    for stage in stages:
        network.features.get_submodule(stage).requires_grad_(False)


def train_mode(network: InceptionV4, stages: tuple[str, ...]) -> None:
    """Training mode but for the frozen stages, whose norms use what they have learnt."""
    network.train()
    for stage in stages:
        network.features.get_submodule(stage).eval()
