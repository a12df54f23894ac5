"""int8: which images set the ranges, which convolutions suffer most, and the graphs that come out.

Weights are rounded per output channel, symmetrically; activations per tensor, to unsigned 8 bits (U8S8). Weights use 7
of their 8 bits: processors without VNNI add pairs of products in 16 bits, and would cut off larger ones, silently.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from inceptionv4.data.index import read_dataset
from inceptionv4.data.loader import evaluation_batches
from inceptionv4.data.options import recorded_options
from inceptionv4.data.samples import Samples
from inceptionv4.data.transforms import normalize
from inceptionv4.errors import UsageError
from inceptionv4.inference.agreement import round_activations, round_weights
from inceptionv4.network.layers import InceptionV4
from inceptionv4.runtime.storage import absolute
from inceptionv4.spec import Preprocessing

if TYPE_CHECKING:
    import onnx

SEED = 0
"""Of the choice of images."""
RANKED_BY = 16
"""Images by which the convolutions are ranked."""


def choose_images(data: str, count: int, trained_on: Mapping[str, Any]) -> Samples:
    """`count` of the training images at `data`, by chance from `SEED`, or all if there are fewer. `trained_on` is
    what the model says of its data.

    Raises:
        DataError: the data cannot be used.
    """
    samples = read_dataset(data, options=recorded_options(trained_on, absolute(data))).train
    rows = np.sort(np.random.default_rng(SEED).permutation(len(samples))[:count])
    return Samples(samples.source, samples.rows[rows], samples.labels[rows], samples.classes)


def read_images(samples: Samples, preprocessing: Preprocessing) -> Tensor:
    """All of them, prepared as an evaluation does: uint8 `(n, 3, size, size)`."""
    batches = evaluation_batches(samples, preprocessing, batch_size=16, workers=1)
    return torch.cat([batch.images for batch in batches])


@torch.inference_mode()
def rank_convolutions(rewritten: InceptionV4, images: Tensor, preprocessing: Preprocessing) -> list[str]:
    """The names of all convolutions, those that int8 damages most first.

    The damage is the noise in a convolution's output, as a share of its power, when its input and its weights alone are
    rounded to 8 bits. `images` are uint8 `(n, 3, size, size)`, of which some are looked at.
    """
    noise: dict[str, float] = {}
    power: dict[str, float] = {}

    def compare(name: str, conv: nn.Conv2d, given: Tensor, output: Tensor) -> None:
        rounded = nn.functional.conv2d(
            round_activations(given), round_weights(conv.weight), conv.bias, conv.stride, conv.padding
        )
        noise[name] = noise.get(name, 0.0) + float((rounded - output).square().sum())
        power[name] = power.get(name, 0.0) + float(output.square().sum())

    hooks = [
        module.register_forward_hook(lambda conv, given, output, name=name: compare(name, conv, given[0], output))
        for name, module in rewritten.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        for part in torch.split(images[:RANKED_BY], 4):
            rewritten(normalize(part, preprocessing))
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(noise, key=lambda name: noise[name] / max(power[name], 1e-30), reverse=True)


def quantize_onnx(model: onnx.ModelProto, inputs: Sequence[np.ndarray], float_layers: Sequence[str]) -> onnx.ModelProto:
    """An ONNX graph with pairs of QuantizeLinear and DequantizeLinear, for ONNX Runtime.

    `inputs` are batches as the graph takes them, by which the ranges are found; `float_layers` are left as they are.

    Raises:
        UsageError: onnxruntime is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError:
        raise UsageError("int8 for ONNX needs onnxruntime: pip install 'inceptionv4[onnx]'") from None

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self._inputs: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(self._inputs, None)
            return None if images is None else {"images": images}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, given)
        quantization.quantize_static(
            given,
            made,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=list(float_layers),
        )
        return onnx.load(made)


def quantize_openvino(graph: Any, inputs: Sequence[np.ndarray], float_layers: Sequence[str]) -> Any:
    """OpenVINO's graph, quantized by NNCF; arguments as for `quantize_onnx`.

    Raises:
        UsageError: nncf is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it reports its use to its makers otherwise
    try:
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    except ImportError:
        raise UsageError("int8 for OpenVINO needs nncf: pip install 'inceptionv4[openvino]'") from None
    nncf.set_log_level(logging.ERROR)
    # OpenVINO makes a convolution and an addition of an ONNX convolution, and names the first so.
    ignored = [f"{name}/WithoutBiases" for name in float_layers]
    singles = [images[row : row + 1] for images in inputs for row in range(len(images))]
    with _quiet():
        return nncf.quantize(
            graph.clone(),
            nncf.Dataset(singles),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(singles),
            ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Standard output is for results, and what these libraries warn of has been seen to."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)
