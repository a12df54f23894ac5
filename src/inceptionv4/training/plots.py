"""Pictures of a run: its curves, from what it wrote, at any time; and what its network sees."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from inceptionv4.data.tools.mosaic import mosaic
from inceptionv4.printable import printable
from inceptionv4.spec import ModelSpec
from inceptionv4.training.run.history import LOG, RESULTS, read_file, read_log, read_rows

SHOWN = 32
"""Images of `inputs.png`, at most."""


def draw_curves(run: Path) -> str:
    """Draw `plots/curves.png` from the run's `log.jsonl` and `results.csv`, as far as they can be read.

    Returns what a user should know: nothing, or why there are no curves. Before the end of the first epoch
    there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure  # an extra, and slow to import
        from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
    except ImportError:
        return "no curves drawn: install the plots extra, `pip install inceptionv4[plots]`"

    steps, _ = read_log(read_file(run / LOG))
    rows = read_rows(read_file(run / RESULTS))
    epochs = [{name: float(value) for name, value in row.items() if name != "eval_precision"} for row in rows]

    if not epochs:
        return ""

    figure = Figure(figsize=(15, 3.6), layout="constrained")
    figure.suptitle(printable(run), parse_math=False, fontsize="small", color="gray", x=0.995, ha="right")
    loss, accuracy, rate, speed = figure.subplots(1, 4)
    done = [step.step for step in steps]
    ends = [epoch["step"] for epoch in epochs]
    loss.plot(done, [step.loss for step in steps], linewidth=0.7, alpha=0.5, color="tab:blue", label="training, a step")
    loss.plot(ends, [epoch["train_loss"] for epoch in epochs], "o-", color="tab:blue", label="training, an epoch")
    loss.plot(ends, [epoch["val_loss"] for epoch in epochs], "o-", color="tab:orange", label="held out")
    # An untrained average can start orders of magnitude away from where it ends.
    loss.set(title="loss", xlabel="step", yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    loss.yaxis.set_minor_formatter(NullFormatter())
    loss.legend(frameon=False)
    best = max(epochs, key=lambda epoch: epoch["top1"])
    accuracy.plot(ends, [100 * epoch["top5"] for epoch in epochs], "o-", color="tab:gray", label="top-5")
    accuracy.plot(ends, [100 * epoch["top1"] for epoch in epochs], "o-", color="tab:orange", label="top-1")
    accuracy.set(title=f"held out, best top-1 {best['top1']:.2%}", xlabel="step", ylabel="%", ylim=(0, 103))
    accuracy.legend(frameon=False, loc="lower right")
    rate.plot(done, [step.learning_rate for step in steps], color="tab:green")
    rate.set(title="learning rate", xlabel="step", ylim=(0, None))
    speed.plot(ends, [epoch["images_per_second"] for epoch in epochs], "o-", color="tab:purple")
    speed.set(title="training images a second", xlabel="step")
    speed.set_ylim(0, max(1.1 * max(epoch["images_per_second"] for epoch in epochs), 1))
    for axes in (loss, accuracy, rate, speed):
        axes.set_xlim(0, max(*done[-1:], *ends[-1:], 1) * 1.02)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        (run / "plots").mkdir(exist_ok=True)
        figure.savefig(run / "plots" / "curves.png", dpi=120)
    except OSError as error:  # a training that ends has worse to say, or better
        return f"no curves drawn: {run / 'plots' / 'curves.png'}: {error.strerror or error}"
    return ""


def draw_inputs(run: Path, inputs: Tensor, targets: Tensor, spec: ModelSpec) -> None:
    """Draw `plots/inputs.png`: float32 images `(B, 3, H, W)` with their normalisation undone, and targets `(B, K)`."""
    pixels = spec.preprocessing
    mean, std = (torch.tensor(values, device=inputs.device).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    shown = (inputs[:SHOWN] * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    tiles: list[tuple[Image.Image | None, str]] = []
    for image, target in zip(shown.permute(0, 2, 3, 1).cpu().numpy(), targets.cpu(), strict=False):
        shares, labels = target.topk(min(2, len(target)))
        named = [(spec.classes[label], share) for label, share in zip(labels.tolist(), shares.tolist(), strict=True)]
        words = [name if share > 0.995 else f"{name} {share:.0%}" for name, share in named if share > 0.005]
        tiles.append((Image.fromarray(image), ", ".join(words)))
    mosaic(tiles).save(run / "plots" / "inputs.png")
