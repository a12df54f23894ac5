"""An Inception-v4 is known in an ONNX file by its graph, and is what the file computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import helper, numpy_helper

from inceptionv4.errors import CheckpointError
from inceptionv4.network.layers import InceptionV4
from inceptionv4.spec import NOTE, ModelSpec
from inceptionv4.weights.formats.onnx import fixed_size, read_onnx
from inceptionv4.weights.load import load_model, read_model

IMAGES = torch.randn(2, 3, 75, 75, generator=torch.Generator().manual_seed(1))


def randomize(network: torch.nn.Module) -> torch.nn.Module:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def timms(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    network = randomize(timm.create_model("inception_v4", num_classes=7))
    path = tmp_path_factory.mktemp("onnx") / "timm.onnx"
    write(network, path)
    return network, path


def write(network: torch.nn.Module, path: Path) -> None:
    torch.onnx.export(network, (IMAGES,), path, dynamo=True, external_data=False, verbose=False)


def answers(path: Path) -> torch.Tensor:
    network, _ = load_model(path)
    with torch.no_grad():
        return network(IMAGES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@torch.no_grad()
def test_timms_export(timms: tuple[torch.nn.Module, Path]) -> None:
    network, path = timms
    expected = network(IMAGES)
    assert expected.std() > 0.05
    torch.testing.assert_close(answers(path), expected, rtol=1e-4, atol=1e-4)
    checkpoint, report = read_model(path)
    assert checkpoint.spec.classes == ("0", "1", "2", "3", "4", "5", "6")
    assert report is not None
    assert report.origin == "ONNX"


def plain_graph(network: InceptionV4, path: Path, *, fold: bool, size: int | str = 75) -> None:
    """The network written node by node, with its norms beside its convolutions or in them, and a softmax at the end."""
    nodes, constants = [], {}

    def constant(name: str, array: np.ndarray) -> str:
        constants[name] = array
        return name

    def emit(module: torch.nn.Module, tensor: str, name: str) -> str:
        out = f"{name}_out"
        match type(module).__name__:
            case "ConvNormReLU":
                conv, norm = module.conv, module.norm
                scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).numpy()
                kernel, inputs = conv.weight.numpy(), [tensor, f"{name}_w"]
                if fold:
                    kernel = kernel * scale[:, None, None, None]
                    shift = norm.bias.numpy() - scale * norm.running_mean.numpy()
                    inputs.append(constant(f"{name}_b", shift.astype(np.float32)))
                constant(f"{name}_w", kernel)
                pads = [*conv.padding, *conv.padding]
                nodes.append(helper.make_node("Conv", inputs, [f"{name}_c"], strides=list(conv.stride), pads=pads))
                before = f"{name}_c"
                if not fold:
                    parts = ("weight", "bias", "running_mean", "running_var")
                    arrays = [constant(f"{name}_{part}", getattr(norm, part).numpy()) for part in parts]
                    before = f"{name}_n"
                    node = helper.make_node("BatchNormalization", [f"{name}_c", *arrays], [before], epsilon=norm.eps)
                    nodes.append(node)
                nodes.append(helper.make_node("Relu", [before], [out]))
            case "MaxPool2d":
                nodes.append(helper.make_node("MaxPool", [tensor], [out], kernel_shape=[3, 3], strides=[2, 2]))
            case "AvgPool2d" | "MeanPool":
                nodes.append(helper.make_node("AveragePool", [tensor], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
            case "Sequential":
                for number, part in enumerate(module):
                    tensor = emit(part, tensor, f"{name}_{number}")
                return tensor
            case "Concatenate":
                ends = [emit(part, tensor, f"{name}_{number}") for number, part in enumerate(module)]
                nodes.append(helper.make_node("Concat", ends, [out], axis=1))
        return out

    tensor = emit(network.features, "images", "f")
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    constant("kernel", network.classifier.weight.numpy().T.copy())
    constant("bias", network.classifier.bias.numpy())
    nodes.append(helper.make_node("MatMul", ["flat", "kernel"], ["product"]))
    nodes.append(helper.make_node("Add", ["product", "bias"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "anything",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["n", len(constants["bias"])])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


@torch.no_grad()
def test_a_graph_brings_the_preprocessing_of_whoever_has_this_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only PaddleClas has the one, and most have timm's weights for the other; the report says what is assumed. A size
    that the graph fixes is its own, and a config.json beside it may be timm's, but not PaddleClas'.
    """
    config = {"architecture": "inception_v4", "input_size": [3, 75, 75], "mean": [0, 0, 0], "std": [1, 1, 1]}
    path, beside = tmp_path / "m.onnx", tmp_path / "config.json"

    def read() -> tuple[str, int, float, float]:
        checkpoint, report = read_model(path)
        pixels = checkpoint.spec.preprocessing
        return str(report).partition("assumed: ")[2], pixels.size, pixels.crop, pixels.mean[0]

    assumed = "the preprocessing of {}'s published weights, as the graph does not say its own; --image.size and so on"
    plain_graph(randomize(InceptionV4(4, architecture="inception-v4-paddleclas")), path, fold=True, size="any")
    beside.write_text(json.dumps(config))
    said, *pixels = read()
    assert pixels == [299, 299 / 320, 0.485]
    assert said.startswith(assumed.format("PaddleClas"))
    assert f"{beside} is not used: no config.json describes weights of PaddleClas" in capsys.readouterr().err
    plain_graph(randomize(InceptionV4(4)), path, fold=True)
    assert read() == ("", 75, 0.875, 0.0)
    beside.write_text(json.dumps({**config, "input_size": [3, 299, 299]}))
    with pytest.raises(CheckpointError, match=r"takes images of 75 px, .*config\.json says 299"):
        read()
    beside.unlink()
    said, *pixels = read()
    assert pixels == [75, 0.875, 0.5]
    assert said.startswith(assumed.format("timm"))


