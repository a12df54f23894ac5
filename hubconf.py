"""Entry points of torch.hub, in a clone: `torch.hub.load("path/to/clone", "inception_v4", source="local")`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # without an installation

from inceptionv4.weights.create import create_model as inception_v4  # noqa: F401

dependencies = ["torch", "numpy", "PIL", "safetensors", "yaml"]
