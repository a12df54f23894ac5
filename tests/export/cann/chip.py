"""What an Ascend would compute of a .om of `atc.py`, by numpy and ONNX Runtime: an answer without any of our code."""

import json
import re
import zipfile

import numpy as np
import onnxruntime


class Chip:
    """A loaded .om: `images`, as the chip takes them, to logits."""

    def __init__(self, path: str) -> None:
        with zipfile.ZipFile(path) as om:
            self.options = json.loads(om.read("options.json"))
            self.aipp = parse_aipp(om.read("aipp.cfg").decode()) if "aipp.cfg" in om.namelist() else None
            self.session = onnxruntime.InferenceSession(om.read("graph.onnx"), providers=["CPUExecutionProvider"])
        self.planes = tuple(self.session.get_inputs()[0].shape)
        batch, channels, height, width = self.planes
        self.shape = self.planes if self.aipp is None else (batch, height, width, channels)
        self.type = np.dtype(np.float32 if self.aipp is None else np.uint8)
        self.output_shape = tuple(self.session.get_outputs()[0].shape)

    def compute(self, images: np.ndarray) -> np.ndarray:
        assert (images.shape, images.dtype) == (self.shape, self.type)
        if self.aipp is not None:
            assert self.aipp["aipp_mode"] == "static"
            assert self.aipp["input_format"] == "RGB888_U8"
            assert (self.aipp["csc_switch"], self.aipp["rbuv_swap_switch"], self.aipp["crop"]) == ("false",) * 3
            assert (int(self.aipp["src_image_size_h"]), int(self.aipp["src_image_size_w"])) == self.planes[2:]
            images = apply_aipp(images, self.aipp).transpose(0, 3, 1, 2)
        return self.session.run(None, {"images": np.ascontiguousarray(images)})[0]


def parse_aipp(text: str) -> dict[str, str]:
    block = re.fullmatch(r"aipp_op \{\n(.*)\}\n", text, re.DOTALL)
    assert block
    return dict(re.findall(r"(\w+)\s*:\s*(\S+)", block[1]))


def apply_aipp(images: np.ndarray, aipp: dict[str, str]) -> np.ndarray:
    """uint8 `(B, H, W, 3)` to float32, by CANN's formula: [pixel - mean_chn - min_chn] * var_reci_chn."""
    mean = np.array([float(aipp.get(f"mean_chn_{i}", 0)) for i in range(3)])
    low = np.array([float(aipp[f"min_chn_{i}"]) for i in range(3)])
    scale = np.array([float(aipp[f"var_reci_chn_{i}"]) for i in range(3)])
    return ((images - mean - low) * scale).astype(np.float32)
