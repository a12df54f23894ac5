"""Settings of the model zoo become ours, and every key is accounted for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from inceptionv4.config import load_config
from inceptionv4.errors import ConfigError, UsageError
from inceptionv4.modelzoo import convert_settings
from inceptionv4.settings import Section

GPU = """\
# The first of three documents; the others explain.
enable_modelarts: False
data_url: ""
train_url: ""
checkpoint_url: ""
data_path: "/cache/data"
output_path: "/cache/train"
load_path: "/cache/checkpoint_path"
device_target: Ascend
enable_profiling: False
dataset_path: "/data/imagenet"
ckpt_path: '/cache/data/'
checkpoint: '/cache/data/inceptionv3/inceptionv3-rank3_1-247_1251.ckpt'
ckpt_file: '/cache/data/inceptionv3/inceptionv3-rank3_1-247_1251.ckpt'
resume: ''
is_distributed: False
device_id: 0
platform: 'GPU'
file_name: 'inceptionv3'
file_format: 'AIR'
width: 299
height: 299
is_save_on_master: False
batch_size: 128
epoch_size: 250
num_classes: 1000
work_nums: 8
ds_type: 'imagenet'
ds_sink_mode: True
loss_scale: 1024
smooth_factor: 0.1
weight_decay: 0.00004
momentum: 0.9
amp_level: 'O0'
decay: 0.9
epsilon: 1.0
keep_checkpoint_max: 10
save_checkpoint_epochs: 10
lr_init: 0.00004
lr_end: 0.000004
lr_max: 0.4
warmup_epochs: 1
start_epoch: 1

---
enable_modelarts: 'Whether training on modelarts, default: False'
---
device_target: ['Ascend', 'GPU', 'CPU']
"""


def flat(section: Section, prefix: str = "") -> dict[str, object]:
    """All settings by their whole names."""
    values: dict[str, object] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            values |= flat(value, f"{prefix}{field.name}.")
        else:
            values[prefix + field.name] = value
    return values


def converted(tmp_path: Path, text: str) -> tuple[object, object]:
    source, recipe = tmp_path / "default_config.yaml", tmp_path / "recipe.yaml"
    source.write_text(text)
    conversion = convert_settings(source)
    recipe.write_text(conversion.recipe)
    return conversion, load_config(file=recipe)


def test_the_gpu_file_says_what_our_recipe_says(tmp_path: Path) -> None:
    """`mindspore-zoo` was written by hand from the document; what differs is what the file says of a machine."""
    conversion, config = converted(tmp_path, GPU)
    assert conversion.unknown == ()
    recipe = load_config("mindspore-zoo")
    ours, theirs = flat(config), flat(recipe)
    differ = {"recipe", "data.path", "data.workers", "training.precision", "checkpoint.keep"}
    assert {key for key in ours if ours[key] != theirs[key]} == differ
    assert config.training.precision == "fp32"  # O0
    for each in (config, recipe):  # the original's dataset.py
        assert (each.image.mean, each.image.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert (each.image.size, each.image.interpolation) == (299, "bilinear")
        assert (each.augment.area, each.augment.aspect) == ((0.08, 1.0), (0.75, 1.333))
        assert (each.augment.color, each.augment.flip) == (0.4, 0.5)
    assert (config.data.path, config.data.workers, config.checkpoint.keep) == ("/data/imagenet", 8, 10)
    keys = {line.partition(":")[0] for line in GPU.split("---")[0].splitlines() if ":" in line}
    assert {line.key for line in conversion.lines} == keys


def test_each_defect_is_named_where_it_is_mended(tmp_path: Path) -> None:
    conversion, _ = converted(tmp_path, GPU)
    said = {line.key: str(line) for line in conversion.lines}
    assert "never used; now it takes effect" in said["smooth_factor"]
    assert "norms and biases decayed too" in said["weight_decay"]
    assert "overflowed steps were applied" in said["loss_scale"]
    assert "all of them believed to be the first" in said["is_save_on_master"]
    assert "the same for any number of devices" in said["lr_max"]
    for words in ("80 % of the features were dropped", "never used; now it takes effect", "norms keep a tenth"):
        assert words in conversion.recipe


DOCUMENT = """
    run_distribute_train_gpu.sh run_eval_gpu.sh run_eval_cpu.sh run_standalone_train_cpu.sh
    run_standalone_train_ascend.sh run_distribute_train_ascend.sh run_infer_310.sh run_eval_ascend.sh
    ascend310_infer dataset.py inceptionv4.py callback.py config.py device_adapter.py local_adapter.py
    moxing_adapter.py default_config.yaml default_config_cpu.yaml default_config_gpu.yaml eval.py export.py
    postprogress.py train.py RANK_TABLE_FILE DATA_PATH DATA_DIR DEVICE_ID CHECKPOINT_PATH MINDIR_PATH ANN_FILE
    HCCL_CONNECT_TIMEOUT taskset config_path ckpt_file device_target file_format file_name log.txt eval.log acc.log
    ckpt_path AIR MINDIR enable_modelarts distribute need_modelarts_dataset_unzip modelarts_dataset_unzip_name
    checkpoint_url checkpoint_path dataset_path is_save_on_master batch_size epoch_size num_classes work_nums
    loss_scale smooth_factor weight_decay momentum amp_level decay epsilon keep_checkpoint_max save_checkpoint_epochs
    lr_init lr_end lr_max warmup_epochs start_epoch
