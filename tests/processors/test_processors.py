"""What must hold on any processor: on this CPU, as another one (`make check-isa`), and on an accelerator.

    pytest -m isa            on the CPU; tools/check_isa.py runs them with fewer of its instructions
    pytest -m accelerator    on whatever torch.accelerator finds: a GPU, an NPU

Answers are compared with the plain network in float64 on the CPU, as a share of the spread of its logits.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from inceptionv4.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    ScheduleConfig,
    TrainingConfig,
)
from inceptionv4.errors import StoppedError
from inceptionv4.inference.open_weights import Weights
from inceptionv4.network.inference_graph import build_inference_graph
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import select_device
from inceptionv4.spec import ModelSpec, Preprocessing
from inceptionv4.training.loop import train
from inceptionv4.training.recorder import Recorder
from inceptionv4.weights.checkpoint import load_checkpoint

PRECISIONS = ("fp32", "fp16", "bf16")
ANSWERS = {"fp32": 1e-5, "fp16": 5e-2, "bf16": 0.1}
"""Largest difference of a logit from float64's, as a share of the logits' spread."""
GRADIENTS = {"fp32": (1e-4, 0.02), "fp16": (0.05, 0.4), "bf16": (0.25, 0.8)}
"""Norm of a gradient's difference from float64's, as a share of its norm: the classifier's, and that of all weights.

149 layers multiply the rounding on its way back, by how much depends on the images; zeros would be 1, noise 1.4.
"""


@pytest.fixture(scope="module")
def network() -> InceptionV4:
    """A quarter of the width, with norms that have seen images like those of the tests."""
    torch.manual_seed(0)
    network = InceptionV4(10, width=0.25, dropout=0.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(floats(32))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    nn.init.normal_(network.classifier.weight, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return ModelSpec(
        classes=tuple("0123456789"), width=0.25, preprocessing=Preprocessing(size=75, mean=(0, 0, 0), std=(1, 1, 1))
    )


def pixels(count: int) -> Tensor:
    """Images of coarse and fine structure in colour, uint8."""
    generator = torch.Generator().manual_seed(count)
    coarse = nn.functional.interpolate(torch.rand(count, 3, 5, 5, generator=generator), 75, mode="bilinear")
    noise = torch.rand(count, 3, 75, 75, generator=generator)
    return ((0.7 * coarse + 0.3 * noise) * 255).to(torch.uint8)


def floats(count: int) -> Tensor:
    return pixels(count).float() / 255


def float64_logits(network: nn.Module, count: int) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network).double()(floats(count).double())  # type: ignore[no-any-return]


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / (expected.max() - expected.min()))


# Answers


@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_are_float64s_within_the_rounding_of_each_precision(
    device: str, network: InceptionV4, spec: ModelSpec, precision: Any
) -> None:
    backend = Weights(build_inference_graph(copy.deepcopy(network)), spec, device=device).open("torch", precision)
    expected = float64_logits(network, 21)
    found = difference(backend.infer(pixels(21)), expected)
    assert found < ANSWERS[precision]
    if precision != "fp32":
        assert found > 5 * ANSWERS["fp32"], "it is what it says that it is"
    assert backend.precision == precision


def test_an_image_is_told_the_same_in_any_batch(device: str, network: InceptionV4, spec: ModelSpec) -> None:
    backend = Weights(build_inference_graph(copy.deepcopy(network)), spec, device=device).open()
    images = pixels(40)
    together = backend.infer(images)
    for size in (1, 7, 16):
        apart = torch.cat([backend.infer(part) for part in images.split(size)])
        assert difference(apart, together.double()) < ANSWERS["fp32"]


def test_onnx_runtime_answers_alike_on_its_own_provider(device: str, network: InceptionV4, spec: ModelSpec) -> None:
    pytest.importorskip("onnxruntime")
    from inceptionv4.inference.backends.onnx import devices

    if torch.device(device).type not in devices():
        pytest.skip(f"this onnxruntime was built for {' and '.join(devices())} alone")
    backend = Weights(build_inference_graph(copy.deepcopy(network)), spec, device=device).open("onnxruntime")
    assert ("CPU" in backend.describe()) is (device == "cpu")
    assert difference(backend.infer(pixels(21)), float64_logits(network, 21)) < ANSWERS["fp32"]


def test_an_evaluation_finds_the_same_loss_with_fewer_instructions(narrow_model: Path, textures: Path) -> None:
    """Within 1e-6 of it, as with AVX-512 or AVX2 alone; on a processor that has no more it is the same again."""
    found = []
    for isa in (
        {},
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    ):
        options = ("--data", textures, "--json", "--device", "cpu")
        command = [sys.executable, "-m", "inceptionv4", "evaluate", narrow_model, *options]
        done = subprocess.run(command, env=os.environ | isa, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    assert {one["precision"] for one in found} == {"fp32"}
    for one in found[1:]:
        assert one["loss"] == pytest.approx(found[0]["loss"], rel=1e-6, abs=0)


# Training


def gradient(network: nn.Module) -> Tensor:
    """Of all parameters, float64 on the CPU."""
    return torch.cat([parameter.grad.flatten().double().cpu() for parameter in network.parameters()])  # type: ignore[union-attr]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_has_float64s_loss_and_gradient_within_the_rounding_of_each_precision(
    device: str, precision: Any
) -> None:
    """The plain network in float64 is the reference, with running statistics that follow."""
    torch.manual_seed(0)
    fresh = InceptionV4(10, width=0.25, dropout=0.0)
    images, labels = floats(16), torch.arange(16) % 10
    plain = copy.deepcopy(fresh).double().train()
    features = plain.features(images.double())  # its modules, which a training on a CPU does not call
    expected_loss = cross_entropy(plain.classifier(features.mean((2, 3))), labels)
    expected_loss.backward()  # type: ignore[no-untyped-call]

    selected = select_device(device, precision)
    trained = fresh.train()
    selected.place(trained)
    scaler = selected.scaler()
    scaler.scale(torch.ones((), device=selected.device))
    scaler.update(128.0)  # where fp16's gradients do not overflow, which a training finds by itself
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0)
    on_device = images.to(selected.device).contiguous(memory_format=selected.memory_format)
    with selected.autocast():
        logits = trained(on_device)
    loss = cross_entropy(logits.float(), labels.to(selected.device))
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    assert float(loss.detach()) == pytest.approx(float(expected_loss.detach()), rel=ANSWERS[precision])
    of_classifier, of_all = GRADIENTS[precision]
    assert error(gradient(trained.classifier), gradient(plain.classifier)) < of_classifier
    assert error(gradient(trained), gradient(plain)) < of_all
    for name, value in plain.named_buffers():
        if name.endswith("running_var"):
            moved = trained.get_buffer(name).double().cpu()
            assert error(moved, value) < ANSWERS[precision], name


def settings(data: Path, output: Path, device: str, **changes: Any) -> Config:
    config = Config(
        recipe="test",
        output=str(output),
        data=DataConfig(path=str(data), workers=0),
        image=Preprocessing(size=75, crop=1.0),
        augment=AugmentConfig(area=(0.3, 1.0), color=0.3, mixup=0.2),
        model=ModelConfig(width=0.1, dropout=0.5),
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
        training=TrainingConfig(batch_size=45, ema_decay=0.9, precision="fp32", device=device),
    )
    return dataclasses.replace(config, **changes)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(
    device: str, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit on a CPU; accelerators add up in an order of chance, so within 1 % of the weights' size there."""
    whole = Path(train(settings(textures, tmp_path / "whole", device)))
    config = settings(textures, tmp_path / "stopped", device)
    original = Recorder.step

    def stop(self: Recorder, record: Any) -> None:
        original(self, record)
        if record.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "step", stop)
        with pytest.raises(StoppedError, match="after step 2"):
            train(config)
    stopped = Path(train(config, run=tmp_path / "stopped/test/1"))
    one, other = (load_checkpoint(run / "checkpoints/last.safetensors").model_weights() for run in (whole, stopped))
    for name, value in one.items():
        if device == "cpu":
            assert torch.equal(value, other[name]), name
        elif value.is_floating_point():
            assert float((value - other[name]).norm()) <= 0.01 * float(value.norm()) + 1e-6, name