def test_a_graph_of_images_that_are_not_square_is_refused(tmp_path: Path) -> None:
    def size(*dims: int | str | None) -> int | None:
        return fixed_size(tmp_path / "m.onnx", helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims))

    assert size(1, 3, 224, 224) == 224
    assert size("n", 3, "height", "width") is size(None, 3, None, None) is None
    with pytest.raises(CheckpointError, match=r"m\.onnx takes images of 224 x 320 pixels"):
        size("n", 3, 224, 320)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["inception-v4", "inception-v4-paddleclas"])
@pytest.mark.parametrize("fold", [False, True])
def test_a_graph_of_any_names_with_norms_beside_or_within(tmp_path: Path, fold: bool, architecture: str) -> None:
    torch.manual_seed(0)
    network = randomize(InceptionV4(4, architecture=architecture))
    path = tmp_path / "x.onnx"
    plain_graph(network, path, fold=fold)
    torch.testing.assert_close(answers(path), network(IMAGES), rtol=1e-4, atol=1e-4)
    model = read_onnx(path)
    assert model.architecture == architecture
    assert list(model.report.folded.values()) == ([149] if fold else [])
    if not fold:
        assert all(torch.equal(model.weights[name], tensor) for name, tensor in network.state_dict().items())


@torch.no_grad()
def test_the_background_of_1001_classes_is_dropped_unless_the_file_says_what_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomize(InceptionV4(1001))
    path = tmp_path / "x.onnx"
    plain_graph(network, path, fold=True)
    torch.testing.assert_close(answers(path), network(IMAGES)[:, 1:], rtol=1e-4, atol=1e-4)
    checkpoint, report = read_model(path)
    assert (checkpoint.spec.classes[0], len(checkpoint.spec.classes)) == ("tench", 1000)
    assert "the background's class is dropped" in str(report)
    model = onnx.load(path)
    own = ModelSpec(classes=tuple(f"sort {number}" for number in range(1001)))
    model.metadata_props.add(key=NOTE, value=json.dumps(own.to_dict()))
    onnx.save(model, path)
    torch.testing.assert_close(answers(path), network(IMAGES), rtol=1e-4, atol=1e-4)


def test_other_networks_and_changed_ones_are_refused(timms: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"

    def refused(model: onnx.ModelProto, words: str) -> None:
        onnx.save(model, path)
        with pytest.raises(CheckpointError, match=words):
            read_model(path)

    def changed() -> onnx.ModelProto:
        return onnx.load(timms[1])

    model = changed()
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Sigmoid"
    refused(model, r"no Inception-v4 in float: at features\.stem\.0 there is Sigmoid, not Relu")

    model = changed()
    concat = [node for node in model.graph.node if node.op_type == "Concat"][5]
    concat.input[0], concat.input[1] = concat.input[1], concat.input[0]
    refused(model, "no Inception-v4 in float")

    model = changed()
    pool = next(node for node in model.graph.node if node.op_type == "AveragePool")
    for attribute in pool.attribute:
        if attribute.name == "count_include_pad":
            pool.attribute.remove(attribute)
            break
    pool.attribute.append(helper.make_attribute("count_include_pad", 1))
    refused(model, "AveragePool has count_include_pad 1, not 0")

    content = timms[1].read_bytes()
    for cut in (10, 1000, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"x\.onnx is damaged|no Inception-v4"):
            read_model(path)


def test_weights_elsewhere_are_not_followed_out_of_the_folder(
    timms: tuple[torch.nn.Module, Path], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 << 20))
    inner = tmp_path / "inner"
    inner.mkdir()
    model = onnx.load(timms[1])
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (inner / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"weights in '\.\./secret', which is no regular file beside it"):
        read_model(inner / "x.onnx")


def test_operators_in_a_circle_end(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["b"], ["a"])]
    output = helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1])
    path = tmp_path / "x.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], [output])).SerializeToString())
    with pytest.raises(CheckpointError, match="go round in a circle"):
        read_onnx(path)
