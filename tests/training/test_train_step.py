"""One step: in fp16 an overflow changes nothing; a teacher is listened to; parts see the statistics of the whole."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inceptionv4.config import AugmentConfig, Config, DataConfig, LossConfig, ModelConfig, TrainingConfig
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import Batch, TrainingLoader
from inceptionv4.data.samples import Dataset
from inceptionv4.errors import CheckpointError, DivergedError, UsageError
from inceptionv4.imagenet import names_of_wnids
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.distributed import Ranks
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.training.batch_norm import BatchNormStatistics
from inceptionv4.training.losses import Teacher
from inceptionv4.training.run.recovery import inspect_run
from inceptionv4.training.run.state import Position, read_position, restore, save_state
from inceptionv4.training.train_step import MAX_OVERFLOWS, TrainStep
from inceptionv4.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def dataset(textures: Path) -> Dataset:
    return read_dataset(textures)


def config(**training: Any) -> Config:
    return Config(
        image=Preprocessing(size=75, crop=1.0),
        augment=AugmentConfig(area=(0.5, 1.0)),
        data=DataConfig(workers=0),
        model=ModelConfig(width=0.1, dropout=0.0),
        training=TrainingConfig(batch_size=12, ema_decay=0.9, **{"precision": "fp32", **training}),
    )


def train_step(dataset: Dataset, settings: Config) -> TrainStep:
    torch.manual_seed(0)
    network = InceptionV4(3, width=0.1, dropout=0.0)
    device = select_device("cpu", settings.training.precision)
    return TrainStep(network, settings, dataset.train, device)


def first_batch(dataset: Dataset, settings: Config) -> Batch:
    return next(TrainingLoader(dataset.train, settings, workers=0).epoch(0))


def everything(it: TrainStep) -> dict[str, Tensor]:
    state = {f"network {name}": value for name, value in it.network.state_dict().items()}
    state |= {f"average {name}": value for name, value in it.ema.network.state_dict().items()}
    for name, parameter in it.network.named_parameters():
        slots = it.optimizer.state.get(parameter, {})
        state |= {f"optimizer {name} {slot}": value for slot, value in slots.items()}
    return {name: value.clone() for name, value in state.items() if "num_batches" not in name}


def rescale(it: TrainStep, scale: float) -> None:
    it.scaler.load_state_dict(it.scaler.state_dict() | {"scale": scale})


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_fp16_learns_and_an_overflow_advances_nothing(dataset: Dataset, tmp_path: Path) -> None:
    settings = config(precision="fp16")
    it, batch = train_step(dataset, settings), first_batch(dataset, settings)
    assert it.device.precision == "fp16"
    assert it.step(batch, 0, 1e-3) is not None
    before, steps, scale = everything(it), it.ema.steps, it.scaler.get_scale()
    rescale(it, 2.0**60)
    for overflow in range(3):
        assert it.step(batch, 1, 1e-3) is None
        assert it.overflows == overflow + 1
        assert it.scaler.get_scale() == 2.0 ** (59 - overflow)
        assert same(everything(it), before)
        assert it.ema.steps == steps
    # It goes on where it was, also after a stop.
    spec = ModelSpec(classes=dataset.classes, width=0.1)
    (tmp_path / "checkpoints").mkdir()
    save_state(tmp_path, Checkpoint(it.ema.network.state_dict(), spec), it, Position(step=1), keep=1)
    saved = inspect_run(tmp_path).state
    assert saved is not None
    assert read_position(saved).step == 1
    again = train_step(dataset, settings)
    restore(saved, again)
    assert (again.overflows, again.scaler.get_scale()) == (3, 2.0**57)
    for resumed in (it, again):
        rescale(resumed, scale)
        assert resumed.step(batch, 1, 1e-3) is not None
        assert resumed.overflows == 0
    assert same(everything(it), everything(again))
    assert not same(everything(it), before)


def test_fp16_gives_up_after_too_many_overflows(dataset: Dataset) -> None:
    settings = config(precision="fp16")
    it, batch = train_step(dataset, settings), first_batch(dataset, settings)
    rescale(it, 2.0**100)
    before = everything(it)
    assert [it.step(batch, 7, 1e-3) for _ in range(MAX_OVERFLOWS - 1)] == [None] * 24
    with pytest.raises(DivergedError, match=r"step 8: .*in fp16 25 times in a row; use --training\.precision bf16"):
        it.step(batch, 7, 1e-3)
    assert same(everything(it), before)


def test_fp16_and_bf16_follow_fp32(dataset: Dataset) -> None:
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        settings = config(precision=precision)
        it, batch = train_step(dataset, settings), first_batch(dataset, settings)
        steps = [it.step(batch, number, 1e-3) for number in range(6)]
        losses[precision] = [step.loss for step in steps if step is not None]
    assert losses["fp32"][-1] < losses["fp32"][0] - 0.1
    assert losses["fp16"] == pytest.approx(losses["fp32"], abs=0.05)
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.1)


def test_a_batch_too_small_for_a_norm_is_no_step(dataset: Dataset) -> None:
    settings = config()
    it, batch = train_step(dataset, settings), first_batch(dataset, settings)
    before = everything(it)
    assert it.step(batch.part(slice(0, 1)), 0, 1e-3) is None
    assert it.step(batch.part(slice(0, 0)), 0, 1e-3) is None
    assert same(everything(it), before)


def test_statistics_move_once_by_the_mean_over_parts() -> None:
    norm = torch.nn.BatchNorm2d(4)
    statistics = BatchNormStatistics(norm)
    images = torch.randn(6, 4, 5, 5)
    statistics.begin()
    expected = []
    for part in (slice(0, 2), slice(2, 6)):
        norm(images[part])
        alone = copy.deepcopy(norm).requires_grad_(False)
        alone.reset_running_stats()
        alone(images[part])
        expected.append((alone.running_mean, alone.running_var))
        statistics.add((part.stop - part.start) / 6)
    statistics.end(Ranks())
    for place, name in enumerate(("running_mean", "running_var")):
        mean = expected[0][place] / 3 + expected[1][place] * 2 / 3
        torch.testing.assert_close(getattr(norm, name), mean)


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    network = InceptionV4(3, width=0.1)
    torch.nn.init.normal_(network.classifier.weight, std=1.0)
    pixels = Preprocessing(size=75, crop=1.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_checkpoint(
        Checkpoint(network.state_dict(), ModelSpec(classes=dataset.classes, width=0.1, preprocessing=pixels)), path
    )
    return path


def test_a_teacher_sees_the_same_pictures(dataset: Dataset, teacher: Path) -> None:
    student = Preprocessing(size=75, crop=1.0)
    it = Teacher(str(teacher), dataset.classes, student, select_device("cpu", "fp32"))
    batch = first_batch(dataset, config())
    own = Preprocessing(size=75, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    answers = it(batch.to_input(torch.device("cpu"), student))
    expected = it.network(batch.to_input(torch.device("cpu"), own))
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-4)
    assert answers.std() > 0.1


def test_a_student_comes_to_answer_as_its_teacher(dataset: Dataset, teacher: Path) -> None:
    """Taught by the teacher alone, the difference of their answers falls; the labels have no say."""
    loss = LossConfig(teacher=str(teacher), teacher_share=1.0, teacher_temperature=2.0)
    settings = dataclasses.replace(config(), loss=loss)
    it, batch = train_step(dataset, settings), first_batch(dataset, settings)
    losses = []
    for number in range(25):
        step = it.step(batch, number, 2e-3)
        assert step is not None
        losses.append(step.loss)
    assert losses[-1] < losses[0] / 3
    wrong = dataclasses.replace(batch, labels=(batch.labels + 1) % 3)
    one, other = it.step(batch, 25, 0.0), it.step(wrong, 25, 0.0)
    assert one is not None
    assert other is not None
    assert one.loss == other.loss


def test_a_teacher_may_call_imagenets_classes_by_name_where_the_data_have_wnids(
    dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """As timm's weights do, and folders of ImageNet."""
    wnids = tuple(names_of_wnids())[:3]
    names = tuple(names_of_wnids()[wnid] for wnid in wnids)
    saved = load_checkpoint(teacher)
    path = tmp_path / "names.safetensors"
    save_checkpoint(dataclasses.replace(saved, spec=dataclasses.replace(saved.spec, classes=names)), path)
    device = select_device("cpu", "fp32")
    Teacher(str(path), wnids, Preprocessing(), device)
    with pytest.raises(UsageError, match="answers in other classes"):
        Teacher(str(path), wnids[::-1], Preprocessing(), device)


def test_a_teacher_of_other_classes_is_refused(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    device = select_device("cpu", "fp32")
    with pytest.raises(UsageError, match="answers in other classes than the data have"):
        Teacher(str(teacher), ("a", "b", "c"), Preprocessing(), device)
    with pytest.raises(UsageError, match="no model at"):
        Teacher(str(tmp_path / "none"), dataset.classes, Preprocessing(), device)
    (tmp_path / "damaged.safetensors").write_bytes(teacher.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        Teacher(str(tmp_path / "damaged.safetensors"), dataset.classes, Preprocessing(), device)
