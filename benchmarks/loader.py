"""From JPEG files to normalised batches: ours, torchvision's and timm's loader, on one core, in one run.

    python benchmarks/loader.py --json

Each gets the same files, one worker and the same work: a random resized crop to 299 px, bilinear, a flip, changes of
brightness, contrast and saturation up to 0.4, float32 batches of 16. Peers keep their workers between epochs, so that
their start is not counted. The limit is simplejpeg's full decoding of the same bytes, and nothing else, on that core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import simplejpeg
import torch
from measure import Speeds, circumstances, interleave, report
from photographs import write_photographs
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from inceptionv4.config import AugmentConfig, Config, DataConfig, TrainingConfig
from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import TrainingLoader
from inceptionv4.spec import Preprocessing

SIZE, BATCH, COLOR, WORKERS = 299, 16, 0.4, 1
SETS = {"500x375": (500, 375, 256), "1600x1200": (1600, 1200, 96)}
MEAN = STD = (0.5, 0.5, 0.5)


def ours(folder: Path, scaled_decoding: bool = True, on_device: bool = True) -> Callable[[], int]:
    """Without `on_device`, what is left to the processor where an accelerator changes the light and normalises."""
    config = Config(
        data=DataConfig(scaled_decoding=scaled_decoding),
        image=Preprocessing(size=SIZE, interpolation="bilinear", mean=MEAN, std=STD),
        augment=AugmentConfig(area=(0.08, 1), aspect=(3 / 4, 4 / 3), color=COLOR),
        training=TrainingConfig(batch_size=BATCH),
    )
    loader = TrainingLoader(read_dataset(folder).all(), config, workers=WORKERS)
    device = torch.device("cpu")

    def epoch() -> int:
        batches = loader.epoch(0)
        return sum(len(batch.to_input(device, config.image) if on_device else batch) for batch in batches)

    return epoch


def torchvisions(folder: Path) -> Callable[[], int]:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(COLOR, COLOR, COLOR),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = datasets.ImageFolder(folder, transform)
    loader = DataLoader(
        dataset, batch_size=BATCH, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )
    return lambda: sum(len(images) for images, _ in loader)


def timms(folder: Path) -> Callable[[], int]:
    """With its prefetcher, which is faster than without."""
    loader = create_loader(
        create_dataset("", root=str(folder)),
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        color_jitter=COLOR,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=WORKERS,
        device=torch.device("cpu"),
        persistent_workers=True,
        pin_memory=False,
    )
    return lambda: sum(len(images) for images, _ in loader)


def decoding(folder: Path) -> Callable[[], int]:
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]

    def decode() -> int:
        for content in contents:
            simplejpeg.decode_jpeg(content)
        return len(contents)

    return decode


def compare(width: int, height: int, count: int, rounds: int) -> Speeds:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder, width, height, count)
        contenders = {
            "ours": ours(folder),
            "ours, full decoding": ours(folder, scaled_decoding=False),
            "ours, processor's part": ours(folder, on_device=False),
            "torchvision": torchvisions(folder),
            "timm": timms(folder),
            "decode limit": decoding(folder),
        }
        return interleave(contenders, rounds)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--quick", action="store_true", help="a quarter of the files")
    given = arguments.parse_args()
    warnings.simplefilter("ignore")  # of torch's, that there is no memory to pin
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    results: dict[str, object] = circumstances(("inceptionv4", "torch", "torchvision", "timm", "pillow", "simplejpeg"))
    for name, (width, height, count) in SETS.items():
        speeds = compare(width, height, count // 4 if given.quick else count, given.rounds)
        results[name] = {
            "ratio_torchvision": speeds.ratio("ours", "torchvision"),
            "ratio_timm": speeds.ratio("ours", "timm"),
            "fraction_of_decode_limit": speeds.ratio("ours", "decode limit"),
            "images_per_second": {contender: round(speeds.median(contender), 1) for contender in speeds.rounds},
            "spread_torchvision": speeds.spread("ours", "torchvision"),
            "spread_timm": speeds.spread("ours", "timm"),
            "spread_decode_limit": speeds.spread("ours", "decode limit"),
            "n": given.rounds,
        }
    report(results, given.json)


if __name__ == "__main__":
    main()
