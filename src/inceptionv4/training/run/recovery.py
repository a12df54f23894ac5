"""What of a run is sound, and how it is made ready to go on.

`inspect_run` only reads. It answers with the state to go on from, or with an error that says what to do, and then
everything in the run is as it was. `Recovery.apply` moves what is damaged to the folder `aside` of the run, never
deletes it, and makes `last` and `best` again where they are gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from inceptionv4.errors import CheckpointError, RunError, UnreadableError
from inceptionv4.runtime.files import link_whole, remove_half_written
from inceptionv4.strict_json import from_json
from inceptionv4.training.run.state import STATE_FACTS, is_state, read_position, saved_states, state_path, step_of
from inceptionv4.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from inceptionv4.weights.load import BEST, LAST

ENVIRONMENT = "environment.json"
FOREIGN = f"is of another run than {ENVIRONMENT} says"
ASIDE = "aside"
"""Folder of a run for what is damaged or does not belong there."""


@dataclass
class Recovery:
    """The state that a run goes on from, and what has to be done to its files first."""

    run: Path
    state: Checkpoint | None = None
    """None: nothing was saved, and the run begins."""
    path: Path | None = None
    """Where the state lies."""
    unsound: dict[Path, str] = field(default_factory=dict)
    """Files that cannot be used, and why."""
    last_is_damaged: bool = False
    """Whether `last` is a damaged state under its second name."""
    best: Checkpoint | None = None
    """The best model, where its file has to be written again."""
    incumbent: tuple[float, float] | None = None
    """Top-1 and negative loss of the best model on the disk."""

    def apply(self) -> None:
        """Bring the files of the run in order.

        Raises:
            RunError: the folder cannot be written.
        """
        for folder in (LAST.parent, Path("plots")):
            (self.run / folder).mkdir(exist_ok=True)
        remove_half_written(self.run, "log.jsonl", "results.csv", "config.yaml")
        remove_half_written(self.run / LAST.parent, "*.safetensors")
        remove_half_written(self.run / ASIDE, "*")
        for path in self.unsound:
            set_aside(self.run, path)
        if self.best is not None:
            save_checkpoint(self.best, self.run / BEST)
        if self.state is None or self.path is None:
            return
        for name in (state_path(self.run, read_position(self.state).step), self.run / LAST):
            if not name.exists() or (name == self.run / LAST and self.last_is_damaged):
                link_whole(self.path, name)


def inspect_run(run: Path) -> Recovery:
    """Read every state of a run, and its best model.

    The state to go on from is the newest sound one of this run, a `step-*` or `last`. A file is damaged if its checksum
    says so, and out of place if its name says another step than its contents, or if it is of another run.

    Raises:
        RunError: there is no sound state, but a model, a damaged file or the results of two epochs; there are states of
            several runs; a file cannot be read at the moment; or the best model is gone and cannot be made again.
    """
    found = Recovery(run)
    own, newest = read_id(run), -1
    names: set[str | None] = set()
    for path in _candidates(run):
        checkpoint, reason = _read_state(path, own)
        if checkpoint is None:
            found.unsound[path] = reason
            found.last_is_damaged |= _is_same(run / LAST, path)
            continue
        names.add(checkpoint.training.get("run"))
        if (step := read_position(checkpoint).step) > newest:
            found.state, found.path, newest = checkpoint, path, step
    if found.state is None:
        _refuse_to_begin_anew(run, found.unsound)
        return found
    if own is None and len(names) > 1:
        raise RunError(
            f"{run} holds states of more than one run, and no {ENVIRONMENT} that says which are its own; "
            "move the others elsewhere. Nothing was changed"
        )
    _inspect_best(found, own or found.state.training.get("run"))
    return found


def _candidates(run: Path) -> list[Path]:
    """The files that may hold a state: `step-*`, newest first, and `last` if it is not one of these by a link."""
    states = saved_states(run)
    last = run / LAST
    return [*states, *([last] if last.exists() and not any(_is_same(last, path) for path in states) else [])]


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file."""
    try:
        return one.samefile(other)
    except OSError:  # there is no such file, or only a link to nothing
        return False


def _read_state(path: Path, own: str | None) -> tuple[Checkpoint | None, str]:
    """A sound state of the run called `own`, or why this is none.

    Raises:
        RunError: it may be one, but the system cannot read it now, or another version wrote it.
    """
    try:
        checkpoint = load_checkpoint(path)
        if not is_state(checkpoint):
            return None, f"{path} holds a model, but no state to go on from"
        step = read_position(checkpoint).step
    except UnreadableError as error:
        raise RunError(f"{path} may be sound, but is of no use now: {error}. Nothing was changed") from None
    except CheckpointError as error:
        return None, str(error)
    if path.name != LAST.name and step != step_of(path):
        return None, f"{path} holds the state after step {step}"
    if own is not None and (checkpoint.training.get("run") or own) != own:
        return None, f"{path} {FOREIGN}"
    return checkpoint, ""


