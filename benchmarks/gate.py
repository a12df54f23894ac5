"""What the gate of exports notices: mutations of an exported model's answers, by the precision that it computes in.

    python benchmarks/gate.py --model runs/digits --data digits --files digits.xml digits-int8.xml

Each mutation is one that an exporter or a preprocessing really makes. It is applied in fp32, and the precision's own
rounding is added, as in a file of that precision. `refused` is what `export` would do. The agreement is that of the
likeliest class with the model's, over all images. Exported files answer the changed images by themselves, so that their
columns hold real rounding.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import get_args

import torch
from measure import circumstances
from torch import Tensor, nn

from inceptionv4.export.verify import compute_reference_outputs
from inceptionv4.export_metadata import Precision
from inceptionv4.inference.agreement import Reference
from inceptionv4.inference.backends.backend import Backend
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.network.layers import InceptionV4
from inceptionv4.weights.load import load_model

Answer = Callable[[Tensor], Tensor]


def shift(images: Tensor, pixels: int) -> Tensor:
    return images.roll(pixels, dims=3)


def enlarge(images: Tensor, mode: str) -> Tensor:
    """The middle 90 % of each image at the full size."""
    size = images.shape[-1]
    edge = size // 20
    part = images[..., edge : size - edge, edge : size - edge].float()
    larger = nn.functional.interpolate(part, size=(size, size), mode=mode, antialias=mode == "bilinear")
    return larger.round().clamp(0, 255).to(torch.uint8)


def blur(images: Tensor) -> Tensor:
    """Down to 7/8 by bilinear interpolation and up again: about what another filter changes."""
    size = images.shape[-1]
    small = nn.functional.interpolate(images.float(), size=(size * 7 // 8,) * 2, mode="bilinear", antialias=True)
    back = nn.functional.interpolate(small, size=(size, size), mode="bilinear")
    return back.round().clamp(0, 255).to(torch.uint8)


def scaled(images: Tensor, factor: float, offset: float = 0.0) -> Tensor:
    return (images.float() * factor + offset).round().clamp(0, 255).to(torch.uint8)


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 8
    return (images.float() + noise).round().clamp(0, 255).to(torch.uint8)


IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "mirror": lambda images: images.flip(3),
    "shift of 1 px": lambda images: shift(images, 1),
    "shift of 2 px": lambda images: shift(images, 2),
    "brightness + 10 %": lambda images: scaled(images, 1.1),
    "red and blue exchanged": lambda images: images.flip(1),
    "mean + 0.02": lambda images: scaled(images, 1.0, 255 * 0.02),
    "std x 1.05": lambda images: scaled(images, 1 / 1.05, 127.5 * (1 - 1 / 1.05)),
    "crop 0.9 of the view": lambda images: enlarge(images, "bilinear"),
    "another filter": blur,
    "noise of 8 levels": noisy,
}


def count_padding(network: InceptionV4) -> InceptionV4:
    changed = copy.deepcopy(network)
    for module in changed.modules():
        if isinstance(module, nn.AvgPool2d):
            module.count_include_pad = True
    return changed


def permute(logits: Tensor) -> Tensor:
    return logits.roll(1, dims=1)


def constant(logits: Tensor) -> Tensor:
    return logits.mean(0).expand_as(logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default=None)
    parser.add_argument("--files", nargs="*", default=[], help="exports of the model")
    arguments = parser.parse_args()
    network, checkpoint = load_model(arguments.model)
    reference = compute_reference_outputs(network, checkpoint, arguments.data).reference
    print(circumstances(("torch",)))
    for line in rows(network, reference, [open_backend(file) for file in arguments.files]):
        print(line)


def rows(network: InceptionV4, reference: Reference, files: list[Backend]) -> list[str]:
    """A line of a Markdown table for each mutation."""
    precisions = get_args(Precision)
    columns = [*precisions, *(f"{file.name} ({file.precision})" for file in files)]
    lines = [f"| mutation | agreement | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    answers = {name: reference.answer(network, change(reference.images)) for name, change in IMAGES.items()}
    answers["padding counted"] = reference.answer(count_padding(network), reference.images)
    answers["classes permuted"] = permute(reference.logits)
    answers["constant logits"] = constant(reference.logits)
    rounding = {
        precision: reference.answer_rounded(precision, reference.images) - reference.logits for precision in precisions
    }
    for name, logits in answers.items():
        agreement = (logits.argmax(1) == reference.logits.argmax(1)).float().mean()
        refusals = [reference.compare(logits + rounding[precision], precision).refusal for precision in precisions]
        verdicts = ["kept" if refusal is None else "refused" for refusal in refusals]
        for file in files:
            verdicts.append("" if name not in IMAGES else verdict(reference, file, IMAGES[name](reference.images)))
        lines.append(f"| {name} | {agreement:.1%} | {' | '.join(verdicts)} |")
    return lines


def verdict(reference: Reference, file: Backend, images: Tensor) -> str:
    refusal = reference.compare(file.infer(images), file.precision).refusal
    return "kept" if refusal is None else "refused"


if __name__ == "__main__":
    main()
