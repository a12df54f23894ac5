"""Between MindSpore and here: checkpoints that MindSpore wrote are read without it, and those written here it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from inceptionv4.weights.load import load_model, read_model

IMAGES = np.random.default_rng(1).standard_normal((1, 3, 75, 75), np.float32)


@pytest.fixture(scope="module")
def ms() -> Iterator[ModuleType]:
    os.environ["GLOG_v"] = "3"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pytest"])
        import mindspore

        mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
        yield mindspore


def randomize(ms: ModuleType, network: object) -> None:
    """Weights and statistics as if trained: gamma and variances near one, the rest around zero."""
    random = np.random.default_rng(0)
    for parameter in network.get_parameters():
        shape = parameter.shape
        if parameter.name.endswith(("gamma", "variance")):
            value = random.uniform(0.5, 1.5, shape)
        elif len(shape) == 4:
            value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            value = random.normal(0, 0.03 if len(shape) == 2 else 0.1, shape)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    network.set_train(False)


def ours(path: Path) -> np.ndarray:
    network, _ = load_model(path)
    with torch.no_grad():
        return network(torch.from_numpy(IMAGES)).numpy()


def test_the_model_zoos_checkpoint_of_a_training(ms: ModuleType, tmp_path: Path) -> None:
    """With the optimizer's slots, the counters and a checksum in it."""
    import mindspore_zoo

    network = mindspore_zoo.Inceptionv4()
    randomize(ms, network)
    theirs = network(ms.Tensor(IMAGES)).asnumpy()
    optimizer = ms.nn.RMSProp(network.trainable_params(), learning_rate=0.1, momentum=0.9)
    slots = [{"name": parameter.name, "data": parameter} for parameter in optimizer.get_parameters()]
    state = {parameter.name: parameter for parameter in network.get_parameters()}
    state |= {item["name"]: item["data"] for item in slots if item["name"] not in state}
    path = tmp_path / "inceptionv4-train-250_1251.ckpt"
    ms.save_checkpoint([{"name": name, "data": data} for name, data in state.items()], str(path), crc_check=True)
    checkpoint, report = read_model(path)
    assert report is not None
    assert report.origin == "MindSpore's model zoo"
    assert report.skipped["of an optimizer"] == 2 * len(network.trainable_params())
    assert report.skipped["a number of the training"] == 2
    logits = torch.from_numpy(ours(path))
    np.testing.assert_allclose(logits.log_softmax(1).numpy(), theirs, rtol=0, atol=1e-4)
    assert theirs.std() > 0.05
    assert checkpoint.spec.preprocessing.mean == (0.485, 0.456, 0.406)
    assert checkpoint.spec.classes[0] == "tench"


@pytest.mark.slow
def test_mindcvs_checkpoint_and_back(ms: ModuleType, tmp_path: Path) -> None:
    from mindcv.models.inceptionv4 import InceptionV4 as MindCV

    network = MindCV()
    randomize(ms, network)
    theirs = network(ms.Tensor(IMAGES)).asnumpy()
    assert theirs.std() > 0.05
    path = tmp_path / "inception_v4-56e798fc-910v2.ckpt"
    ms.save_checkpoint(network, str(path))
    np.testing.assert_allclose(ours(path), theirs, rtol=0, atol=1e-4)
    _, report = read_model(path)
    assert str(report).startswith("MindCV: 747 arrays")

    from inceptionv4.weights.write import convert

    back = tmp_path / "back.ckpt"
    convert(str(path), back, "mindspore")
    other = MindCV()
    missing, strange = ms.load_param_into_net(other, ms.load_checkpoint(str(back)), strict_load=True)
    assert (missing, strange) == ([], [])
    other.set_train(False)
    np.testing.assert_array_equal(other(ms.Tensor(IMAGES)).asnumpy(), theirs)
    for one, two in zip(network.get_parameters(), other.get_parameters(), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), two.asnumpy())


def test_a_checkpoint_in_safetensors_as_mindspore_writes_it(ms: ModuleType, tmp_path: Path) -> None:
    from mindcv.models.inceptionv4 import InceptionV4 as MindCV

    network = MindCV(num_classes=4)
    randomize(ms, network)
    path = tmp_path / "x.safetensors"
    ms.save_checkpoint(network, str(path), format="safetensors")
    np.testing.assert_allclose(ours(path), network(ms.Tensor(IMAGES)).asnumpy(), rtol=0, atol=1e-4)


def test_an_encrypted_checkpoint_says_so(ms: ModuleType, tmp_path: Path) -> None:
    from inceptionv4.errors import CheckpointError

    ms.save_checkpoint(ms.nn.Dense(3, 2), str(tmp_path / "x.ckpt"), enc_key=b"0123456789abcdef")
    with pytest.raises(CheckpointError, match="is an encrypted MindSpore checkpoint"):
        read_model(tmp_path / "x.ckpt")


def test_reading_and_writing_need_no_mindspore(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['mindspore'] = None\n"
        "import torch\n"
        "from inceptionv4.network.layers import InceptionV4\n"
        "from inceptionv4.spec import ModelSpec\n"
        "from inceptionv4.weights.checkpoint import Checkpoint\n"
        "from inceptionv4.weights.load import read_model\n"
        "from inceptionv4.weights.write import write_mindspore_ckpt\n"
        "from pathlib import Path\n"
        "torch.manual_seed(0); network = InceptionV4(3)\n"
        "spec = ModelSpec(classes=('a', 'b', 'c'))\n"
        "write_mindspore_ckpt(Checkpoint(network.state_dict(), spec), Path('x.ckpt'))\n"
        "weights = read_model('x.ckpt')[0].weights\n"
        "assert all(torch.equal(weights[n], t) for n, t in network.state_dict().items())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
