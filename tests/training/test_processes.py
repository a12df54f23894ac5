"""Two processes under `torchrun` train as one that goes through its batches in two parts; each may be lost, and so may
the machine of one.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nodes import SCRIPT, TRAINING, halves, make_nodes
from runs import assert_same_run

from inceptionv4.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    load_config,
)
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.errors import ConfigError, UsageError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.settings import dump
from inceptionv4.training.loop import train
from inceptionv4.training.run.state import saved_states, step_of
from inceptionv4.training.train_step import sync_norms
from inceptionv4.weights.checkpoint import load_checkpoint

SECONDS = 200


def launch(  # one thread each, so that sums are rounded alike: a step of AdamW makes much of a difference in rounding
    config: Config, *event: object, processes: int = 2, restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    file = Path(config.output) / "settings.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump(config))
    launcher = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
        *(f"--max-restarts={restarts}", str(SCRIPT), str(file), *map(str, event)),
    ]
    return subprocess.run(
        launcher, capture_output=True, text=True, timeout=SECONDS, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def losses(run: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()])


@pytest.fixture(scope="module")
def alone(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(halves(textures, tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def together(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("together")
    ended = launch(halves(textures, output))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{output}/test/1\n"
    assert ended.stderr.count("2 processes") == 1
    return output / "test/1"


def test_two_processes_are_one_that_takes_two_parts(alone: Path, together: Path) -> None:
    """Losses, weights, norms' statistics, average and optimizer: everything in the state, over 22 steps."""
    assert len(losses(alone)) == len(losses(together)) == 22
    assert np.abs(losses(alone) - losses(together)).max() < 1e-5
    one, two = (load_checkpoint(saved_states(run)[0]) for run in (alone, together))
    assert one.weights.keys() == two.weights.keys()
    for name, value in one.weights.items():
        if value.is_floating_point():
            torch.testing.assert_close(two.weights[name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert one.training["metrics"]["top1"] == two.training["metrics"]["top1"]
    assert one.training["metrics"]["images"] == two.training["metrics"]["images"] == 45
    assert one.training["metrics"]["loss"] == pytest.approx(two.training["metrics"]["loss"], abs=1e-5)


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_is_started_again_and_nothing_is_lost(
    rank: int, textures: Path, tmp_path: Path, together: Path
) -> None:
    ended = launch(halves(textures, tmp_path), 14, rank, "SIGKILL", restarts=2)
    assert ended.returncode == 0, ended.stderr
    assert "going on after step" in ended.stderr
    assert_same_run(tmp_path / "test/1", together)


@pytest.mark.slow
def test_a_machine_is_lost_and_comes_back(textures: Path, tmp_path: Path, together: Path) -> None:
    """The second of two that share nothing, with its agent; the first waits, and both go on from the last state."""
    first, second = make_nodes(tmp_path, textures, halves(Path("data"), Path("runs")))
    agents = [first.start(), second.start(14, 1, "NODE")]
    try:
        assert agents[1].wait(SECONDS) == -9
        agents.append(second.start())
        assert agents[2].wait(SECONDS) == 0, second.said
        assert agents[0].wait(SECONDS) == 0, first.said
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert "lost the others" in first.said
    assert "going on after step" in first.said
    assert_same_run(first.folder / "runs/test/1", together)
    assert not (second.folder / "runs").exists()


@pytest.mark.slow
def test_processes_may_change_on_the_way(textures: Path, tmp_path: Path, together: Path) -> None:
    """Two, one, two; each stopped by a signal to one of them only."""
    config = halves(textures, tmp_path)
    for step, rank, processes in ((4, 1, 2), (15, 0, 1)):
        ended = launch(config, step, rank, "SIGTERM", processes=processes)
        assert ended.returncode != 0
        assert f"SIGTERM after step {step}; everything is saved" in ended.stderr
        assert len(losses(tmp_path / "test/1")) == step
    assert launch(config).returncode == 0
    largest = np.abs(losses(tmp_path / "test/1") - losses(together)).max()
    print(f"largest difference of a loss: {largest:.1e}")
    assert largest < 1e-6


@pytest.mark.slow
def test_processes_may_change_where_states_are_damaged_or_gone(textures: Path, tmp_path: Path, together: Path) -> None:
    """Two, of which the second is killed; one, from the state before the damaged one; two, from `last` alone."""
    config = dataclasses.replace(halves(textures, tmp_path), checkpoint=CheckpointConfig(every_minutes=0))
    run = tmp_path / "test/1"
    assert launch(config, 4, 1, "SIGKILL").returncode != 0
    newest, before = saved_states(run)[:2]
    newest.write_bytes(newest.read_bytes()[:-1])
    ended = launch(config, 15, 0, "SIGTERM", processes=1)
    assert ended.returncode != 0
    assert f"going on after step {step_of(before)}\n" in ended.stderr
    assert "goes on elsewhere (processes 2 before, 1 now)" in ended.stderr.replace("\n", " ")
    for path in saved_states(run):
        path.unlink()
    ended = launch(config)
    assert ended.returncode == 0, ended.stderr
    assert "going on after step 15" in ended.stderr
    assert np.abs(losses(run) - losses(together)).max() < 1e-6


@pytest.mark.slow
def test_parts_and_processes_multiply_and_a_loss_that_is_no_number_ends_all(textures: Path, tmp_path: Path) -> None:
    """Two processes with two parts each are one with four, until the second of them spoils step 15."""
    training = dataclasses.replace(TRAINING, accumulate=4)
    optimizer = OptimizerConfig(name="sgd", lr=1e-3, momentum=0.0)  # which does not make much of rounding
    config = dataclasses.replace(halves(textures, tmp_path), training=training, optimizer=optimizer)
    ended = launch(config, 14, 1, "NAN")
    assert ended.returncode != 0
    said = re.findall(r"error: training diverged in step 15: loss nan, gradient norm .*; its 8 images .*", ended.stderr)
    assert len(said) == 2, ended.stderr
    assert said[0] == said[1], "both name the images of the second process"
    assert len(losses(tmp_path / "test/1")) == 14
    alone = train(dataclasses.replace(config, output=str(tmp_path / "alone")))
    # Four gradients are added up in another order, so that rounding differs, and grows tenfold every few steps.
    assert np.abs(losses(alone)[:6] - losses(tmp_path / "test/1")[:6]).max() < 1e-5


@pytest.mark.slow
def test_a_loss_without_bounds_on_the_first_process_ends_both_before_the_step(textures: Path, tmp_path: Path) -> None:
    ended = launch(halves(textures, tmp_path), 2, 0, "INF")
    assert ended.returncode != 0
    said = re.findall(r"error: training diverged in step 3: loss inf, .*; its 8 images .*", ended.stderr)
    assert len(said) == 2, ended.stderr
    assert said[0] == said[1], "both name the images of the first process"
    assert len(losses(tmp_path / "test/1")) == 2


@pytest.mark.slow
def test_images_that_cannot_be_decoded_are_counted_once(textures: Path, tmp_path: Path) -> None:
    shutil.copytree(textures, tmp_path / "data")
    damaged = tmp_path / "data/train/grass/007.jpg"
    damaged.write_bytes(damaged.read_bytes()[:500])
    data, schedule = DataConfig(path=str(tmp_path / "data"), workers=0), ScheduleConfig(epochs=1, warmup_epochs=0.5)
    ended = launch(dataclasses.replace(halves(textures, tmp_path), data=data, schedule=schedule))
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "test/1/results.csv").open(newline="") as file:
        assert [row["skipped_images"] for row in csv.DictReader(file)] == ["1"]
    assert ended.stderr.count(f"skipped: {damaged}") == 1


def test_norms_are_synchronised_on_accelerators_only() -> None:
    network = InceptionV4(3, width=0.1)
    with pytest.raises(UsageError, match="on accelerators only; leave --training.sync_norms false on a CPU"):
        sync_norms(network, select_device("cpu"))
    names = list(network.state_dict())
    elsewhere = dataclasses.replace(select_device("cpu"), device=torch.device("meta"))
    synced = sync_norms(network, elsewhere)
    assert list(synced.state_dict()) == names
    kinds = {type(module).__name__ for module in synced.modules()}
    assert "SyncBatchNorm" in kinds
    assert "BatchNorm2d" not in kinds


def test_a_batch_has_two_images_for_each_process(textures: Path) -> None:
    samples = read_dataset(textures).train
    config = dataclasses.replace(load_config("digits"), training=TrainingConfig(batch_size=6))
    TrainingLoader(samples, config, workers=0, ranks=3)
    for ranks in (4, 5):
        with pytest.raises(ConfigError, match=f"must be a multiple of the {ranks} processes with two images for each"):
            TrainingLoader(samples, config, workers=0, ranks=ranks)
