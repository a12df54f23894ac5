"""The command line: one subcommand, one function. Nothing here computes; heavy modules are imported when needed."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from inceptionv4.cli.benchmark import app as benchmark_app
from inceptionv4.cli.console import (
    Flag,
    Setting,
    is_rank_zero,
    print_error,
    print_json,
    print_path,
    resolve,
    say,
)
from inceptionv4.cli.convert import app as convert_app
from inceptionv4.cli.data import ReadAs
from inceptionv4.cli.data import app as data_app
from inceptionv4.cli.doctor import doctor
from inceptionv4.cli.export import export
from inceptionv4.cli.predictions import predict_and_show, print_csv, print_json_lines, print_table
from inceptionv4.cli.serve import serve
from inceptionv4.cli.streams import flush_output, reader_left, take_streams
from inceptionv4.config import PrecisionOption, RuntimeOption
from inceptionv4.data.options import AS_FOUND
from inceptionv4.errors import Error, OutputError, StoppedError
from inceptionv4.printable import note
from inceptionv4.runtime.files import settle_home
from inceptionv4.runtime.lack import is_lack_of_memory
from inceptionv4.runtime.launcher import read_launch
from inceptionv4.runtime.process import end, handle

FEW_CORES = 8
"""A laptop's, which other programs use too."""
HELP = {"--help", "-h", "--version"}
Tta = Literal["flip", "crops12", "crops144"] | None

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
app.command(serve)
app.command(benchmark_app)
app.command(doctor)


