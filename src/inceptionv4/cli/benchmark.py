"""`inceptionv4 benchmark`: what this machine does in a second."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from inceptionv4.cli.console import Flag, Setting, print_json, resolve, say
from inceptionv4.config import PrecisionOption, RuntimeOption
from inceptionv4.errors import UsageError
from inceptionv4.printable import note

if TYPE_CHECKING:
    from inceptionv4.benchmark import LoadingSpeed, PredictionSpeed, Speed, TrainingSpeed

app = App(
    name="benchmark",
    help="Measure how fast this machine trains, answers and loads images.",
    help_format="plaintext",
)

Rounds = Annotated[int, Parameter(help="How many rounds to time.")]


@app.command
def train(
    *settings: Setting,
    recipe: str | None = None,
    config: Path | None = None,
    data: str | None = None,
    rounds: Rounds = 5,
    json: Flag = False,
) -> None:
    """Time training steps, a step a round, on noise that is in memory: the images play no role, their classes do.

    Parameters
    ----------
    recipe, config, data
        As for train, with any setting changed by --section.key value.
    json
        Print one object.
    """
    _begin(rounds)
    from inceptionv4.benchmark import measure_training

    speed = measure_training(resolve(settings, recipe, config, data), rounds)
    _show(speed, {"first step": f"{speed.first_step_seconds:.2f} s", "memory": _gigabytes(speed)}, json)


@app.command
def predict(
    model: str,
    /,
    *images: str,
    rounds: Rounds = 5,
    json: Flag = False,
    device: str = "auto",
    precision: PrecisionOption | None = None,
    runtime: RuntimeOption | None = None,
) -> None:
    """Time a model from image files to labels, four batches a round, and beside it the model alone.

    Parameters
    ----------
    model, images, device, precision, runtime
        As for predict, without a list on standard input. Of the images, the first few hundred at most are used.
    json
        Print one object.
    """
    _begin(rounds)
    if not images:
        raise UsageError("no images given: `inceptionv4 benchmark predict MODEL IMAGE...`")
    from inceptionv4.benchmark import measure_prediction

    speed = measure_prediction(model, images, device=device, precision=precision, runtime=runtime, rounds=rounds)
    rest = {
        "model alone": _words(speed.model_images_per_second),
        "share": f"{speed.share_of_model:.0%} of the model alone",
        "runtime": speed.runtime,
    }
    for number, (name, found) in enumerate(speed.tried.items(), start=1):
        rest[f"tried {number}"] = f"{name}: {found if isinstance(found, str) else f'{found:.1f} img/s'}"
    _show(speed, rest, json)


@app.command
def loader(
    *settings: Setting,
    recipe: str | None = None,
    config: Path | None = None,
    data: str | None = None,
    rounds: Rounds = 5,
    json: Flag = False,
) -> None:
    """Time a training's loader, from files to batches, two seconds a round.

    Parameters
    ----------
    recipe, config, data
        As for train, with any setting changed by --section.key value.
    json
        Print one object.
    """
    _begin(rounds)
    from inceptionv4.benchmark import measure_loading

    speed = measure_loading(resolve(settings, recipe, config, data), rounds)
    _show(speed, {"images": f"{speed.images}", "workers": f"{speed.workers}"}, json)


def _begin(rounds: int) -> None:
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")
    note(f"timing {rounds} rounds ...")


def _show(speed: TrainingSpeed | PredictionSpeed | LoadingSpeed, rest: dict[str, str], json: bool) -> None:
    if json:
        print_json(asdict(speed))
        return
    rows = {"speed": _words(speed.images_per_second), **rest}
    rows["batch"] = f"{speed.batch_size} images of {speed.image_size} px"
    for name, text in rows.items():
        say(f"{name:<11} {text}")


def _words(speed: Speed) -> str:
    return f"{speed.median:.1f} img/s ({speed.slowest:.1f} to {speed.fastest:.1f})"


def _gigabytes(speed: TrainingSpeed) -> str:
    return f"{speed.peak_memory_bytes / 1e9:.1f} GB"
