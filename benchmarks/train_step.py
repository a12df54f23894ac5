"""A training step: ours, timm's, and the time of the convolutions alone, in one run.

    python benchmarks/train_step.py --json
    python benchmarks/train_step.py --json --compiled

299 px, batch 16, two threads. A step is the same for all: forward, cross entropy, backward, a fused AdamW. "train_step"
is ours as `inceptionv4 train` runs it, which besides normalises uint8 images, cuts the gradient's norm and averages
the weights. The floor is torch's own convolution, channels last: all 149 forward, backward to the images (but for the
first) and backward to the weights, and nothing else. Peak memory and the first step are of a process of each
contender's own, with nothing in any cache; the peak is that of the process, torch included, over two steps.

bf16 is measured where the processor multiplies in it, or with --bf16, which elsewhere takes minutes a step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import timm
import torch
from measure import Contender, circumstances, interleave, report, require_different
from torch import nn
from torch.nn.functional import cross_entropy

from inceptionv4.config import Config, TrainingConfig
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import Batch
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.device import Device, computes_bf16, select_device
from inceptionv4.runtime.memory import peak_memory
from inceptionv4.spec import Preprocessing
from inceptionv4.strict_json import to_json
from inceptionv4.training.train_step import TrainStep

SIZE, BATCH, CLASSES, THREADS = 299, 16, 1000, 2
BATCH_ON_ACCELERATOR = 128
PEERS = ("timm", "timm, NCHW", "timm, compiled")
KEYS = ("ratio_timm_eager", "ratio_timm_compiled", "fraction_of_convolution_floor", "peak_memory_ratio")


def batch_of(device: Device) -> int:
    """Images of a step."""
    return BATCH if device.device.type == "cpu" else BATCH_ON_ACCELERATOR


def trained(network: nn.Module, device: Device, layout: torch.memory_format, *, compiled: bool = False) -> Contender:
    batch = batch_of(device)
    network.train().to(device.device).to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, SIZE, SIZE, generator=generator).to(device.device, memory_format=layout)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(device.device)
    forward = torch.compile(network) if compiled else network

    def step() -> int:
        with device.autocast():
            logits = forward(images)
        cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        wait(device)
        return batch

    return step


def wait(device: Device) -> None:
    """An accelerator works on while Python goes on."""
    if device.device.type != "cpu":
        torch.accelerator.synchronize(device.device)


def timms(device: Device, layout: torch.memory_format, *, compiled: bool = False) -> Contender:
    network = timm.create_model("inception_v4", num_classes=CLASSES, drop_rate=0.2)
    return trained(network, device, layout, compiled=compiled)


def ours(device: Device, *, plain: bool = False, checkpointed: bool = False) -> Contender:
    network = InceptionV4(CLASSES)
    network.checkpointed = checkpointed
    if plain:  # the modules as they are: nothing is computed twice
        network._run = lambda stage, features: stage(features)  # type: ignore[method-assign]
    return trained(network, device, torch.channels_last)


def train_step(device: Device) -> Contender:
    samples, count = read_dataset("digits").all(), batch_of(device)
    config = Config(
        image=Preprocessing(size=SIZE),
        training=TrainingConfig(batch_size=count, precision=device.precision, device=str(device.device)),
    )
    it = TrainStep(InceptionV4(len(samples.classes)), config, samples, device)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, SIZE, SIZE), np.uint8)
    batch = Batch(
        number=0,
        images=torch.from_numpy(pixels),
        labels=torch.arange(count) % len(samples.classes),
        indices=torch.arange(count),
        color_factors=torch.ones(count, 3),
    )

    def step() -> int:
        done = it.step(batch, 0, 1e-3)
        wait(device)
        return 0 if done is None else count

    return step


def convolutions(device: Device) -> Contender:
    """All 149, by themselves, forward and backward."""
    shapes: Counter[tuple[nn.Conv2d, int, int]] = Counter()
    alike: dict[object, nn.Conv2d] = {}

    def note(conv: nn.Module, inputs: tuple[torch.Tensor], _: object) -> None:
        assert isinstance(conv, nn.Conv2d)
        height, width = inputs[0].shape[2:]
        kind = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, height, width)
        shapes[alike.setdefault(kind, conv), height, width] += 1

    with torch.device("meta"):
        network = InceptionV4().eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        network(torch.empty(1, 3, SIZE, SIZE))
    dtype = device.autocast_dtype or torch.float32
    work: list[tuple[int, Callable[[], object]]] = []
    for (conv, height, width), count in shapes.items():
        images = torch.randn(batch_of(device), conv.in_channels, height, width, device=device.device)
        images = images.to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(conv.weight.shape, device=device.device).to(dtype, memory_format=torch.channels_last)
        work.append((count, _convolution(images, weight, conv)))

    def all_of_them() -> int:
        for count, convolve in work:
            for _ in range(count):
                convolve()
        wait(device)
        return batch_of(device)

    return all_of_them


def _convolution(images: torch.Tensor, weight: torch.Tensor, conv: nn.Conv2d) -> Callable[[], object]:
    first = conv.in_channels == 3
    gradient = torch.randn_like(torch.conv2d(images, weight, None, conv.stride, conv.padding))
    geometry = (None, conv.stride, conv.padding, (1, 1), False, (0, 0), 1)

    def convolve() -> None:
        torch.conv2d(images, weight, None, conv.stride, conv.padding)
        torch.ops.aten.convolution_backward(gradient, images, weight, *geometry, (not first, True, False))

    return convolve


def contender(name: str, device: Device) -> Contender:
    match name:
        case "ours":
            return ours(device)
        case "ours, plain":
            return ours(device, plain=True)
        case "ours, checkpointed":
            return ours(device, checkpointed=True)
        case "train_step":
            return train_step(device)
        case "timm":
            return timms(device, torch.channels_last)
        case "timm, NCHW":
            return timms(device, torch.contiguous_format)
        case "timm, compiled":
            return timms(device, torch.channels_last, compiled=True)
        case "convolutions":
            return convolutions(device)
    raise ValueError(name)


def alone(name: str, device: Device) -> dict[str, float]:
    """Peak memory in MB and seconds of the first step, in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
        command = [sys.executable, __file__, "--alone", name, device.precision, "--device", str(device.device)]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def measure_alone(name: str, device: Device) -> dict[str, float]:
    step = contender(name, device)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"first_step_seconds": seconds[0], "peak_mb": peak_memory(device) / 2**20}


