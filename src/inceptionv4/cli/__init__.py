"""The command line: one subcommand, one function. Nothing here computes; heavy modules are imported when needed."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter

from inceptionv4.cli.console import Flag, complain, print_json, speaks
from inceptionv4.cli.convert import app as convert_app
from inceptionv4.cli.data import app as data_app
from inceptionv4.cli.doctor import doctor
from inceptionv4.cli.export import export
from inceptionv4.cli.predictions import print_csv, print_json_lines, print_table
from inceptionv4.errors import Error, ImageError, StoppedError

if TYPE_CHECKING:
    from inceptionv4.config import Config

app = App(
    name="inceptionv4",
    help="Inception-v4, from a folder of labelled images to a classifier that answers.",
    version=lambda: __import__("inceptionv4").__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

app.command(data_app)
app.command(convert_app)
app.command(export)
app.command(doctor)


@app.command
def train(
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    recipe: str | None = None,
    config: Path | None = None,
    data: str | None = None,
    resume: str | None = None,
    find_lr: Flag = False,
    find_batch_size: Flag = False,
    print_config: Flag = False,
) -> None:
    """Train a classifier, with any setting changed by --section.key value (--print-config lists them).

    Parameters
    ----------
    recipe
        Named settings: digits (the embedded images) or finetune (your own; the default).
    config
        A file of settings, such as a run's config.yaml.
    data
        Labelled images: a folder, .zip, .tar, .csv or .parquet of them, shards, digits, or a URI such as s3://... of
        shards, a .zip or a .tar. Short for --data.path.
    resume
        A run folder or its URI, whose training goes on; or auto: the newest run with these settings, if there is one.
    find_lr
        Try rising learning rates for up to 100 steps, print one to use, and stop.
    find_batch_size
        Try a few sizes, print how many images the memory takes at once, and stop.
    print_config
        Print the resolved settings, each with its meaning, and stop.
    """
    from inceptionv4.settings import dump

    if resume not in (None, "auto") and recipe is None and config is None:
        from inceptionv4.runtime.shelf import bring
        from inceptionv4.runtime.storage import join, plain

        config = bring(join(plain(resume), "config.yaml"))
    resolved = resolve(settings, recipe, config, data)
    if print_config:
        print(dump(resolved), end="")
        return
    if find_lr or find_batch_size:
        from inceptionv4.cli.plans import show_batch_size, show_rates

        show_rates(resolved) if find_lr else show_batch_size(resolved)
        return
    from inceptionv4.training.loop import train as run_training
    from inceptionv4.training.run import find_run

    run = run_training(resolved, run=find_run(resolved, resume))
    if speaks():
        print(run)


@app.command
def plan(
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    recipe: str | None = None,
    config: Path | None = None,
    data: str | None = None,
    seconds: float = 30.0,
    json: Flag = False,
) -> None:
    """Try a training for half a minute, and say what all of it takes: memory, hours, disk, and what is slow.

    Parameters
    ----------
    recipe, config, data
        As for train, with any setting changed by --section.key value.
    seconds
        About how long to try.
    json
        Print one object.
    """
    from inceptionv4.cli.plans import show_plan

    show_plan(resolve(settings, recipe, config, data), seconds, json)


@app.command
def plot(run: Path, /) -> None:
    """Draw the curves of a run anew, from its log: loss, accuracy, learning rate, images a second.

    Parameters
    ----------
    run
        A run folder such as runs/digits/1, whose training may be going on.
    """
    from inceptionv4.errors import RunError, UsageError
    from inceptionv4.training.plots import draw_curves

    if not (run / "results.csv").is_file():
        raise UsageError(f"{run} is no run folder: it has no results.csv; give one such as runs/digits/1")
    if hint := draw_curves(run):
        raise RunError(hint)
    print(run / "plots" / "curves.png")


def resolve(settings: tuple[str, ...], recipe: str | None, config: Path | None, data: str | None) -> Config:
    """The settings of a training from what stands on the command line."""
    from inceptionv4.config import load_config
    from inceptionv4.settings import Given, read_options

    overrides = read_options(settings)
    if data is not None:
        overrides["data.path"] = Given(data, "--data")
    return load_config(recipe, config, overrides)


@app.command
def evaluate(model: str, /, *, data: str, json: Flag = False, device: str = "auto") -> None:
    """Measure a model on labelled images: top-1, top-5 and loss over all of them.

    Parameters
    ----------
    model
        A run folder such as runs/digits/1, a folder of runs (the newest counts), a file of weights, of other projects
        too, hf-hub:OWNER/NAME, or a URI of one such as s3://...
    data
        A folder, .zip, .tar, .csv or .parquet of labelled images, shards, or digits. What it holds out counts, if any.
    json
        Print one object: top1, top5, loss, images.
    device
        auto, cpu, or a device of torch's.
    """
    from inceptionv4.evaluation.evaluate import evaluate as measure

    evaluation = measure(model, data, device=device)
    if not speaks():
        return
    if json:
        print_json(asdict(evaluation.metrics))
    else:
        print(f"{evaluation.metrics}: {evaluation.images}")


@app.command
def predict(
    model: str, /, *images: str, top: int = 5, json: Flag = False, csv: Flag = False, device: str = "auto"
) -> None:
    """Name what is in images.

    Parameters
    ----------
    model
        A run folder such as runs/digits/1, a folder of runs (the newest counts), a file of weights, of other projects
        too, hf-hub:OWNER/NAME, or a URI of one such as s3://...
    images
        Image files, and folders of them.
    top
        How many classes to name for each image, best first.
    json
        Print an object a line: file, predictions (class, probability).
    csv
        Print a table with the columns file, rank, class, probability.
    device
        auto, cpu, or a device of torch's.
    """
    from inceptionv4.errors import UsageError
    from inceptionv4.inference.classifier import Classifier, find_images
    from inceptionv4.inference.together import predict_together
    from inceptionv4.runtime.device import select_device
    from inceptionv4.runtime.distributed import join_ranks

    if json and csv:
        raise UsageError("give --json or --csv, not both")
    if not images:
        raise UsageError("no images given: `inceptionv4 predict MODEL IMAGE...`")
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}")
    files = find_images(images)
    classifier = Classifier.load(model, device=device)
    show = print_json_lines if json else print_csv if csv else print_table
    with join_ranks(select_device("cpu")) as ranks:  # answers are all that they exchange
        predictions = predict_together(partial(classifier.predict, top=top), files, ranks)
        bad = show(predictions) if ranks.first else sum(prediction.error is not None for prediction in predictions)
    if bad:
        raise ImageError(f"{bad} of {len(files)} images could not be read; the others are answered above")


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM leaves by the front door, so that half-written files are removed."""
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that `inceptionv4.errors` lists. `--debug` shows tracebacks."""
    tokens = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    signal.signal(signal.SIGTERM, terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names are bytes, not always UTF-8
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        complain(f"{error}\nTry `inceptionv4 --help`.")
        sys.exit(2)
    except StoppedError as stopped:
        if speaks():
            print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except Error as error:
        if debug:
            raise
        complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough, as `head` does.
        sys.stdout = None
        sys.exit(0)
    sys.exit(0)