@app.command
def train(
    *settings: Setting,
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
        With --model.weights MODEL, a new run begins from that model with the settings of the run.
    find_lr
        Try rising learning rates for up to 100 steps, print one to use, and stop.
    find_batch_size
        Try a few sizes, print how many images the memory takes at once, and stop.
    print_config
        Print the resolved settings, each with its meaning, and stop.
    """
    from inceptionv4.settings import dump, read_options

    if resume is not None and resume != "auto" and recipe is None and config is None:
        from inceptionv4.training.run.find import fetch_settings

        config = fetch_settings(resume)
    resolved = resolve(settings, recipe, config, data)
    if print_config:
        print(dump(resolved), end="")
        return
    if find_lr or find_batch_size:
        from inceptionv4.cli.plans import show_batch_size, show_rates

        show_rates(resolved) if find_lr else show_batch_size(resolved)
        return
    from inceptionv4.training.loop import train as run_training
    from inceptionv4.training.run.find import find_run

    if resume != "auto" and "model.weights" in read_options(settings):
        resume = None  # a new run, with the settings of that one
    run = run_training(resolved, run=find_run(resolved, resume))
    if is_rank_zero():
        print_path(run)


@app.command
def plan(
    *settings: Setting,
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
    from inceptionv4.errors import UsageError

    if not 0 < seconds <= 86400:
        raise UsageError(f"--seconds must be above 0 and at most 86400, a day, got {seconds:g}")
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
    print_path(run / "plots" / "curves.png")


@app.command
def evaluate(
    model: str,
    /,
    *,
    data: str,
    tta: Tta = None,
    json: Flag = False,
    device: str = "auto",
    precision: PrecisionOption | None = None,
    runtime: RuntimeOption | None = None,
    options: ReadAs = AS_FOUND,
) -> None:
    """Measure a model on labelled images: top-1, top-5 and loss over all of them.

    Parameters
    ----------
    model
        A run folder such as runs/digits/1, a folder of runs (the newest counts), a file of weights, of other projects
        too, hf-hub:OWNER/NAME, or a URI of one such as s3://...
    data
        A folder, .zip, .tar, .csv or .parquet of labelled images, shards, or digits. What it holds out counts, if any.
    tta
        Average over crops of each image: flip (2), crops12 or crops144, at as many times the cost.
    json
        Print one object: top1, top5, loss, images, runtime, precision.
    device
        auto, cpu, or a device of torch's.
    precision
        fp32 for weights if not given; bf16, fp16, or auto: bf16 where device and runtime compute in it, else fp32.
    runtime
        torch for weights if not given; onnxruntime, openvino, or auto: the fastest, by a trial at the start.
    """
    from inceptionv4.evaluation.evaluate import evaluate as measure

    evaluation = measure(model, data, tta=tta, device=device, precision=precision, runtime=runtime, options=options)
    if not is_rank_zero():
        return
    if json:
        answered_by = {"runtime": evaluation.runtime, "precision": evaluation.precision}
        print_json(asdict(evaluation.metrics) | answered_by)
    else:
        say(f"{evaluation.metrics}: {evaluation.images}, by {evaluation.runtime}")


@app.command
def predict(
    model: str,
    /,
    *images: Annotated[str, Parameter(allow_leading_hyphen=True)],
    top: int = 5,
    tta: Tta = None,
    json: Flag = False,
    csv: Flag = False,
    embeddings: Path | None = None,
    device: str = "auto",
    precision: PrecisionOption | None = None,
    runtime: RuntimeOption | None = None,
) -> None:
    """Name what is in images.

    Parameters
    ----------
    model
        A run folder such as runs/digits/1, a folder of runs (the newest counts), a file of weights, of other projects
        too, hf-hub:OWNER/NAME, or a URI of one such as s3://...
    images
        Files, folders, .zip and .tar archives, patterns such as 'photos/**/*.jpg', http(s) addresses, and - for a list
        of these on standard input.
    top
        How many classes to name for each image, best first.
    tta
        Average over crops of each image: flip (2), crops12 or crops144, at as many times the cost.
    json
        Print an object a line: file, predictions (class, probability).
    csv
        Print a table with the columns file, rank, class, probability.
    embeddings
        Write the features before the classifier, too, to this .npy or .parquet file.
    device
        auto, cpu, or a device of torch's.
    precision
        fp32 for weights if not given; bf16, fp16, or auto: bf16 where device and runtime compute in it, else fp32.
    runtime
        torch for weights if not given; onnxruntime, openvino, or auto: the fastest, by a trial at the start.
    """
    from inceptionv4.errors import UsageError
    from inceptionv4.inference.classifier import Classifier
    from inceptionv4.inference.embeddings import check_suffix
    from inceptionv4.inference.images import check_places

    for image in images:
        if image.startswith("-") and image != "-":
            raise UsageError(f"unknown option: {image}; a file of that name is given as ./{image}")
    if json and csv:
        raise UsageError("give --json or --csv, not both")
    if not images:
        raise UsageError("no images given: `inceptionv4 predict MODEL IMAGE...`")
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}")
    if embeddings is not None:
        check_suffix(embeddings)
    check_places(images)
    if embeddings is not None and runtime == "auto":
        raise UsageError("--embeddings come from PyTorch; leave --runtime auto out")
    classifier = Classifier.load(model, device=device, precision=precision, runtime=runtime)
    show = print_json_lines if json else print_csv if csv else print_table
    hints = precision is None and runtime is None and embeddings is None  # features come from PyTorch alone
    predict_and_show(classifier, images, show, top=top, tta=tta, embeddings=embeddings, hints=hints)


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM and SIGHUP leave by the front door, so that half-written files are removed."""
    raise SystemExit(128 + number)


def share_cores() -> None:
    """Have torch's threads give their core away soon after they have to wait, unless the environment says otherwise.

    GCC's OpenMP, which torch for Linux brings, spins for milliseconds at the end of every operation. Where another
    program wants a core too, decoding among them, the thread that spins keeps it from the one that is waited for. It
    reads this when torch is imported. Machines of many cores are left as they are: to wake many threads takes longer,
    and was not measured.
    """
    if "OMP_WAIT_POLICY" not in os.environ and (os.cpu_count() or 1) <= FEW_CORES:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that `inceptionv4.errors` lists. `--debug` shows tracebacks."""
    tokens = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    handle((signal.SIGTERM, signal.SIGHUP), terminate)
    share_cores()
    take_streams()
    code = _run(tokens, debug)
    try:
        flush_output()
    except OutputError as error:
        print_error(error)
        code = code or error.exit_code
    except BrokenPipeError:
        sys.stdout = None
    end(code)


def _run(tokens: list[str], debug: bool) -> int:
    """The exit code of a command line."""
    try:
        settle_home()
        if not HELP & set(tokens):
            read_launch()  # here, so that every command refuses an environment in which it would be silent
        app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print_error(" ".join(str(error).split()))
        note("Try `inceptionv4 --help`.")
        return 2
    except StoppedError as stopped:
        if is_rank_zero():
            note(stopped)
        return stopped.exit_code
    except OutputError as error:  # which is said at the end
        return error.exit_code
    except Error as error:
        if debug:
            raise
        print_error(error)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if debug or not is_lack_of_memory(error):
            raise
        print_error(
            f"there is not enough memory: {' '.join(str(error).split())[:200]}; take fewer images at once "
            "(--training.accumulate in a training), smaller ones, or a narrower network"
        )
        return 1
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:
        return 0  # whoever read our output has enough, as `head` does
    except OSError as error:  # the system's word about a file or a folder that somebody named
        if debug or error.strerror is None:
            raise
        print_error(f"{error.strerror}: {error.filename or 'a file'}; --debug shows where it was needed")
        return 1
    except SystemExit as ended:  # of SIGTERM, or of rich, which has lost the reader
        return 0 if reader_left() else ended.code if isinstance(ended.code, int) else 1
    return 0