def compare_speed(device: Device, rounds: int) -> dict[str, object]:
    """The ratios that need no process of their own, and timm as it is fastest without being compiled."""
    names = ("ours", "timm", "convolutions")
    speeds = interleave({name: contender(name, device) for name in names}, rounds)
    return {
        "ratio_timm_eager": speeds.ratio("ours", "timm"),
        "fraction_of_convolution_floor": speeds.ratio("ours", "convolutions"),
        "images_per_second": {name: round(speeds.median(name), 2) for name in names},
        "n": rounds,
    }


def compare(device: Device, rounds: int, compiled: bool) -> dict[str, object]:
    peers = ["timm", *(["timm, NCHW"] if device.precision == "fp32" else [])]
    names = ["ours", *peers, *(["timm, compiled"] if compiled else []), "convolutions", "train_step"]
    apart = [*names, "ours, checkpointed"]
    own = {name: alone(name, device) for name in apart if name != "convolutions"}
    require_different("peak_mb", {name: figures["peak_mb"] for name, figures in own.items()})
    speeds = interleave({name: contender(name, device) for name in names}, rounds)
    best = max(peers, key=speeds.median)
    frugal = min(own[name]["peak_mb"] for name in peers)
    return {
        "ratio_timm_eager": speeds.ratio("ours", best),
        "ratio_timm_compiled": speeds.ratio("ours", "timm, compiled") if compiled else None,
        "fraction_of_convolution_floor": speeds.ratio("ours", "convolutions"),
        "peak_memory_ratio": own["ours"]["peak_mb"] / frugal,
        "first_step_seconds": own["ours"]["first_step_seconds"],
        "spread_timm_eager": speeds.spread("ours", best),
        "spread_convolution_floor": speeds.spread("ours", "convolutions"),
        "ratio_timm_eager_learner": speeds.ratio("train_step", best),
        "images_per_second": {name: round(speeds.median(name), 2) for name in names},
        "peak_mb": {name: round(figures["peak_mb"]) for name, figures in own.items()},
        "first_steps_seconds": {name: round(figures["first_step_seconds"], 1) for name, figures in own.items()},
        "n": rounds,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--compiled", action="store_true", help="timm under torch.compile too: minutes")
    arguments.add_argument("--bf16", action="store_true", help="bf16 even where it is emulated")
    arguments.add_argument("--device", default="cpu", help="cpu, or an accelerator by torch's name: batches of 128")
    arguments.add_argument("--quick", action="store_true", help="speed alone, beside timm eager, in one precision")
    arguments.add_argument("--alone", nargs=2, metavar=("CONTENDER", "PRECISION"), help="peak memory, first step")
    given = arguments.parse_args()
    torch.set_num_threads(THREADS)
    if given.alone:
        name, precision = given.alone
        print(to_json(measure_alone(name, select_device(given.device, precision))))
        return
    results: dict[str, object] = circumstances(("inceptionv4", "torch", "timm")) | {"device": given.device}
    short = computes_bf16(torch.device(given.device))
    if given.quick:
        device = select_device(given.device, "bf16" if short else "fp32")
        report(results | {device.precision: compare_speed(device, given.rounds)}, given.json)
        return
    if given.bf16 or short:
        results |= compare(select_device(given.device, "bf16"), given.rounds, given.compiled)
    else:
        results |= dict.fromkeys([*KEYS, "first_step_seconds"])
        results["reason"] = "this processor does not multiply in bf16"
    results["fp32"] = compare(select_device(given.device, "fp32"), given.rounds, given.compiled)
    report(results, given.json)


if __name__ == "__main__":
    main()
