"""A MINDIR is looked through before MindSpore opens it, which loads libraries that one names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from inceptionv4.errors import CheckpointError
from inceptionv4.export_metadata import ExportMetadata
from inceptionv4.inference.backends.mindspore import MindSporeBackend
from inceptionv4.inference.runtimes import open_backend
from inceptionv4.runtime.exported import write_sidecar
from inceptionv4.spec import ModelSpec
from inceptionv4.weights.graph_files import check_mindir

MINDIR = """
graph {
  node { input: "g:x" output: "g:y" name: "g:y" op_type: "REF::ReLU:1" domain: "Default/ReLU"
         attribute { name: "shape" tensors { dims: 2 dims: 3 data_type: 1 } type: TENSORS } }
  name: "g" input { name: "g:x" tensor { dims: 2 dims: 3 data_type: 1 } }
  output { name: "g:y" tensor { dims: 2 dims: 3 data_type: 1 } }
}
ir_version: "1.1" producer_name: "MindSpore" model_version: "2.10.0" little_endian: true mind_ir_version: 3
primitives { name: "ReLU:1" op_type: "ReLU" prim_type: PRIMITIVE_FUNCTION }
"""
CUSTOM = """op_type: "Custom"
attribute { name: "func_type" s: "aot" type: STRING } attribute { name: "reg_op_name" s: "Custom" type: STRING }
attribute { name: "func_name" s: "LIBRARY:compute" type: STRING }
attribute { name: "input_names" type: LIST values { strings: "x" type: STRING } }
attribute { name: "output_names" type: LIST values { strings: "y" type: STRING } }"""
CHANGES = {
    "the operator 'Custom'": ('op_type: "ReLU"', CUSTOM),
    "the operator 'PyExecute'": ('op_type: "ReLU"', 'op_type: "PyExecute"'),
    "the operator 'PyFunc'": ('op_type: "REF::ReLU:1"', 'op_type: "PyFunc"'),
    "the operator 'REF::x'": ('op_type: "ReLU"', 'op_type: "REF::x"'),
    "'c' of the type CLASS_TYPE": ('op_type: "ReLU"', 'op_type: "ReLU" attribute { name: "c" type: CLASS_TYPE }'),
    "'shape' of the type PRIMITIVECLOSURE": ("type: TENSORS", 's: "Custom" type: PRIMITIVECLOSURE'),
    "the attribute 'cust_aicpu'": ('op_type: "ReLU"', 'op_type: "ReLU" attribute { name: "cust_aicpu" type: STRING }'),
    "weights in another file, '../secret'": (
        *('name: "g" input', 'name: "g" parameter { name: "w" external_data { location: "../secret" } } input'),
    ),
    "a MapTensorProto": (
        'name: "g" input',
        """name: "g" map_parameter {
        name: "w" default_value {} key_tensor {} value_tensor {} status_tensor {} } input""",
    ),
    "the operator 'Custom' in a function": (
        'ir_version: "1',
        'functions { node { op_type: "Custom" } } ir_version: "1',
    ),
}
SOURCE = """
#include <stdio.h>
__attribute__((constructor)) void touch(void) { fclose(fopen("SENTINEL", "w")); }
int compute(int n, void **p, int *d, long **s, const char **t, void *stream, void *extra) { return 0; }
"""


def write(text: str, path: Path) -> Path:
    from google.protobuf import text_format
    from mindspore.train.mind_ir_pb2 import ModelProto

    path.write_bytes(text_format.Parse(text, ModelProto()).SerializeToString())
    spec = ModelSpec(classes=("a", "b", "c"))
    metadata = ExportMetadata(format="mindir", precision="fp32", spec=spec, version="0", weights="", batch_size=2)
    write_sidecar(path, metadata)
    return path


@pytest.mark.parametrize("found", CHANGES)
def test_what_no_network_of_ours_has_is_refused(found: str, tmp_path: Path) -> None:
    old, new = CHANGES[found]
    assert MINDIR.count(old) == 1
    path = write(MINDIR.replace(old, new), tmp_path / "m.mindir")
    with pytest.raises(CheckpointError, match=rf"m\.mindir has .*{found.partition(' in a f')[0]}.*it is not opened"):
        open_backend(path)


def test_no_library_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which MindSpore, left to itself, does."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("there is no C compiler")
    sentinel, source, library = tmp_path / "sentinel", tmp_path / "x.c", tmp_path / "x.so"
    source.write_text(SOURCE.replace("SENTINEL", str(sentinel)))
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    path = write(MINDIR.replace('op_type: "ReLU"', CUSTOM.replace("LIBRARY", str(library))), tmp_path / "m.mindir")
    with pytest.raises(CheckpointError, match="it is not opened"):
        open_backend(path)
    assert not sentinel.exists()
    monkeypatch.setattr("inceptionv4.inference.backends.mindspore.check_mindir", lambda path: None)
    MindSporeBackend(path).run(np.zeros((2, 3), np.float32))
    assert sentinel.exists()


def test_a_sound_one_is_opened(tmp_path: Path) -> None:
    path = write(MINDIR, tmp_path / "m.mindir")
    check_mindir(path)
    images = np.float32([[-1, 0, 2], [3, -4, 5]])
    np.testing.assert_array_equal(MindSporeBackend(path).run(images), images.clip(0))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"m\.mindir is damaged, or encrypted"):
        check_mindir(path)
