"""A run goes on under the reading rules that it was begun under; its model is good for everything else."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from runs import settings

from inceptionv4.config import DataConfig, ScheduleConfig, TrainingConfig
from inceptionv4.data.rules import RULES
from inceptionv4.errors import DataError
from inceptionv4.evaluation.evaluate import evaluate
from inceptionv4.training.loop import train
from inceptionv4.weights.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def photos(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders without a split, 36 images."""
    root = tmp_path_factory.mktemp("rules") / "photos"
    for label in ("brick", "grass", "gravel"):
        (root / label).mkdir(parents=True)
        for number, path in enumerate(sorted((textures / "train" / label).iterdir())[:12]):
            shutil.copy(path, root / label / f"{number:02}.jpg")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(train(config(photos, tmp_path_factory.mktemp("run"))))


def config(photos: Path, output: Path, epochs: int = 1) -> object:
    return settings(
        photos,
        output,
        data=DataConfig(path=str(photos), workers=0),
        training=TrainingConfig(batch_size=6, precision="fp32"),
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=0),
    )


def under(rules: int | None, run: Path, copy: Path) -> Path:
    """A copy of a run that says it was begun under `rules`; None: it says nothing, as old ones do."""
    shutil.copytree(run, copy)
    for path in sorted(path for path in copy.rglob("*.safetensors") if not path.is_symlink()):
        state = load_checkpoint(path)
        data = {name: fact for name, fact in state.training["data"].items() if name != "rules"}
        data |= {} if rules is None else {"rules": rules}
        save_checkpoint(dataclasses.replace(state, training={**state.training, "data": data}), path)
    return copy


@pytest.mark.parametrize(("rules", "number"), [(None, 1), (1, 1), (RULES + 1, RULES + 1)])
def test_a_run_under_other_rules_is_refused_by_name(
    photos: Path, run: Path, tmp_path: Path, rules: int | None, number: int
) -> None:
    other = under(rules, run, tmp_path / "other")
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    message = rf"was begun under version {number} of the rules .* this is version {RULES}, .*--model.weights"
    with pytest.raises(DataError, match=message):
        train(config(photos, tmp_path, epochs=2), run=other)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file() and path.name != "lock"} == {
        path: content for path, content in before.items() if path.name != "lock"
    }
    # What the message advises works.
    fresh = config(photos, tmp_path / "new")
    train(dataclasses.replace(fresh, model=dataclasses.replace(fresh.model, weights=str(other))))  # type: ignore[type-var, attr-defined]


def test_a_run_under_the_same_rules_goes_on(photos: Path, run: Path, tmp_path: Path) -> None:
    same = under(RULES, run, tmp_path / "same")
    train(config(photos, tmp_path, epochs=2), run=same)  # type: ignore[arg-type]
    assert load_checkpoint(same / "checkpoints/last.safetensors").training["data"]["rules"] == RULES


def test_an_evaluation_says_what_it_cannot_tell(photos: Path, run: Path, tmp_path: Path) -> None:
    assert evaluate(str(run), str(photos)).images == f"the images of {photos} that were held out from training"
    old = evaluate(str(under(None, run, tmp_path / "old")), str(photos))
    assert old.metrics.images == 36
    assert "trained on under other rules of reading" in old.images
    assert "it has seen many of these" in old.images
    assert "changed" not in old.images
