"""Training: what it needs is set up, then epochs of steps, each epoch with an evaluation."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inceptionv4.config import Config
from inceptionv4.data.index import Dataset, read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader
from inceptionv4.errors import ConfigError, DataError, RunError, StoppedError, StorageError
from inceptionv4.evaluation.evaluate import evaluate_backend
from inceptionv4.inference.backends.torch import TorchBackend
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.runtime.distributed import Ranks, join_ranks
from inceptionv4.runtime.signals import StopRequests, asked_for
from inceptionv4.runtime.storage import Place, absolute, is_uri
from inceptionv4.spec import ModelSpec
from inceptionv4.training.learner import Learner, part_seed
from inceptionv4.training.mirror import Mirror
from inceptionv4.training.plots import draw_inputs
from inceptionv4.training.recorder import Recorder, Silence, StepRecord
from inceptionv4.training.run import create_run
from inceptionv4.training.schedule import image_size, learning_rate
from inceptionv4.training.start import make_network
from inceptionv4.training.state import Position, load_state, read_position, restore, save_state
from inceptionv4.training.tracker import make_tracker
from inceptionv4.weights.checkpoint import Checkpoint, save_checkpoint
from inceptionv4.weights.load import BEST


def train(config: Config, *, run: Place | None = None) -> Place:
    """Train as `config` says, and return the run folder.

    Every epoch ends with an evaluation on the held-out images and a saved state; the averaged weights with the highest
    top-1 are kept as `best`. With `run`, a folder that `find_run` found, its training goes on where its newest sound
    state is: on a CPU, everything is then as if it had never stopped, to the last bit. Under `torchrun` all processes
    train as one; the first of them reads and writes the run folder, which the others need not see. A run folder at a
    URI is sent there whenever a state is saved.

    Raises:
        ConfigError: no data are named.
        UsageError: no such device or starting weights.
        DataError: the data cannot be used, are not those of the run or not the same for all processes, or have too many
            images that cannot be decoded.
        CheckpointError: the run's states are of other settings.
        RunError: the run folder cannot be written or is not where the first process looks, or another process is gone.
        StorageError: data, weights or run folder are in object storage, which cannot be reached, or refuses.
        DivergedError: the loss or the gradient is no longer finite; the weights before that step are kept.
        StoppedError: SIGTERM or SIGINT; the step was finished, and the state saved.
    """
    # What a user can get wrong comes first, so that a mistake costs seconds and leaves nothing behind.
    if config.data.path is None:
        raise ConfigError("data.path is not set: say which images to train on with --data FOLDER")
    device = select_device(config.training.device, config.training.precision)
    device.for_evaluation(config.training.eval_precision)  # fails early where the device lacks it
    dataset = read_dataset(config.data.path, config.data.val_fraction)
    with join_ranks(device) as ranks, StopRequests() as stop:
        return Training(config, dataset, device, ranks, stop, run).finish()


class Training:
    """A training between two steps: all that it goes on with, and where it is."""

    def __init__(
        self, config: Config, dataset: Dataset, device: Device, ranks: Ranks, stop: StopRequests, run: Place | None
    ) -> None:
        self.config, self.dataset, self.device, self.ranks, self.stop = config, dataset, device, ranks, stop
        self.eval_device = device.for_evaluation(config.training.eval_precision)
        self.facts = _training_facts(config, dataset)
        ranks.require_same(dataset.train.fingerprint, f"the images at {config.data.path}")
        run = the_run(run, ranks)
        self.mirror = Mirror(str(run)) if run is not None and is_uri(run) and ranks.first else None
        folder = Path(run or "") if self.mirror is None else self.mirror.fetch()
        saved, self.complaints = ranks.broadcast(load_state(folder) if run is not None and ranks.first else (None, []))
        if saved is not None and saved.training["data"]["fingerprint"] != self.facts["data"]["fingerprint"]:
            raise DataError(
                f"the images at {config.data.path} are not those that {run} was trained on; start a new run"
            )

        torch.manual_seed(config.seed)
        spec = ModelSpec(
            classes=dataset.classes,
            architecture="inception-v4" if saved is None else saved.spec.architecture,
            width=config.model.width,
            preprocessing=config.image,
            origin=f"inceptionv4, recipe {config.recipe}",
        )
        network, self.spec, self.remarks = make_network(config.model, spec, resumes=saved is not None)
        self.learner = Learner(network, config, dataset.train, device, ranks)
        self.workers = device.default_workers() if config.data.workers is None else config.data.workers
        self.loader = TrainingLoader(dataset.train, config, workers=self.workers, rank=ranks.rank, ranks=ranks.count)
        self.position = Position()
        if saved is not None:
            restore(saved, self.learner)
            self.position = read_position(saved)
            self.loader.bad |= self.position.bad
        self.resumed = saved is not None
        self.place = run or ranks.broadcast(create_run(config, device) if ranks.first else "")
        """The run folder as people call it."""
        if run is None and is_uri(self.place) and ranks.first:
            self.mirror = Mirror(str(self.place))
            self.mirror.begin()
            self.mirror.fetch()
        self.run = Path(self.place) if self.mirror is None else self.mirror.folder
        """Where the first process writes."""
        self.last_saved = time.monotonic()

    def finish(self) -> Place:
        """Train to the end, and return the run folder."""
        if self.mirror is None:
            self._train()
        else:
            with self.mirror:
                self._train()
        return self.place

    def _train(self) -> None:
        epochs = self.config.schedule.epochs
        images = epochs * len(self.loader) * self.loader.batch_size
        with self._recorder(images) as self.recorder:
            self.recorder.announce(self._opening())
            for remark in self.remarks:
                self.recorder.announce(remark)
            for complaint in self.complaints:
                self.recorder.announce(f"passed over: {complaint}")
            if self.resumed:
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

    def _train_epoch(self) -> None:
        """The steps of an epoch, from where it was left."""
        size = image_size(self.position.epoch, self.config)
        for batch in self.loader.epoch(self.position.epoch, self.position.batch, size):
            lr = learning_rate(self.position.step, self.config, len(self.loader))
            if self.position.step == 0 and self.ranks.first:
                self._draw_inputs(batch)
            step = self.learner.step(batch, self.position.step, lr)
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
        metrics = evaluate_backend(
            TorchBackend(self.learner.average.network, self.spec, self.eval_device, mode="eager"),
            self.dataset.val,
            workers=self.workers,
            ranks=self.ranks,
            after_batch=lambda _: self._heed_signals(),
        )
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
        checkpoint = self._model(metrics=asdict(metrics))
        # The best comes first: a training that is killed in between comes here again.
        if is_best and self.ranks.first:
            save_checkpoint(checkpoint, self.run / BEST)
        self._save(checkpoint)

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
                f"go on with `inceptionv4 train --resume {self.place}`",
            )

    def _share_bad(self) -> None:
        """Tell all processes of the images that each could not decode."""
        for bad in self.ranks.gather(self.loader.bad):
            self.loader.bad |= bad
        self.position = replace(self.position, bad=dict(self.loader.bad))

    def _model(self, **more: object) -> Checkpoint:
        """The averaged weights as a model of their own."""
        reached = {"epoch": self.position.epoch, "step": self.position.step}
        return Checkpoint(self.learner.average.network.state_dict(), self.spec, self.facts | reached | more)

    def _save(self, checkpoint: Checkpoint) -> None:
        if self.ranks.first:
            save_state(self.run, checkpoint, self.learner, self.position, self.config.checkpoint.keep)
            self._send()
        self.last_saved = time.monotonic()

    def _send(self) -> None:
        """Send what changed to where the run belongs. If that fails, the next time it is more."""
        if self.mirror is not None:
            try:
                self.mirror.send()
            except StorageError as error:
                self.recorder.announce(f"not sent, but kept in {self.run}: {error}")

    def _recorder(self, images: int) -> Recorder | Silence:
        if not self.ranks.first:
            return Silence()
        epochs, at = self.config.schedule.epochs, self.position
        tracker = make_tracker(self.config.training.tracker, self.run, at.step)
        return Recorder(self.run, images, epochs, epoch=at.epoch, step=at.step, tracker=tracker)

    def _draw_inputs(self, batch: Batch) -> None:
        """Show what the network sees first, mixed as it will be."""
        inputs, targets = self.learner.inputs(
            batch.part(self.learner.parts(batch)[0]), part_seed(self.config.seed, 0, 0)
        )
        draw_inputs(self.run, inputs, targets, self.spec)

    def _opening(self) -> str:
        source = self.dataset.source
        parameters = count_parameters(self.learner.network)
        processes = f", {self.ranks.count} processes" if self.ranks.count > 1 else ""
        others = f"; other files ignored: {source.table.ignored}" if source.table.ignored else ""
        device, precision = self.device.describe(), self.eval_device.precision
        if precision != self.device.precision:
            device += f" (evaluated in {precision})"
        return (
            f"{self.place}: Inception-v4, {parameters:,} parameters, on {device}{processes}\n"
            f"{source.location}: {len(self.dataset.classes)} classes, {len(self.dataset.train):,} images to train on, "
            f"{len(self.dataset.val):,} held out ({self.dataset.layout}{others})"
        )


def the_run(run: Place | None, ranks: Ranks) -> Place | None:
    """The run that the first process found, for all.

    Raises:
        RunError: the first found none, but another did: a training that went on would begin anew, unnoticed.
    """
    found = ranks.gather(run)
    for rank, place in enumerate(found):
        if found[0] is None and place is not None:
            raise RunError(
                f"process {rank} of {ranks.count} found {place} to go on with, which the first process does not see; "
                "keep runs where all machines see them (--output on a shared disk, or s3://...), or move that folder"
            )
    return found[0]


def out_of_patience(position: Position, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return patience is not None and position.epoch - position.best_epoch >= patience


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _training_facts(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint says of its training: the settings, and by which images to tell the data again."""
    return {
        "config": asdict(config),
        "data": {
            "location": absolute(dataset.source.location),
            "fingerprint": dataset.train.fingerprint,
            "val_fraction": config.data.val_fraction,
        },
    }
