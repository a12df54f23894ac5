"""Distributed prediction: each image is answered by one process, and all processes get all answers in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from typing import TypeVar

from inceptionv4.errors import Error, RunError
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.classifier import Prediction
from inceptionv4.runtime.distributed import Ranks

Image = TypeVar("Image")

ROUND = 64
"""Answers of each process that are exchanged at once."""


def predict_distributed(
    predict: Callable[[Iterable[Image]], Iterable[Prediction]], images: Iterable[Image], ranks: Ranks
) -> Iterator[Prediction]:
    """What `predict` gives for all of `images`, in their order, on every process; each answers for its share of them.

    All processes must have the same images in the same order, each listed by itself: image `i` belongs to process
    `i % count`. All must go to the end.

    Raises:
        Error: what `predict` raises on whichever process, on all.
        DataError: the images were not the same for all.
    """
    if ranks.count == 1:
        yield from predict(images)
        return
    listed = Listed(images)
    own = iter(predict(islice(listed, ranks.rank, None, ranks.count)))
    while True:
        answers: list[Prediction] = []
        failure: Error | None = None
        try:
            for answer in islice(own, ROUND):
                answers.append(answer)  # one by one: those before a failure count
        except Error as error:
            failure = error
        parts = ranks.gather((answers, failure))
        # Image by image: the first of each process, then the second of each.
        for turn in zip_longest(*(theirs for theirs, _ in parts)):
            yield from (prediction for prediction in turn if prediction is not None)
        for _, theirs in parts:
            if theirs is not None:
                raise theirs
        if any(len(theirs) < ROUND for theirs, _ in parts):
            break
    ranks.require_same(listed.digest(), "the images")


def require_same_runtime(ranks: Ranks, backend: Backend) -> None:
    """Refuse processes that differ in runtime or precision.

    Raises:
        RunError: one does not, on all processes.
    """
    found = ranks.gather((backend.runtime, backend.precision))
    for rank, theirs in enumerate(found):
        if theirs != found[0]:
            raise RunError(
                f"process {rank} of {ranks.count} computes by {' in '.join(theirs)}, "
                f"the first by {' in '.join(found[0])}; name a precision that all have, such as --precision fp32"
            )


class Listed(Iterable[Image]):
    """Images as they pass, and what they were."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._images, self._hash = iter(images), hashlib.sha256()

    def __iter__(self) -> Iterator[Image]:
        for image in self._images:
            self._hash.update(f"{getattr(image, 'name', image)}\0".encode(errors="surrogateescape"))
            yield image

    def digest(self) -> str:
        """SHA-256 of the names of all images, those that nobody asked for yet included."""
        for _ in self:
            pass
        return self._hash.hexdigest()