def test_ddp_on_one_device_computes_what_the_network_does(device: str, network: InceptionV4) -> None:
    """A group of one process, by what torch takes for the device: gloo, nccl or hccl."""
    selected = select_device(device, "fp32")
    images = floats(8).to(selected.device).contiguous(memory_format=selected.memory_format)
    labels = (torch.arange(8) % 10).to(selected.device)
    gradients = []
    for wrapped in (False, True):
        trained: nn.Module = copy.deepcopy(network).train()
        selected.place(trained)
        if wrapped:
            dist.init_process_group(selected.collectives(), store=dist.HashStore(), rank=0, world_size=1)
        try:
            model = DistributedDataParallel(trained) if wrapped else trained
            cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        finally:
            if wrapped:
                dist.destroy_process_group()
        gradients.append(gradient(trained))
    assert error(gradients[1], gradients[0]) < 1e-5


def test_memory_is_that_of_the_device(device: str) -> None:
    """In a process of its own: what is allocated there is its peak, and less than there is."""
    code = """
import sys, torch
from inceptionv4.runtime.device import select_device
from inceptionv4.runtime.memory import peak_memory, total_memory
device = select_device(sys.argv[1], "fp32")
torch.ones(1, device=device.device)
before = peak_memory(device)
held = torch.ones(100 * 2**20, device=device.device)
print(peak_memory(device) - before, held.nbytes, total_memory(device))
"""
    done = subprocess.run([sys.executable, "-c", code, device], capture_output=True, text=True, check=True)
    gained, held, total = map(int, done.stdout.split())
    assert 0.9 * held < gained < 1.3 * held
    assert held < total
