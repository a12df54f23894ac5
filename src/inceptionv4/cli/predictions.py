"""Predictions as lines of JSON, as CSV, and as a table for people, each line as soon as it is known."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len

from inceptionv4.cli.console import print_error
from inceptionv4.errors import Error, ImageError, UsageError
from inceptionv4.printable import printable
from inceptionv4.strict_json import to_json

if TYPE_CHECKING:
    from inceptionv4.data.crops import Crops
    from inceptionv4.inference.classifier import Classifier, Prediction

Show = Callable[[Iterator["Prediction"]], None]

MEASURED = 16
"""Rows of a table that decide how wide its columns are; it begins when they are known."""


def predict_and_show(
    classifier: Classifier,
    places: Collection[str],
    show: Show,
    *,
    top: int,
    tta: Crops | None,
    embeddings: Path | None,
    hints: bool = False,
) -> None:
    """Answer for all images at `places`, print each answer, and keep the features if `embeddings` names a file.

    With `hints`, a run of more than 1,000 images says which options would make it much faster.

    Under `torchrun` each process answers for its share, and the first one prints and keeps all.

    Raises:
        ImageError: some could not be read; the others were answered.
        DataError: the images are not the same for all processes.
        RunError: another process is gone, or computes in another precision.
    """
    from inceptionv4.inference.distributed import predict_distributed, require_same_runtime
    from inceptionv4.inference.embeddings import open_embeddings
    from inceptionv4.inference.images import STDIN, find_images
    from inceptionv4.inference.trial import HintedProgress
    from inceptionv4.runtime.device import select_device
    from inceptionv4.runtime.distributed import join_ranks
    from inceptionv4.runtime.progress import Progress

    answer = partial(classifier.predict, top=top, tta=tta, embed=embeddings is not None)
    bad = done = 0
    with ExitStack() as stack:
        ranks = stack.enter_context(join_ranks(select_device("cpu")))  # answers are all that they exchange
        require_same_runtime(ranks, classifier.backend)
        if sys.stdin is None and STDIN in places:
            raise UsageError("standard input is closed, and - is a list of images there")
        lines: Iterable[str] = sys.stdin
        if ranks.count > 1 and STDIN in places:  # which all of them have, and only one can read
            lines = ranks.broadcast(list(sys.stdin) if ranks.first else [])
        predictions = predict_distributed(answer, find_images(places, lines), ranks)
        writer = progress = None
        if ranks.first:
            if embeddings is not None:
                writer = stack.enter_context(open_embeddings(embeddings, classifier.num_features))
            # Where answers go to the terminal, they are the progress.
            progress = stack.enter_context(Progress("predicting", total=None, bar=not sys.stdout.isatty()))

        advance: Callable[[int], None] | None = None
        if progress is not None:
            advance = HintedProgress(progress, classifier.backend).advance if hints else progress.advance

        def observed() -> Iterator[Prediction]:
            nonlocal bad, done
            for prediction in predictions:
                done += 1
                if prediction.error is not None:
                    bad += 1
                elif writer is not None:
                    writer.add(prediction)
                yield prediction
                if advance is not None:
                    advance(1)

        if progress is not None:
            backend = classifier.backend
            if (backend.runtime, backend.precision) != ("torch", "fp32"):  # the default needs no line
                progress.announce(f"answers come from {backend.describe()}")
            show(observed())
        else:
            deque(observed(), maxlen=0)
    if bad:
        raise ImageError(f"{bad} of {done} images could not be read; the others are answered above")


def print_json_lines(predictions: Iterator[Prediction]) -> None:
    """An object a line."""
    for prediction in predictions:
        line: dict[str, object] = {"file": prediction.file}
        if prediction.error is not None:
            line["error"] = prediction.error
        else:
            line["predictions"] = [{"class": guess.label, "probability": guess.probability} for guess in prediction.top]
        print(to_json(line), flush=True)


def print_csv(predictions: Iterator[Prediction]) -> None:
    """A line a class; an image that cannot be read is named on standard error. On a terminal, names are for people."""
    shown: Callable[[str], str] = printable if sys.stdout.isatty() else str
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["file", "rank", "class", "probability"])
    for prediction in predictions:
        if prediction.error is not None:
            print_error(prediction.error)
        for rank, guess in enumerate(prediction.top, start=1):
            table.writerow([shown(prediction.file), rank, shown(guess.label), f"{guess.probability:.6f}"])


def print_table(predictions: Iterator[Prediction]) -> None:
    """A line an image: the best class, its probability, the runners-up. The first rows set the widths of columns, and
    what is wider later pushes the rest of its line to the right.
    """
    rows = _rows(predictions)
    first: list[tuple[str, str, str, str]] = []
    failure: Error | None = None
    try:
        first.extend(islice(rows, MEASURED))  # which takes those in that come before an error
    except Error as error:
        failure = error
    if first:
        _print_rows(first, rows)
    if failure is not None:
        raise failure


def _print_rows(first: list[tuple[str, str, str, str]], rows: Iterator[tuple[str, str, str, str]]) -> None:
    headings = ("file", "class", "probability", "then")
    widths = [max(map(cell_len, column)) for column in zip(headings, *first, strict=True)]
    for row in chain([headings], first, rows):
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip(), flush=True)


def _rows(predictions: Iterator[Prediction]) -> Iterator[tuple[str, str, str, str]]:
    for prediction in predictions:
        if prediction.error is not None:
            print_error(prediction.error)
            continue
        others = ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in prediction.top[1:])
        yield (
            printable(prediction.file),
            printable(prediction.label),
            f"{prediction.probability:.1%}",
            printable(others),
        )
