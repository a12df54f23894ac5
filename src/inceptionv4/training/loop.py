"""The training loop: steps, an evaluation after each epoch, saved states, and signals that ask to stop.

train(config) = setup(config, ...) -> TrainingState, then TrainingLoop(state).run()
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from inceptionv4.config import Config
from inceptionv4.data.loader import Batch
from inceptionv4.errors import AnswerError, DivergedError, StoppedError, StorageError
from inceptionv4.evaluation.evaluate import evaluate_backend
from inceptionv4.evaluation.metrics import Metrics
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.runtime.distributed import join_ranks
from inceptionv4.runtime.process import StopRequests, asked_for
from inceptionv4.runtime.storage import PathOrUri
from inceptionv4.training.plots import draw_inputs
from inceptionv4.training.recorder import NullRecorder, Recorder
from inceptionv4.training.run.folder import RunFolder
from inceptionv4.training.run.history import StepRecord
from inceptionv4.training.run.state import save_state
from inceptionv4.training.schedule import describe_growth, image_size, learning_rate
from inceptionv4.training.setup import TrainingState, open_dataset, setup
from inceptionv4.training.tracker import make_tracker
from inceptionv4.training.train_step import part_seed
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import BEST


def train(config: Config, *, run: PathOrUri | None = None) -> PathOrUri:
    """Train as `config` says, and return the run folder.

    Every epoch ends with an evaluation on the held-out images and a saved state; the averaged weights with the highest
    top-1 are kept as `best`. With `run`, a folder that `find_run` found, its training goes on where its newest sound
    state is: on a CPU, everything is then as if it had never stopped, to the last bit. Under `torchrun` all processes
    train as one; the first of them reads and writes the run folder, which the others need not see. A run folder at a
    URI is sent there whenever a state is saved.

    Raises:
        ConfigError: no data are named.
        UsageError: no such device or starting weights; or `config` would change the result of `run`.
        DataError: the data cannot be used, are not those of the run or not the same for all processes, or have too many
            images that cannot be decoded.
        RunError: the run folder cannot be written, is not where the first process looks, is in use by another process,
            or has nothing to go on from and something to lose; or another process of this training is gone.
        StorageError: data, weights or run folder are in object storage, which cannot be reached, or refuses.
        DivergedError: the loss or the gradient is no longer finite, and the weights before that step are kept; or the
            model's answer to a held-out image is not.
        StoppedError: SIGTERM, SIGINT or SIGHUP; the step was finished, and the state saved.
    """
    dataset, device = open_dataset(config, run)
    with join_ranks(device) as ranks, StopRequests() as stop, RunFolder(run, ranks) as folder:
        return TrainingLoop(setup(config, dataset, ranks, folder), stop).run()


class TrainingLoop:
    """Epochs of steps, each followed by an evaluation and a saved state."""

    def __init__(self, state: TrainingState, stop: StopRequests) -> None:
        self.state, self.stop = state, stop
        self.recorder: Recorder | NullRecorder = NullRecorder()

    def run(self) -> PathOrUri:
        """Train to the end, and return the run folder."""
        state, epochs = self.state, self.state.config.schedule.epochs
        with self._open_recorder() as self.recorder:
            for line in (*describe(state), *state.remarks):
                self.recorder.announce(line)
            if state.position.epoch >= epochs:
                self.recorder.announce(f"finished after {epochs} epochs; for more, add --schedule.epochs")
            elif state.resumed:
                self.recorder.announce(f"going on after step {state.position.step}")
            while state.position.epoch < epochs and not self._is_out_of_patience():
                self.train_epoch()
                self.end_epoch(self.evaluate())
        assert state.folder.place is not None
        return state.folder.place

    def train_epoch(self) -> None:
        """Train on the batches of an epoch that are left."""
        state = self.state
        size = image_size(state.position.epoch, state.config)
        for batch in state.loader.epoch(state.position.epoch, state.position.batch, size):
            if state.position.step == 0 and state.ranks.first:
                self._draw_inputs(batch)
            lr = learning_rate(state.position.step, state.config, len(state.loader), state.loader.batch_size)
            step = state.train_step.step(batch, state.position.step, lr)
            state.position = replace(state.position, batch=batch.number + 1)
            if step is None:
                self.recorder.announce(f"batch {batch.number + 1} of epoch {state.position.epoch + 1} moved nothing")
            else:
                state.position = replace(state.position, step=state.position.step + 1)
                self.recorder.step(
                    StepRecord(
                        epoch=state.position.epoch + 1,
                        step=state.position.step,
                        loss=step.loss,
                        learning_rate=lr,
                        gradient_norm=step.gradient_norm,
                        images=step.images,
                    )
                )
            self.handle_stop_and_save()

    def evaluate(self) -> Metrics:
        """Metrics of the EMA weights on the held-out images.

        Raises:
            DivergedError: an answer is not finite. Where only the precision of the evaluation may be too small for the
                weights, they are saved first; else the last saved state, which is older, is not replaced.
        """
        state = self.state
        backend = TorchBackend(state.train_step.ema.network, state.spec, state.eval_device, mode="eager")
        backend.name, backend.advice = "the averaged weights", "lower --optimizer.lr or raise --schedule.warmup_epochs"
        try:
            return evaluate_backend(
                backend,
                state.dataset.val,
                workers=state.loader.workers,
                ranks=state.ranks,
                after_batch=lambda _: self.handle_stop_and_save(),
            )
        except AnswerError as error:
            saved = "the last saved state is older, and was not replaced"
            if state.eval_device.precision != "fp32":
                self._share_bad()
                self.save(self._model())
                saved = (
                    f"the weights are saved, to begin a new run from by --model.weights {state.folder.place} "
                    "--training.eval_precision fp32"
                )
            at = f"in epoch {state.position.epoch + 1}, by step {state.position.step}"
            raise DivergedError(f"training diverged {at}: {error} ({saved})") from None

    def end_epoch(self, metrics: Metrics) -> None:
        """Record the metrics of an epoch, and save its state and, if it is the best so far, its model."""
        state = self.state
        score = (metrics.top1, -metrics.loss)
        is_best = score > state.position.best
        state.position = replace(state.position, epoch=state.position.epoch + 1, batch=0)
        if is_best:
            state.position = replace(state.position, best=score, best_epoch=state.position.epoch)
        self._share_bad()
        self.recorder.epoch(
            state.position.epoch,
            state.position.step,
            metrics,
            is_best,
            precision=state.eval_device.precision,
            skipped=list(state.loader.bad.values()),
        )
        model = self._model(metrics=asdict(metrics), eval_precision=state.eval_device.precision)
        # The state is written first. At the end of an epoch it holds the best model, too, should that not be written.
        self.save(model, best=is_best)

    def handle_stop_and_save(self) -> None:
        """Save when a signal asks to stop, or when it is time. All processes do so after the same step.

        Raises:
            StoppedError: any of the processes received a signal.
        """
        state = self.state
        due = time.monotonic() - state.last_saved >= 60 * state.config.checkpoint.every_minutes
        *counts, save = state.ranks.total(*self.stop.counts(), due and state.ranks.first)
        stopped = asked_for(counts)
        if stopped is not None or save:
            self._share_bad()
            self.save(self._model())
        if stopped is not None:
            raise StoppedError(
                stopped,
                f"{stopped.name} after step {state.position.step}; everything is saved, "
                f"go on with `inceptionv4 train --resume {state.folder.place}`",
            )

    def save(self, model: Checkpoint, *, best: bool = False) -> None:
        """Write a state with `model` in it and, if it is the `best` so far, the model by itself; push both."""
        state = self.state
        if state.ranks.first:
            run, keep = state.folder.path, state.config.checkpoint.keep
            more = {"record": state.history.facts(), "machines": state.machines}
            save_state(run, model, state.train_step, state.position, keep, more)
            if best and not self._is_worse_than_incumbent():
                save_checkpoint(model, run / BEST)
            try:
                state.folder.push()
            except StorageError as error:  # the next push sends it
                self.recorder.announce(f"not sent, but kept in {run}: {error}")
        state.last_saved = time.monotonic()

    def _model(self, **more: object) -> Checkpoint:
        """The EMA weights as a model of their own."""
        state = self.state
        reached = {"epoch": state.position.epoch, "step": state.position.step}
        return Checkpoint(state.train_step.ema.network.state_dict(), state.spec, state.facts | reached | more)

    def _share_bad(self) -> None:
        """Tell all processes of the images that each could not decode."""
        for bad in self.state.ranks.gather(self.state.loader.bad):
            self.state.loader.bad |= bad
        self.state.position = replace(self.state.position, bad=dict(self.state.loader.bad))

    def _is_worse_than_incumbent(self) -> bool:
        """True if the saved `best` is better, of an epoch that a damaged state has made this run repeat."""
        return self.state.incumbent is not None and self.state.incumbent > self.state.position.best

    def _is_out_of_patience(self) -> bool:
        """True if the last `training.patience` epochs brought nothing better; the user is told."""
        position, patience = self.state.position, self.state.config.training.patience
        if patience is None or position.epoch - position.best_epoch < patience:
            return False
        self.recorder.announce(
            f"stopped after epoch {position.epoch}: none was better since epoch {position.best_epoch}"
        )
        return True

    def _open_recorder(self) -> Recorder | NullRecorder:
        state = self.state
        if not state.ranks.first:
            return NullRecorder()
        epochs = state.config.schedule.epochs
        images = epochs * len(state.loader) * state.loader.batch_size
        tracker = make_tracker(state.config.training.tracker, state.folder.path, state.position.step)
        return Recorder(state.folder.path, images, epochs, history=state.history, tracker=tracker)

    def _draw_inputs(self, batch: Batch) -> None:
        """Draw what the network sees first, mixed as it will be."""
        state = self.state
        inputs, targets = state.train_step.inputs(
            batch.part(state.train_step.parts(batch)[0]), part_seed(state.config.seed, 0, 0)
        )
        draw_inputs(state.folder.path, inputs, targets, state.spec)


def describe(state: TrainingState) -> list[str]:
    """What is trained, on what and where, a line each."""
    dataset, table = state.dataset, state.dataset.source.table
    parameters = sum(parameter.numel() for parameter in state.train_step.network.parameters())
    processes = f", {state.ranks.count} processes" if state.ranks.count > 1 else ""
    growth = describe_growth(state.config)
    others = f"; other files ignored: {table.ignored}" if table.ignored else ""
    device, precision = state.device.describe(), state.eval_device.precision
    if precision != state.device.precision:
        device += f" (evaluated in {precision})"
    return [
        f"{state.folder.place}: Inception-v4, {parameters:,} parameters, on {device}{processes}",
        f"{dataset.source.location}: {len(dataset.classes)} classes, {len(dataset.train):,} images to train on, "
        f"{len(dataset.val):,} held out ({dataset.layout}{others})",
        *(f"left out: {reason}" for reason in table.left_out),
        *([growth] if growth else []),
    ]
