"""What a training finds of its run: the state to go on from, the settings that it began with, and its machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from inceptionv4.config import Config, PrecisionOption
from inceptionv4.data.rules import RULES, rules_of
from inceptionv4.errors import ConfigError, DataError, RunError, UsageError
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.runtime.files import write_text
from inceptionv4.settings import build, dump, read_yaml
from inceptionv4.strict_json import from_json
from inceptionv4.training.run.find import read_settings
from inceptionv4.training.run.folder import RunFolder
from inceptionv4.training.run.history import History, bring_back, check_files
from inceptionv4.training.run.recovery import ASIDE, Recovery, inspect_run, read_id, set_aside
from inceptionv4.training.run.settings import recorded_settings, settle
from inceptionv4.training.run.state import Position, read_position
from inceptionv4.weights.checkpoint import Checkpoint

TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-2}
"""Largest difference of the next step's loss, as a share of it, on another processor; 6e-7 in fp32 and 2e-3 in bf16
were measured (docs/training.md)."""


@dataclass
class Resumption:
    """A run as it was found, the same on all processes; of a new run, nothing.

    `begun` are the settings that it began with. `words` are what a user should know.
    """

    folder: RunFolder
    state: Checkpoint | None = None
    begun: Config | None = None
    recovery: Recovery | None = None
    """What has to be done to the files; on the first process only."""
    words: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: RunFolder, ranks: Ranks) -> Resumption:
        """Read the run that a folder holds, if it holds one. Nothing is written.

        Raises:
            RunError: nothing in it can be gone on from, but something would be lost by a new beginning.
            UsageError: its settings are those of another version.
        """
        found = cls(folder)
        if folder.place is None:
            return found
        if ranks.first:
            try:
                found.recovery = inspect_run(folder.path)
            except RunError as error:
                raise RunError(folder.name(str(error))) from None
            found.state = found.recovery.state
            found.begun = _begun(folder.path, found.state)
            unsound = found.recovery.unsound.values()
            found.words += [folder.name(f"set aside in {folder.path / ASIDE}: {why}") for why in unsound]
        found.state, found.begun, found.words = ranks.broadcast((found.state, found.begun, found.words))
        return found

    @property
    def position(self) -> Position:
        return Position() if self.state is None else read_position(self.state)

    def run_id(self) -> str | None:
        """The run's own name, which its states have; None for a run of older versions."""
        if self.state is not None and (name := self.state.training.get("run")):
            return str(name)
        return read_id(self.folder.path) if self.folder.is_writer else None

    def require_data(self, data: Mapping[str, Any]) -> None:
        """See that the images are those of the run.

        Raises:
            DataError: the run was begun under other rules of reading; or the images have other names, contents,
                classes, labels or another split.
        """
        own: Mapping[str, Any] = {} if self.state is None else self.state.training.get("data") or {}
        if self.state is not None and rules_of(own) != RULES:
            raise DataError(
                f"{self.folder.place} was begun under version {rules_of(own)} of the rules by which images are read "
                f"and crops drawn, and this is version {RULES}, which would show it other images; finish it with the "
                "inceptionv4 that began it, or begin a new run from its weights: inceptionv4 train --data "
                f"{shlex.quote(data['location'])} --model.weights {shlex.quote(str(self.folder.place))}"
            )
        before, now = str(own.get("exact_fingerprint", "")), str(data["exact_fingerprint"])
        is_other = _layout(before) == _layout(now) and before != now
        if is_other or any(own[name] != data[name] for name in ("fingerprint", "labels") if name in own):
            raise DataError(
                f"the images at {data['location']} are not those that {self.folder.place} was trained on; "
                "start a new run"
            )
        versions = own.get("version"), data["version"]
        if own.get("location") == data["location"] and all(versions) and versions[0] != versions[1]:
            self.words.append(
                f"the objects at {data['location']} were written again since the last state: names, labels and sizes "
                "of all images and the contents of some are the same, the other contents are not known"
            )

    def require_batch(self, batch_size: int) -> None:
        """See that a batch has as many images as before: fewer than `training.batch_size` where there are no more.

        Raises:
            UsageError: for another number of processes it would have others.
        """
        own: Mapping[str, Any] = {} if self.state is None else self.state.training.get("data") or {}
        if own.get("batch_size", batch_size) != batch_size:
            raise UsageError(
                f"{self.folder.place} was trained in batches of {own['batch_size']} images, and these processes would "
                f"make them of {batch_size}; go on with as many processes as before"
            )

    def require_teacher(self, digest: str | None) -> None:
        """See that the teacher is the one of the run; its file may have been replaced.

        Raises:
            UsageError: it has other weights.
        """
        own = None if self.state is None else self.state.training.get("teacher")
        if own is not None and own != digest:
            raise UsageError(
                f"loss.teacher is not the model any more that {self.folder.place} has learnt from so far; put that one "
                "back, or begin a new run"
            )

    def settle(self, asked: Config, ranks: Ranks) -> tuple[Config, Device]:
        """The settings to train with, in which no precision is `auto` any more, and the device for them.

        Raises:
            UsageError: what is asked for would change the result of the run, or the device does not compute in the
                run's precision.
        """
        config = asked
        if self.begun is not None and self.folder.place is not None:
            config, changes = settle(asked, self.begun, self.folder.place)
            self.words += changes
        if self.state is not None and config.training.precision == "auto":
            raise UsageError(
                f"{self.folder.place} does not say any more in which precision it was trained; give it, as in "
                "`--training.precision fp32`"
            )
        device = self._select(config)
        evaluated = device.for_evaluation(config.training.eval_precision).precision
        # Of processes on unlike machines, the first one's `auto` counts.
        precision, evaluated = ranks.broadcast((device.precision, evaluated))
        config = replace(config, training=replace(config.training, precision=precision, eval_precision=evaluated))
        return config, self._select(config)

    def _select(self, config: Config) -> Device:
        try:
            return select_device(config.training.device, config.training.precision)
        except UsageError as error:
            if self.state is None:
                raise
            raise UsageError(
                f"{self.folder.place} was trained in {config.training.precision}, and {error}. Go on where it can be "
                f"had, or begin a new run from its model by adding `--model.weights {self.folder.place}`"
            ) from None

    def machines(self, now: dict[str, str], precision: str) -> list[dict[str, Any]]:
        """List on what the run was trained, from which step on each; `now` is what it goes on with, in `precision`."""
        before: list[dict[str, Any]] = [] if self.state is None else list(self.state.training.get("machines", []))
        last = {name: value for name, value in before[-1].items() if name != "step"} if before else {}
        names = {**last, **now} if last else {}
        changes = [
            f"{name} {last.get(name, 'none')} before, {now.get(name, 'none')} now"
            for name in names
            if last.get(name) != now.get(name)
        ]
        if changes:
            self.words.append(
                f"goes on elsewhere ({'; '.join(changes)}): equal but for rounding from here on, not to the last bit; "
                f"the loss of the next step is the same to {TOLERANCE[precision]:g} of itself in {precision}"
            )
        return before if last == now else [*before, {"step": self.position.step, **now}]

    def apply(self, config: Config) -> History:
        """Bring the files of the run to its state; on the first process.

        Raises:
            RunError: the folder cannot be written.
        """
        run = self.folder.path
        check_files(run)
        self.folder.accept()
        if self.recovery is not None:
            self.recovery.apply()
            self._write_settings(config)
        record = None if self.state is None else self.state.training.get("record")
        history, words = bring_back(run, self.position.epoch, self.position.step, record)
        self.words += [self.folder.name(line) for line in words]
        return history

    def _write_settings(self, config: Config) -> None:
        """Write `config.yaml` where it means something else than `config`; the old one is kept aside."""
        path = self.folder.path / "config.yaml"
        if _parse_settings(self.folder.path) == config:
            return
        if path.exists():
            kept = set_aside(self.folder.path, path, keep=True)
            self.words.append(self.folder.name(f"config.yaml as it was found is {kept}"))
        write_text(path, dump(config))


def _layout(fingerprint: str) -> str:
    """The layout that an exact fingerprint is of: data that moved into an archive have another one."""
    return fingerprint.partition(":")[0]


def _begun(run: Path, state: Checkpoint | None) -> Config | None:
    """The settings that a run began with: those in its state, or if there is none in its `config.yaml`."""
    if state is None:
        return _parse_settings(run)
    return recorded_settings(state.training, f"the state in {run}", _recorded_precision(run))


def _parse_settings(run: Path) -> Config | None:
    try:
        text = read_settings(run)
        return None if text is None else build(Config, read_yaml(text, str(run / "config.yaml")))
    except (ConfigError, UsageError):
        return None


def _recorded_precision(run: Path) -> PrecisionOption | None:
    """The precision in which a run was begun, from its environment."""
    try:
        device = str(from_json((run / "environment.json").read_bytes())["device"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    precision = device.rpartition(", ")[2]
    return cast(PrecisionOption, precision) if precision in ("fp32", "bf16", "fp16") else None
