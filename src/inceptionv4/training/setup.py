"""Set up a training: check everything, build the network, and create or reopen the run folder.

    state = setup(config, dataset, ranks, folder)

All that can be wrong is found before the first file is written.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from inceptionv4.config import Config
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.data.options import options_from
from inceptionv4.data.rules import RULES
from inceptionv4.data.samples import Dataset
from inceptionv4.errors import ConfigError
from inceptionv4.runtime.device import Device, select_device
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.runtime.storage import PathOrUri, absolute
from inceptionv4.spec import ModelSpec
from inceptionv4.training.build_model import build_model
from inceptionv4.training.run.folder import RunFolder
from inceptionv4.training.run.history import History
from inceptionv4.training.run.resumption import Resumption
from inceptionv4.training.run.settings import describe_rate
from inceptionv4.training.run.state import Position, restore
from inceptionv4.training.tracker import require_tracker
from inceptionv4.training.train_step import TrainStep


@dataclass(kw_only=True)
class TrainingState:
    """All that a training works with between two steps. Only `position` and `last_saved` change."""

    config: Config
    """Settings, in which no precision is `auto` any more."""
    dataset: Dataset
    spec: ModelSpec
    train_step: TrainStep
    loader: TrainingLoader
    device: Device
    eval_device: Device
    """The same device, in the precision of evaluations."""
    ranks: Ranks
    folder: RunFolder
    history: History
    """Log and results of the run so far; empty on all processes but the first."""
    position: Position
    resumed: bool
    """True if the run goes on from a saved state."""
    incumbent: tuple[float, float] | None
    """Top-1 and negative loss of a `best` whose epoch a damaged state makes this run repeat."""
    facts: dict[str, Any]
    """What every checkpoint says of its training."""
    machines: list[dict[str, Any]]
    """Machines that the run was trained on, from which step on each."""
    remarks: list[str]
    """Lines for the user, printed once at the start."""
    last_saved: float = field(default_factory=time.monotonic)
    """Time of the last saved state, s."""


def open_dataset(config: Config, run: PathOrUri | None) -> tuple[Dataset, Device]:
    """Check what a user can get wrong in settings and data, which takes seconds and leaves nothing behind.

    Raises:
        ConfigError: no data are named.
    """
    if config.data.path is None:
        raise ConfigError("data.path is not set: say which images to train on with --data FOLDER")
    require_tracker(config.training.tracker)
    # A resumed run has its own precision, which is read from its state later.
    device = select_device(config.training.device, config.training.precision if run is None else "auto")
    device.for_evaluation(config.training.eval_precision)  # fails early where the device lacks it
    return read_dataset(config.data.path, config.data.val_fraction, options_from(config.data)), device


def setup(config: Config, dataset: Dataset, ranks: Ranks, folder: RunFolder) -> TrainingState:
    """Check everything, build the network, and create or reopen the run folder, on every process.

    Raises:
        Error: as `train` says. Nothing was written then.
    """
    known = f"{dataset.train.exact_fingerprint} {dataset.val.exact_fingerprint} {dataset.source.version}"
    ranks.require_same(known, f"the images at {config.data.path}")
    data = describe_data(dataset, config)

    # 1. The state of the run, its settings, and the device.
    found = Resumption.read(folder, ranks)
    found.require_data(data)
    config, device = found.settle(config, ranks)

    # 2. The network. Its weights are drawn from the seed, so that a run can be repeated.
    torch.manual_seed(config.seed)
    spec = ModelSpec(
        classes=dataset.classes,
        architecture="inception-v4" if found.state is None else found.state.spec.architecture,
        width=config.model.width,
        preprocessing=config.image,
        origin=f"inceptionv4, recipe {config.recipe}",
    )
    network, spec, remarks = build_model(config.model, spec, resumes=found.state is not None)
    train_step = TrainStep(network, config, dataset.train, device, ranks)
    teacher = None if train_step.teacher is None else train_step.teacher.digest
    found.require_teacher(teacher)

    # 3. The batches.
    workers = device.default_workers() if config.data.workers is None else config.data.workers
    loader = TrainingLoader(dataset.train, config, workers=workers, rank=ranks.rank, ranks=ranks.count)
    found.require_batch(loader.batch_size)
    data["batch_size"] = loader.batch_size
    if found.state is not None:
        restore(found.state, train_step)
        loader.bad |= found.position.bad
    machines = found.machines(device.machine() | {"processes": str(ranks.count)}, device.precision)

    # 4. The run folder. All that can be wrong was found by now.
    if folder.place is None:
        folder.begin(config, device)
    history = found.apply(config) if ranks.first else History()
    remarks = [*folder.warnings, *loader.remarks, *remarks, *found.words]
    if found.begun is not None and found.state is not None:
        rate = describe_rate(found.begun, config, found.position.step, len(loader), loader.batch_size)
        remarks += [rate] if rate else []
    return TrainingState(
        config=config,
        dataset=dataset,
        spec=spec,
        train_step=train_step,
        loader=loader,
        device=device,
        eval_device=device.for_evaluation(config.training.eval_precision),
        ranks=ranks,
        folder=folder,
        history=history,
        position=found.position,
        resumed=found.state is not None,
        incumbent=None if found.recovery is None else found.recovery.incumbent,
        facts={"config": asdict(config), "data": data, "run": found.run_id(), "teacher": teacher},
        machines=machines,
        remarks=remarks,
    )


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
