"""What a user says about the data where the files leave a choice: which layout, which columns, which parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from inceptionv4.config import LayoutName
from inceptionv4.errors import UsageError

TABLES = ("csv", "parquet")
"""Layouts that have columns."""
WITHOUT_PARTS = ("cifar", "imagenet")
"""Layouts whose split is their authors' own."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How labelled images are read; what is not given is recognised, or refused if it is ambiguous.

    Parameters
    ----------
    layout
        folder, zip, tar, shards, csv, parquet, cifar or imagenet; recognised if not given.
    label_column
        Column of a .csv or parquet that holds the classes.
    image_column
        Column that holds the images, or the names of their files.
    split_column
        Column that says which part a row is of; none: no column does.
    group_column
        Column, such as the patient or the video, whose images stay on one side of the split.
    train
        Part to train on: a folder, the beginning of shards' or parquet files' names, or a value of the split column.
    val
        Part to hold out.
    test
        Part to keep apart, neither trained on nor held out.

    Raises
        UsageError: a layout that there is not, or parts that make no split.
    """

    layout: LayoutName | None = None
    label_column: str | None = None
    image_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in get_args(LayoutName):
            raise UsageError(f"data.layout must be one of {', '.join(get_args(LayoutName))}, got {self.layout!r}")
        if self.val is not None and self.train is None:
            raise UsageError("data.val names the held-out part; say with data.train which part to train on")
        named = [part.strip("/") for part in (self.train, self.val, self.test) if part is not None]
        if len(set(named)) < len(named):
            raise UsageError("data.train, data.val and data.test must name different parts")

    def given(self) -> dict[str, str]:
        """What was said, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def require_use(self, layout: str, location: str) -> None:
        """Refuse what a layout cannot obey.

        Raises:
            UsageError: a column of a layout that has none, or a part of one whose split is fixed.
        """
        for name in self.given():
            if name.endswith("_column") and layout not in TABLES:
                raise UsageError(f"data.{name} is for tables, but {location} is read as {layout}, which has no columns")
            if name in ("train", "val", "test") and layout in WITHOUT_PARTS:
                raise UsageError(f"data.{name} is not for {layout}, whose split is that of its authors")


AS_FOUND = ReadOptions()
"""Nothing is said: the data are read as they are recognised."""


def recorded_options(trained_on: Mapping[str, Any], location: str) -> ReadOptions:
    """The options by which a model's training read the data at `location`; none if these are other data.

    `trained_on` is what the model says of its data.
    """
    if trained_on.get("location") != location:
        return AS_FOUND
    return options_from(trained_on.get("options") or {})


def options_from(values: Any) -> ReadOptions:
    """The options among the fields or the keys of `values`, such as the settings' `data` section or a run's record."""
    names = [field.name for field in fields(ReadOptions)]
    if isinstance(values, dict):
        return ReadOptions(**{name: values[name] for name in names if values.get(name) is not None})
    return ReadOptions(**{name: getattr(values, name) for name in names})
