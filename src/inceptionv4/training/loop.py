"""Training: what it needs is set up, then epochs of steps, each epoch with an evaluation."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from inceptionv4.config import Config
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader
from inceptionv4.data.options import options_from
from inceptionv4.data.rules import RULES
from inceptionv4.data.samples import Dataset
from inceptionv4.errors import AnswerError, ConfigError, DivergedError, StoppedError, StorageError
from inceptionv4.evaluation.evaluate import evaluate_backend
from inceptionv4.evaluation.metrics import Metrics
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.distributed import Ranks, join_ranks
from inceptionv4.runtime.process import StopRequests, asked_for
from inceptionv4.runtime.storage import PathOrUri, absolute
from inceptionv4.spec import ModelSpec
from inceptionv4.training.build_model import build_model
from inceptionv4.training.plots import draw_inputs
from inceptionv4.training.recorder import NullRecorder, Recorder
from inceptionv4.training.run.folder import RunFolder
from inceptionv4.training.run.history import History, StepRecord
from inceptionv4.training.run.resumption import Resumption
from inceptionv4.training.run.settings import describe_rate
from inceptionv4.training.run.state import Position, restore, save_state
from inceptionv4.training.schedule import describe_growth, image_size, learning_rate
from inceptionv4.training.tracker import make_tracker, require_tracker
from inceptionv4.training.train_step import TrainStep, part_seed
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
    # What a user can get wrong comes first, so that a mistake costs seconds and leaves nothing behind.
    if config.data.path is None:
        raise ConfigError("data.path is not set: say which images to train on with --data FOLDER")
    require_tracker(config.training.tracker)
    # A run that goes on has a precision of its own, which is found out later.
    device = select_device(config.training.device, config.training.precision if run is None else "auto")
    device.for_evaluation(config.training.eval_precision)  # fails early where the device lacks it
    dataset = read_dataset(config.data.path, config.data.val_fraction, options_from(config.data))
    with join_ranks(device) as ranks, StopRequests() as stop, RunFolder(run, ranks) as folder:
        return Training(config, dataset, ranks, stop, folder).finish()


class Training:
    """A training between two steps: all that it goes on with, and where it is."""

    def __init__(self, config: Config, dataset: Dataset, ranks: Ranks, stop: StopRequests, folder: RunFolder) -> None:
        self.dataset, self.ranks, self.stop, self.folder = dataset, ranks, stop, folder
        known = f"{dataset.train.exact_fingerprint} {dataset.val.exact_fingerprint} {dataset.source.version}"
        ranks.require_same(known, f"the images at {config.data.path}")
        data = describe_data(dataset, config)
        found = Resumption.read(folder, ranks)
        found.require_data(data)
        self.config, self.device = found.settle(config, ranks)
        self.eval_device = self.device.for_evaluation(self.config.training.eval_precision)
        self.position, self.resumed = found.position, found.state is not None

        torch.manual_seed(self.config.seed)
        spec = ModelSpec(
            classes=dataset.classes,
            architecture="inception-v4" if found.state is None else found.state.spec.architecture,
            width=self.config.model.width,
            preprocessing=self.config.image,
            origin=f"inceptionv4, recipe {self.config.recipe}",
        )
        network, self.spec, remarks = build_model(self.config.model, spec, resumes=self.resumed)
        self.train_step = TrainStep(network, self.config, dataset.train, self.device, ranks)
        teacher = None if self.train_step.teacher is None else self.train_step.teacher.digest
        found.require_teacher(teacher)
        workers = self.config.data.workers
        self.workers = self.device.default_workers() if workers is None else workers
        self.loader = TrainingLoader(
            dataset.train, self.config, workers=self.workers, rank=ranks.rank, ranks=ranks.count
        )
        found.require_batch(self.loader.batch_size)
        data["batch_size"] = self.loader.batch_size
        if found.state is not None:
            restore(found.state, self.train_step)
            self.loader.bad |= self.position.bad
        self.machines = found.machines(self.device.machine() | {"processes": str(ranks.count)}, self.device.precision)
        # All that can be wrong was found out by now; from here on files are written.
        if folder.place is None:
            folder.begin(self.config, self.device)
        self.history = found.apply(self.config) if ranks.first else History()
        self.incumbent = found.recovery.incumbent if found.recovery is not None else None
        self.remarks = [*folder.warnings, *self.loader.remarks, *remarks, *found.words]
        if found.begun is not None and self.resumed:
            steps, batch = len(self.loader), self.loader.batch_size
            rate = describe_rate(found.begun, self.config, self.position.step, steps, batch)
            self.remarks += [rate] if rate else []
        self.facts = {"config": asdict(self.config), "data": data, "run": found.run_id(), "teacher": teacher}
        self.last_saved = time.monotonic()

    def finish(self) -> PathOrUri:
        """Train to the end, and return the run folder."""
        epochs = self.config.schedule.epochs
        images = epochs * len(self.loader) * self.loader.batch_size
        with self._recorder(images) as self.recorder:
            for line in (*self._opening(), *self.remarks):
                self.recorder.announce(line)
            if self.position.epoch >= epochs:
                self.recorder.announce(f"finished after {epochs} epochs; for more, add --schedule.epochs")
            elif self.resumed:
                self.recorder.announce(f"going on after step {self.position.step}")
            while self.position.epoch < epochs:
                if out_of_patience(self.position, self.config.training.patience):
                    self.recorder.announce(
                        f"stopped after epoch {self.position.epoch}: "
                        f"none was better since epoch {self.position.best_epoch}"
                    )
                    break
                self._train_epoch()
                self._evaluate()
        assert self.folder.place is not None
        return self.folder.place

    def _train_epoch(self) -> None:
        """The steps of an epoch, from where it was left."""
        size = image_size(self.position.epoch, self.config)
        for batch in self.loader.epoch(self.position.epoch, self.position.batch, size):
            lr = learning_rate(self.position.step, self.config, len(self.loader), self.loader.batch_size)
            if self.position.step == 0 and self.ranks.first:
                self._draw_inputs(batch)
            step = self.train_step.step(batch, self.position.step, lr)
            self.position = replace(self.position, batch=batch.number + 1)
            if step is None:
                self.recorder.announce(f"batch {batch.number + 1} of epoch {self.position.epoch + 1} moved nothing")
            else:
                self.position = replace(self.position, step=self.position.step + 1)
                self.recorder.step(
                    StepRecord(
                        epoch=self.position.epoch + 1,
                        step=self.position.step,
                        loss=step.loss,
                        learning_rate=lr,
                        gradient_norm=step.gradient_norm,
                        images=step.images,
                    )
                )
            self._heed_signals()

    def _evaluate(self) -> None:
        """The end of an epoch: how good the average is, and a state."""
        metrics = self._measure()
        is_best = (metrics.top1, -metrics.loss) > self.position.best
        self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0)
        if is_best:
            self.position = replace(self.position, best=(metrics.top1, -metrics.loss), best_epoch=self.position.epoch)
        self._share_bad()
        self.recorder.epoch(
            self.position.epoch,
            self.position.step,
            metrics,
            is_best,
            precision=self.eval_device.precision,
            skipped=list(self.loader.bad.values()),
        )
        checkpoint = self._model(metrics=asdict(metrics), eval_precision=self.eval_device.precision)
        # The state comes first: of an epoch's end it holds the best model, too, should that not be written any more.
        self._save(checkpoint, best=is_best)

    def _measure(self) -> Metrics:
        """Metrics of the averaged weights on the held-out images.

        Raises:
            DivergedError: an answer is not finite. Where only the precision of the evaluation may be too small for the
                weights, they are saved first; else the last saved state, which is older, is not replaced.
        """
        backend = TorchBackend(self.train_step.ema.network, self.spec, self.eval_device, mode="eager")
        backend.name, backend.advice = "the averaged weights", "lower --optimizer.lr or raise --schedule.warmup_epochs"
        try:
            return evaluate_backend(
                backend,
                self.dataset.val,
                workers=self.workers,
                ranks=self.ranks,
                after_batch=lambda _: self._heed_signals(),
            )
        except AnswerError as error:
            saved = "the last saved state is older, and was not replaced"
            if self.eval_device.precision != "fp32":
                self._share_bad()
                self._save(self._model())
                saved = (
                    f"the weights are saved, to begin a new run from by --model.weights {self.folder.place} "
                    "--training.eval_precision fp32"
                )
            raise DivergedError(
                f"training diverged in epoch {self.position.epoch + 1}, by step {self.position.step}: {error} ({saved})"
            ) from None

    def _heed_signals(self) -> None:
        """Save when a signal asks to stop, or when it is time; all processes do so after the same step.

        Raises:
            StoppedError: a signal was received, by whichever process.
        """
        due = time.monotonic() - self.last_saved >= 60 * self.config.checkpoint.every_minutes
        *counts, save = self.ranks.total(*self.stop.counts(), due and self.ranks.first)
        stopped = asked_for(counts)
        if stopped is not None or save:
            self._share_bad()
            self._save(self._model())
        if stopped is not None:
            raise StoppedError(
                stopped,
                f"{stopped.name} after step {self.position.step}; everything is saved, "
                f"go on with `inceptionv4 train --resume {self.folder.place}`",
            )

    def _share_bad(self) -> None:
        """Tell all processes of the images that each could not decode."""
        for bad in self.ranks.gather(self.loader.bad):
            self.loader.bad |= bad
        self.position = replace(self.position, bad=dict(self.loader.bad))

    def _model(self, **more: object) -> Checkpoint:
        """The averaged weights as a model of their own."""
        reached = {"epoch": self.position.epoch, "step": self.position.step}
        return Checkpoint(self.train_step.ema.network.state_dict(), self.spec, self.facts | reached | more)

    def _save(self, checkpoint: Checkpoint, *, best: bool = False) -> None:
        if self.ranks.first:
            run, keep = self.folder.path, self.config.checkpoint.keep
            more = {"record": self.history.facts(), "machines": self.machines}
            save_state(run, checkpoint, self.train_step, self.position, keep, more)
            if best and not self._is_worse_than_incumbent():
                save_checkpoint(checkpoint, run / BEST)
            try:
                self.folder.push()
            except StorageError as error:  # the next time there is more to send
                self.recorder.announce(f"not sent, but kept in {run}: {error}")
        self.last_saved = time.monotonic()

    def _is_worse_than_incumbent(self) -> bool:
        """Whether `best` on the disk is from an epoch that a damaged state has made this run repeat, and better."""
        if self.incumbent is None:
            return False
        return self.incumbent > self.position.best

    def _recorder(self, images: int) -> Recorder | NullRecorder:
        if not self.ranks.first:
            return NullRecorder()
        tracker = make_tracker(self.config.training.tracker, self.folder.path, self.position.step)
        return Recorder(self.folder.path, images, self.config.schedule.epochs, history=self.history, tracker=tracker)

    def _draw_inputs(self, batch: Batch) -> None:
        """Show what the network sees first, mixed as it will be."""
        inputs, targets = self.train_step.inputs(
            batch.part(self.train_step.parts(batch)[0]), part_seed(self.config.seed, 0, 0)
        )
        draw_inputs(self.folder.path, inputs, targets, self.spec)

    def _opening(self) -> list[str]:
        """What is trained, on what and where, a line each."""
        source = self.dataset.source
        parameters = count_parameters(self.train_step.network)
        processes = f", {self.ranks.count} processes" if self.ranks.count > 1 else ""
        growth = describe_growth(self.config)
        others = f"; other files ignored: {source.table.ignored}" if source.table.ignored else ""
        device, precision = self.device.describe(), self.eval_device.precision
        if precision != self.device.precision:
            device += f" (evaluated in {precision})"
        return [
            f"{self.folder.place}: Inception-v4, {parameters:,} parameters, on {device}{processes}",
            f"{source.location}: {len(self.dataset.classes)} classes, {len(self.dataset.train):,} images to train on, "
            f"{len(self.dataset.val):,} held out ({self.dataset.layout}{others})",
            *(f"left out: {reason}" for reason in source.table.left_out),
            *([growth] if growth else []),
        ]


def out_of_patience(position: Position, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return patience is not None and position.epoch - position.best_epoch >= patience


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def describe_data(dataset: Dataset, config: Config) -> dict[str, Any]:
    """What a checkpoint says of its images, to tell them again: where they are, how they are read, what they are."""
    labels = hashlib.sha256(dataset.val.fingerprint.encode())
    for samples in (dataset.train, dataset.val):
        labels.update(samples.labels.astype("<i8").tobytes())
    return {
        "location": absolute(dataset.source.location),
        "rules": RULES,
        "fingerprint": dataset.train.fingerprint,
        "labels": labels.hexdigest()[:16],
        "exact_fingerprint": dataset.train.exact_fingerprint,
        "version": dataset.source.version,
        "val_fraction": config.data.val_fraction,
        "options": options_from(config.data).given(),
    }