"""
"""Every script, argument and option that the model zoo's own README names."""
OPTIONS = DOCUMENT[DOCUMENT.index("enable_modelarts") :].split()


def test_every_script_and_option_of_the_model_zoos_readme_has_its_line() -> None:
    page = (Path(__file__).parents[1] / "docs/from-mindspore.md").read_text()
    assert [name for name in DOCUMENT.split() if not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", page)] == []


def test_every_option_of_the_model_zoos_readme_is_a_key_that_is_known(tmp_path: Path) -> None:
    source = tmp_path / "default_config.yaml"
    lines = {line.partition(":")[0]: line for line in GPU.split("---")[0].splitlines() if ":" in line}
    source.write_text("\n".join(lines.get(name, f"{name}: 'x'") for name in OPTIONS))
    conversion = convert_settings(source)
    assert conversion.unknown == ()
    assert {line.key for line in conversion.lines} == set(OPTIONS)


def test_other_values_and_files(tmp_path: Path) -> None:
    text = GPU.replace("ds_type: 'imagenet'", "ds_type: 'cifar10'").replace("amp_level: 'O0'", "amp_level: 'O3'")
    text = text.replace("smooth_factor: 0.1", "smooth_factor: 0.2").replace("resume: ''", "resume: 'x.ckpt'")
    text = text.replace("batch_size: 128", "batch_size: 32").replace("width: 299", "width: 331")
    _, config = converted(tmp_path, text)
    assert config.image.std == (0.2023, 0.1994, 0.2010)
    assert config.image.size == 331
    assert config.training.precision == "auto"
    assert config.loss.smoothing == 0.2
    assert config.model.weights == "x.ckpt"
    assert (config.training.batch_size, config.optimizer.reference_batch) == (256, 256)


def test_unknown_keys_and_bad_values_are_reported(tmp_path: Path, command: Callable[..., object]) -> None:
    source, recipe = tmp_path / "a.yaml", tmp_path / "b.yaml"
    source.write_text("epoch_size: 3\nbatchsize: 4\n")
    result = command("convert", "config", source, recipe)
    assert result.code == 0
    assert "batchsize -> unknown, left out" in result.out
    assert "epoch_size -> schedule.epochs: 3" in result.out
    assert "batchsize" in recipe.read_text()
    before = recipe.read_text()
    for text, words in (
        ("epoch_size: many\n", "schedule.epochs must be a whole number, got 'many'"),
        ("ds_type: coco\n", "ds_type must be imagenet or cifar10, got 'coco'"),
        ("batch_size: -1\n", "batch_size must be a finite number above 0, got -1"),
        ("batch_size: .inf\n", "batch_size must be a finite number above 0, got inf"),
        ("batch_size: 1e15\n", "optimizer.reference_batch must be <= 1048576, got 8000000000000000"),
        (f"width: {'9' * 400}\n", "width must be a finite number above 0"),
        (f"width: {'9' * 5000}\n", "cannot read the settings"),
        ("smooth_factor: 2\n", "loss.smoothing must be < 1"),
        ("- 1\n", "holds no settings"),
        ("a: [\n", "cannot read the settings"),
    ):
        source.write_text(text)
        result = command("convert", "config", source, recipe)
        assert (result.code, words in result.err) == (2, True), result.err
        assert recipe.read_text() == before
    result = command("convert", "config", source, source)
    assert (result.code, "is the source" in result.err) == (2, True)
    with pytest.raises(UsageError, match="cannot read the settings"):
        convert_settings(tmp_path / "nothing.yaml")
    source.write_text("keep_checkpoint_max: 0\n")
    with pytest.raises(ConfigError, match="checkpoint.keep must be >= 1"):
        convert_settings(source)
