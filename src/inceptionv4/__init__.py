"""Inception-v4, from a folder of labelled images to a classifier that answers.

    Classifier      a trained model: `Classifier.load("runs/digits/1")(["a.jpg"])`
    create_model    the network with weights from anywhere, a torch module that knows its classes and preprocessing
    InceptionV4     the network alone, a torch module
    train           settings in, run folder out
    evaluate        model and data in, metrics out
    load_config     a recipe with overrides

Names are imported when they are first used: `inceptionv4 --help` does without torch.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inceptionv4.config import load_config as load_config
    from inceptionv4.evaluation.evaluate import evaluate as evaluate
    from inceptionv4.inference.classifier import Classifier as Classifier
    from inceptionv4.network.layers import InceptionV4 as InceptionV4
    from inceptionv4.training.loop import train as train
    from inceptionv4.weights.create import create_model as create_model

_HOMES = {
    "Classifier": "inceptionv4.inference.classifier",
    "InceptionV4": "inceptionv4.network.layers",
    "create_model": "inceptionv4.weights.create",
    "evaluate": "inceptionv4.evaluation.evaluate",
    "load_config": "inceptionv4.config",
    "train": "inceptionv4.training.loop",
}
__all__ = ["Classifier", "InceptionV4", "create_model", "evaluate", "load_config", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("inceptionv4")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
