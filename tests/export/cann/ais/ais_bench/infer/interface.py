"""A stand-in for ais_bench's session, with the signatures of its 0.0.2."""

import zipfile

import numpy as np
from chip import Chip

freed: list[str] = []


class InferSession:
    def __init__(
        self, device_id: int, model_path: str, acl_json_path: str | None = None, debug: bool = False, loop: int = 1
    ) -> None:
        assert type(device_id) is int
        self.model_path = model_path
        try:
            self.chip = Chip(model_path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RuntimeError(f"[-1][ACL: general failure] {error}") from None

    def infer(
        self, feeds: list[np.ndarray], mode: str = "static", custom_sizes: int = 100000, out_array: bool = True
    ) -> list[np.ndarray]:
        assert mode == "static"
        (images,) = feeds
        if images.nbytes != int(np.prod(self.chip.shape)) * self.chip.type.itemsize:
            raise RuntimeError("[-1][ACL: invalid parameter] input size is not that of the model")
        return [self.chip.compute(images)]

    def free_resource(self) -> None:
        freed.append(self.model_path)
