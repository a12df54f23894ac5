"""One training step: forward, loss, backward, optimizer and EMA, in micro-batches, on every process."""

from __future__ import annotations

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inceptionv4.config import Config
from inceptionv4.data.loader import Batch
from inceptionv4.data.samples import Samples
from inceptionv4.errors import DivergedError, UsageError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import Device
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.training.batch_norm import BatchNormStatistics
from inceptionv4.training.losses import Loss, Teacher, class_weights, mix
from inceptionv4.training.optimizer import ModelEma, build_optimizer, freeze, frozen_stages, train_mode

MAX_OVERFLOWS = 25
"""In a row, of fp16's gradients: by then the scale has fallen to 1/33,000,000 of what it was."""


@dataclass(frozen=True)
class Step:
    """What came of a step: the mean loss, the gradient's norm before it was clipped, and how many images there were."""

    loss: float
    gradient_norm: float
    images: int


class TrainStep:
    """A network with its EMA, loss and optimizer, on one device of each process.

    The batch of a step goes through in `training.accumulate` parts over all processes. A part is the same whichever
    process it is on: dropout and mixing are seeded by its number, and gradients, losses and the norms' statistics add
    up to the same. So two processes compute what one does that accumulates two parts, but for rounding.
    """

    def __init__(
        self, network: InceptionV4, config: Config, samples: Samples, device: Device, ranks: Ranks | None = None
    ) -> None:
        """Raises:
        ConfigError: there is no such stage to freeze.
        UsageError: norms cannot be synchronised on this device, or the teacher is none for these classes.
        """
        self.config, self.samples, self.device = config, samples, device
        self.ranks = Ranks() if ranks is None else ranks
        frozen = frozen_stages(config.training.freeze)
        freeze(network, frozen)
        device.place(network)
        network.checkpointed = config.training.activation_checkpointing == "blocks"
        self.ema = ModelEma(network, config.training.ema_decay)
        if config.training.sync_norms and self.ranks.count > 1:
            network = sync_norms(network, device)
        train_mode(network, frozen)
        compile_network(network, config.training.compile)
        self.network = network
        self.teacher = None
        if config.loss.teacher is not None:
            self.teacher = Teacher(config.loss.teacher, samples.classes, config.image, device)
        self.loss = Loss(config.loss, len(samples.classes), class_weights(samples, config.loss, device))
        self.optimizer = build_optimizer(network, config.optimizer)
        self.scaler = device.scaler()
        self.overflows = 0
        self.batch_norm = BatchNormStatistics(network)
        self._model: nn.Module = network
        if self.ranks.count > 1:
            # Statistics are averaged instead of the first process's being copied to all.
            self._model = DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def step(self, batch: Batch, number: int, lr: float) -> Step | None:
        """Train on this process's share of a batch, as step `number` from 0, with the learning rate `lr`.

        Returns None, with nothing changed, where there is no step: some process has fewer than two images, which a
        batch norm cannot do with, or the gradients overflowed in fp16.

        Raises:
            DivergedError: the loss or the gradient is no longer finite, or fp16 overflowed 25 times in a row; nothing
                is changed.
        """
        images, weight, short = self.ranks.total(len(batch), self.loss.weight(batch.labels), len(batch) < 2)
        if short:
            return None
        self.batch_norm.begin()
        slices = self.parts(batch)
        loss = 0.0
        for place, part in enumerate(slices):
            seed = part_seed(self.config.seed, number, self.ranks.rank * len(slices) + place)
            torch.manual_seed(seed)
            inputs, targets = self.inputs(batch.part(part), seed)
            with self._reduce_gradients(last=place == len(slices) - 1):
                with self.device.autocast():
                    logits = self._model(inputs)
                answers = None if self.teacher is None else self.teacher(inputs)
                mean = self.loss(logits.float(), targets, answers) / weight
                # The processes' gradients are averaged, but they are parts of one sum.
                self.scaler.scale(mean * self.ranks.count).backward()  # type: ignore[no-untyped-call]
            loss += mean.item()
            self.batch_norm.add(len(inputs) / images)
        (total,) = self.ranks.total(loss)
        self.scaler.unscale_(self.optimizer)
        gradient_norm = clip_gradient(self.network, self.config.optimizer.clip_norm)
        if not (math.isfinite(total) and math.isfinite(gradient_norm)):
            self._reject(batch, number, loss, total, gradient_norm)
            return None
        self.overflows = 0
        self.batch_norm.end(self.ranks)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update()
        return Step(total, gradient_norm, int(images))

    def parts(self, batch: Batch) -> list[slice]:
        """How this process divides its share of a batch."""
        return parts(len(batch), -(-self.config.training.accumulate // self.ranks.count))

    def inputs(self, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
        """What the network sees of a part: float32 images `(B, 3, size, size)` and targets `(B, K)`."""
        images = batch.to_input(self.device.device, self.config.image)
        targets = self.loss.targets(batch.labels.to(self.device.device, non_blocking=True))
        return mix(images, targets, self.config.augment, np.random.default_rng(seed))

    def _reduce_gradients(self, *, last: bool) -> AbstractContextManager[None]:
        """The processes exchange gradients with the last part only, which carries those of all."""
        if isinstance(self._model, DistributedDataParallel) and not last:
            no_sync: AbstractContextManager[None] = self._model.no_sync()
            return no_sync
        return nullcontext()

    def _reject(self, batch: Batch, number: int, loss: float, total: float, gradient_norm: float) -> None:
        """Go back to before the step; raise unless the cause is fp16's range, which a smaller scale avoids."""
        self.batch_norm.undo()
        self.optimizer.zero_grad()
        facts = f"loss {total:g}, gradient norm {gradient_norm:g}"
        if self.scaler.is_enabled() and math.isfinite(total):
            self.scaler.update()
            self.overflows += 1
            if self.overflows < MAX_OVERFLOWS:
                return
            raise DivergedError(
                f"training diverged in step {number + 1}: {facts}, in fp16 {MAX_OVERFLOWS} times in a row; "
                "use --training.precision bf16 or fp32, or lower --optimizer.lr"
            )
        # Of several processes, those whose own loss is sound need not be searched.
        names = [self.samples.describe(index) for index in batch.indices[:5].tolist()]
        shares = self.ranks.gather((math.isfinite(loss), len(batch), names))
        guilty = [share for share in shares if not share[0]] or shares
        raise DivergedError(
            f"training diverged in step {number + 1}: {facts}; its {sum(share[1] for share in guilty)} images begin "
            f"with {', '.join(guilty[0][2])}; lower --optimizer.lr or raise --schedule.warmup_epochs "
            "(the last saved state is sound)"
        )


def sync_norms(network: InceptionV4, device: Device) -> InceptionV4:
    """The network with norms that see the images of all processes, which torch has for accelerators only.

    Raises:
        UsageError: on a CPU.
    """
    if device.device.type == "cpu":
        raise UsageError("torch synchronises norms on accelerators only; leave --training.sync_norms false on a CPU")
    synced: InceptionV4 = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return synced


def compile_network(network: InceptionV4, how: str) -> None:
    """Compile the network in place; its parameters keep their names.

    Blocks of the same shape share what is compiled for one of them, which is why they take a fraction of the time.
    Shapes are taken as they come: torch 2.14's compiler fails on pooling with shapes of its own making.
    """
    if how == "full":
        network.compile(dynamic=False)
    elif how == "blocks":
        for stage in network.features:
            stage.compile(dynamic=False)


def parts(images: int, count: int) -> list[slice]:
    """A batch of `images` in `count` parts of nearly equal size, or fewer: a batch norm needs two images in each."""
    count = max(min(count, images // 2), 1)
    edges = [images * part // count for part in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def part_seed(seed: int, step: int, part: int) -> int:
    """The seed of what is random in a part of a step, mixing and dropout: there is no state to be resumed."""
    return int(np.random.SeedSequence((seed, step, part)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def clip_gradient(network: nn.Module, largest: float | None) -> float:
    """Scale the whole gradient down to norm `largest` (None: leave it), and return the norm that it had."""
    return nn.utils.clip_grad_norm_(network.parameters(), math.inf if largest is None else largest).item()