def _inspect_best(found: Recovery, own: str | None) -> None:
    """Find out whether the best model is there; if not, take it from the state of its epoch."""
    assert found.state is not None
    path, position = found.run / BEST, read_position(found.state)
    reason = f"{path} is gone"
    if path.exists():
        try:
            best = load_checkpoint(path)
        except UnreadableError as error:
            raise RunError(f"{error}. Nothing was changed") from None
        except CheckpointError as error:
            reason = str(error)
        else:
            facts = best.training
            if (facts.get("run") or own) != own:
                reason = f"{path} is of another run"
            elif facts.get("epoch", 0) < position.best_epoch:
                reason = f"{path} is of epoch {facts.get('epoch', 0)}, and the best was of epoch {position.best_epoch}"
            else:
                metrics = facts.get("metrics", {"top1": -1.0, "loss": 0.0})
                found.incumbent = metrics["top1"], -metrics["loss"]
                return
        found.unsound[path] = reason
    if position.best_epoch == 0:
        return
    found.best = _best_of(found, position.best_epoch)
    if found.best is None:
        raise RunError(
            f"{reason}. The training could go on, but that model would be lost. Nothing was changed. "
            f"Put it back from a copy; or go on with the newest model in its place, by `cp {found.path} {path}`"
        )


def _best_of(found: Recovery, epoch: int) -> Checkpoint | None:
    """The model of an epoch's end, from the state that was saved with it."""
    for path in (found.path, *saved_states(found.run)):
        if path is None or path in found.unsound:
            continue
        state = load_checkpoint(path)
        position = read_position(state)
        if (position.epoch, position.batch) == (epoch, 0):
            facts = {name: fact for name, fact in state.training.items() if name not in STATE_FACTS}
            return replace(state, weights=state.model_weights(), training=facts)
    return None


def _refuse_to_begin_anew(run: Path, unsound: dict[Path, str]) -> None:
    """Raise RunError if a run without a sound state holds anything that a new beginning would replace."""
    models = [path for path in (run / BEST, run / LAST) if path.exists()]
    sound = [path for path in models if _is_sound(path)]
    # The first line comes before the first state, which may never have been saved.
    if not models and not unsound and _finished_epochs(run) <= 1:
        return
    reasons = "; ".join(unsound.values()) or "no step-*.safetensors and no last.safetensors is there"
    cure = "put a state back from a copy, or begin a new run"
    if sound:
        model = run if sound[0] == run / BEST else sound[0]
        cure = f"begin a new run from its model, with `inceptionv4 train --resume {run} --model.weights {model}`"
        if not (run / "config.yaml").exists():
            cure += ", and --config FILE, as its config.yaml is gone, too"
    if any(reason.endswith(FOREIGN) for reason in unsound.values()):
        cure += f"; or, if the states are the run's own, move {run / ENVIRONMENT} away"
    raise RunError(f"{run} has no state to go on from: {reasons}. Nothing was changed; {cure}")


def _is_sound(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _finished_epochs(run: Path) -> int:
    """Lines of `results.csv` under its header."""
    try:
        text = (run / "results.csv").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return max(len(text.splitlines()) - 1, 0)


def read_id(run: Path) -> str | None:
    """What a run is called in its states; None if `environment.json` is gone or from before runs had names."""
    try:
        described = from_json((run / ENVIRONMENT).read_bytes())
    except (OSError, ValueError):
        return None
    return described.get("run") if isinstance(described, dict) else None


def set_aside(run: Path, path: Path, *, keep: bool = False) -> Path:
    """Move a file of a run to its folder `aside`, under a name that is free; with `keep`, it stays in place, too.

    Raises:
        RunError: the folder cannot be written.
    """
    folder = run / ASIDE
    try:
        folder.mkdir(exist_ok=True)
        target = next(free_names(folder / path.name))
        if keep:
            link_whole(path, target)
        else:
            path.rename(target)
    except OSError as error:
        raise RunError(f"cannot set {path} aside in {folder}: {error.strerror or error}") from None
    return target


def free_names(path: Path) -> Iterator[Path]:
    """Paths that nothing has: `path` itself, then with a number."""
    if not path.exists():
        yield path
    for number in itertools.count(2):
        if not (numbered := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
            yield numbered
