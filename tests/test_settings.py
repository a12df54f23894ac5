"""Settings: types, limits, places, suggestions, and the way to YAML and back."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inceptionv4.config import Config, load_config, recipes
from inceptionv4.data.augment import sample_generator
from inceptionv4.data.order import epoch_order
from inceptionv4.errors import ConfigError, UsageError
from inceptionv4.settings import Given, build, dump, keys, read_options, read_yaml
from inceptionv4.training.train_step import part_seed


def whole_number(key: str) -> bool:
    """Whether a setting is one."""
    *sections, name = key.split(".")
    kind: Any = Config
    for section in sections:
        kind = typing.get_type_hints(kind)[section]
    return int in (hint := typing.get_type_hints(kind)[name], *typing.get_args(hint))


def load(text: str) -> Config:
    return build(Config, read_yaml(text, "my.yaml"))


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_resolves_and_survives_yaml(recipe: str) -> None:
    config = load_config(recipe)
    assert config.recipe == recipe
    assert build(Config, read_yaml(dump(config), "dumped")) == config


@given(
    st.floats(1e-12, 1e12),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
    st.booleans(),
)
def test_any_value_survives_yaml(number: float, text: str, flag: bool) -> None:
    config = Config(output=text)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=number))
    config = dataclasses.replace(config, image=dataclasses.replace(config.image, exif_orientation=flag))
    assert build(Config, read_yaml(dump(config), "dumped")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer:\n  lr: -1", r"optimizer.lr must be > 0, got -1 \(my.yaml:2\)"),
        ("optimizer:\n  lr: fast", r"optimizer.lr must be a number, got 'fast' \(my.yaml:2\)"),
        ("optimizer:\n  lr: true", r"optimizer.lr must be a number, got True \(my.yaml:2\)"),
        ("optimizer:\n  lr: .nan", r"optimizer.lr must be > 0, got nan \(my.yaml:2\)"),
        ("optimizer:\n  lr: .inf", r"optimizer.lr must be finite, got inf \(my.yaml:2\)"),
        ("image:\n  size: 74", r"image.size must be >= 75, got 74 \(my.yaml:2\)"),
        ("image:\n  size: 299.5", r"image.size must be a whole number, got 299.5 \(my.yaml:2\)"),
        ("optimizer:\n  name: adam", r"one of adamw, rmsprop, sgd, got 'adam'; did you mean adamw\? \(my.yaml:2\)"),
        ("seed: 9223372036854775808", r"seed must be <= 9223372036854775807, got 9223372036854775808 \(my.yaml:1\)"),
        ("seed: -1", r"seed must be >= 0, got -1 \("),
        ("seed: 1e30", r"seed must be a whole number, got '1e30'"),
        ("seed: 1.5", r"seed must be a whole number, got 1.5"),
        (f"seed: {'9' * 5000}", r"seed must be a whole number, got '9{199}\.\.\. \(5,002 characters\)"),
        (f"seed: 0x{'f' * 5000}", r"seed must be <= 9223372036854775807, got a number of 20,000 bits"),
        (f"optimizer: {{lr: {'9' * 400}}}", r"optimizer.lr must be finite, got inf"),
        (f"optimizer: {{lr: -{'9' * 400}}}", r"optimizer.lr must be > 0, got -inf"),
        (f"optimizer: {{name: 0x{'f' * 5000}}}", r"got a number of 20,000 bits"),
        ("image:\n  mean: [0.5]", r"image.mean must be a list of 3, got \[0.5\] \(my.yaml:2\)"),
        ("augment:\n\n  area: [0.1, 2]", r"augment.area must be <= 1, got 2 \(my.yaml:3\)"),
        ("augment:\n  area: [0.5, 0.1]", r"augment.area must run from low to high, got \[0.5, 0.1\]"),
        ("schedule:\n  epochs: 1", r"schedule.warmup_epochs must be below schedule.epochs, got 1 and 1"),
        ("optimiser:\n  lr: 1", r"unknown setting optimiser.lr \(my.yaml:2\); did you mean optimizer.lr\?"),
        ("optimizer:\n  epochs: 1", r"unknown setting optimizer.epochs \(my.yaml:2\); did you mean schedule.epochs\?"),
        ("epochs: 1", r"unknown setting epochs \(my.yaml:1\); did you mean schedule.epochs\?"),
        ("optimizer:\n  zzz: 1", r"unknown setting optimizer.zzz \(my.yaml:2\); optimizer has name, lr,"),
        ("recipe: ../up", r"recipe names a folder: letters, digits, dots and dashes, got '../up'"),
        ("optimizer: 3", r"unknown setting optimizer \(my.yaml:1\); it is a section"),
        ("seed: 1\nseed: 2", r"seed is given twice, in lines 1 and 2 of my.yaml"),
        ("optimizer:\n  lr: 1\n  lr: 2", r"optimizer.lr is given twice, in lines 2 and 3 of my.yaml"),
        ("image:\n  size: 99\nimage: {size: 75}", r"image is given twice, in lines 1 and 3 of my.yaml"),
        ("a: [1", r"my.yaml:1 is not YAML"),
        ("- 1", r"my.yaml:1 must be `key: value` pairs"),
        ("image: &a\n  size: 99\nb: {c: *a, d: *a}", r"my.yaml: an alias repeats what begins in line 1; write it out"),
        ("image:\n  mean: &m [*m]", r"my.yaml: an alias repeats what begins in line 2"),
        ("image: &a {size: *a}", r"my.yaml: an alias repeats what begins in line 1"),
        (f"seed: {'[' * 50_000}", r"my.yaml is nested too deeply"),
    ],
)
def test_a_bad_setting_says_what_where_and_how_to_mend_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_what_yaml_blurs_is_understood() -> None:
    config = load("optimizer: {lr: 1e-3, clip_norm: null}\nimage: {std: [1, 1, 1]}\ndata: {path: 2024}")
    assert config.optimizer.lr == 1e-3
    assert config.optimizer.clip_norm is None
    assert config.image.std == (1.0, 1.0, 1.0)
    assert config.data.path == "2024"
    assert load("output: 2024-13-45").output == "2024-13-45"  # no day, so a name


def test_values_are_checked_however_a_section_is_made() -> None:
    with pytest.raises(ConfigError, match="batch_size must be >= 2, got 1"):
        dataclasses.replace(Config().training, batch_size=1)


def test_options() -> None:
    given_settings = read_options(
        ("--optimizer.lr", "3", "--augment.area=[0.1, 1]", "--model.weights", "null", "--training.batch-size", "8")
    )
    config = build(Config, given_settings)
    assert (config.optimizer.lr, config.augment.area, config.training.batch_size) == (3.0, (0.1, 1.0), 8)
    assert config.model.weights is None


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("--seed",), "--seed needs a value"),
        (("seed", "1"), "unexpected argument 'seed'"),
        (("--seed", "1", "--seed=2"), "--seed is given twice"),
    ],
)
def test_bad_options(tokens: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_options(tokens)


def mutations(key: str) -> list[str]:
    """`key` with a letter dropped, doubled, or swapped with the next."""
    section, dot, name = key.rpartition(".")
    changed = set()
    for i in range(len(name)):
        changed |= {name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:]}
        changed |= {name[:i] + name[i + 1] + name[i] + name[i + 2 :]} if i + 1 < len(name) else set()
    return [section + dot + new for new in sorted(changed) if new and new != name]


def test_nine_typos_in_ten_get_the_right_suggestion() -> None:
    known = list(keys(Config))
    right = total = 0
    for key in known:
        for typo in mutations(key):
            if typo in known:
                continue
            with pytest.raises(ConfigError) as error:
                build(Config, {typo: Given(1, "here")})
            total += 1
            right += f"did you mean {key}?" in str(error.value)
    assert total > 500
    assert right / total >= 0.9, f"{right} of {total}"


def test_a_typo_in_any_key_ends_the_command_with_2(command: Callable[..., Any], tmp_path: Path) -> None:
    """In a file of settings and as an option: three typos of each key, spread over where they may be."""
    file, known = tmp_path / "mine.yaml", list(keys(Config))
    right = total = 0
    for key in known:
        typos = [typo for typo in mutations(key) if typo not in known]
        for typo in typos[:: -(-len(typos) // 3)]:
            section, _, name = typo.rpartition(".")
            file.write_text(f"{section}:\n  {name}: 1\n" if section else f"{name}: 1\n")
            option = f"--{typo.replace('_', '-')}"
            for arguments, place in ((("--config", file), f"{file}:{1 + bool(section)}"), ((option, "1"), option)):
                result = command("train", *arguments)
                assert (result.code, result.out) == (2, ""), typo
                assert f"unknown setting {typo} ({place})" in result.err
                total += 1
                right += f"did you mean {key}?" in result.err
    assert total > 300
    assert right / total >= 0.9, f"{right} of {total}"


def test_recipes_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe 'digit'; did you mean digits\?"):
        load_config("digit")
    with pytest.raises(UsageError, match="not both"):
        load_config("digits", tmp_path / "a.yaml")
    with pytest.raises(UsageError, match="cannot read the settings in"):
        load_config(file=tmp_path / "missing.yaml")
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    config = load_config(file=tmp_path / "mine.yaml", overrides={"data.path": Given("x", "--data")})
    assert (config.recipe, config.seed, config.data.path) == ("mine", 3, "x")


@pytest.mark.parametrize("key", [key for key in keys(Config) if whole_number(key)])
def test_every_whole_number_has_a_largest_which_no_other_setting_contradicts(key: str) -> None:
    """Without one, 2^63 is an error somewhere deep down, or fills the memory."""
    for number in (2**63, 2**64, 10**30, 10**5000):
        with pytest.raises(ConfigError, match=rf"^{re.escape(key)} must be <= [0-9]+, got "):
            build(Config, {key: Given(number, "--x")})
    with pytest.raises(ConfigError) as refused:
        build(Config, {key: Given(10**30, "--x")})
    largest = int(re.findall("[0-9]+", str(refused.value))[0])
    others = {"image.size": Given(largest, "--y")} if key == "schedule.first_size" else {}
    build(Config, {key: Given(largest, "--x"), **others})
    with pytest.raises(ConfigError, match=rf"{re.escape(key)} must be <= {largest}, got {largest + 1} "):
        build(Config, {key: Given(largest + 1, "--x")})


def test_the_largest_seed_is_everybodys() -> None:
    largest = 2**63 - 1
    Config(seed=largest)
    assert 0 <= part_seed(largest, 1_000_000, 3) < 2**63
    torch.Generator().manual_seed(largest)
    assert sorted(epoch_order(np.zeros(5), largest, 1_000_000).tolist()) == [0, 1, 2, 3, 4]
    assert 0 <= sample_generator(largest, 1_000_000, 2**40).random() < 1


def test_defaults_pass_their_own_checks() -> None:
    config: Any = Config()
    assert dataclasses.asdict(build(Config, {})) == dataclasses.asdict(config)


@pytest.mark.parametrize(
    "text", ["010", "1.10", "12:30", "1e3", "0x10", "1_000", "2026-11-26", "yes", "off", "[a]", "{a: 1}", "a: b", "# x"]
)
def test_text_is_taken_as_it_is_written(text: str) -> None:
    """For YAML most of these are numbers, dates, truth values or lists."""
    for option in (("--output", text), (f"--output={text}",)):
        assert build(Config, read_options(option)).output == text
    assert build(Config, read_options(("--data.path", text))).data.path == text
    if text[0] not in "[{#" and ": " not in text:
        assert load(f"output: {text}").output == text
    assert load(f"output: '{text}'\ndata:\n  path: '{text}'").data.path == text


def test_null_is_none_where_a_setting_may_have_none() -> None:
    for text in ("null", "~"):
        assert build(Config, read_options(("--data.path", text))).data.path is None
        assert build(Config, read_options(("--output", text))).output == text
        with pytest.raises(ConfigError, match=r"output must be text, got None \(my.yaml:1\)"):
            load(f"output: {text}")
    assert load("output: 'null'").output == "null"
    assert load("data:\n  path: 'null'").data.path == "null"
