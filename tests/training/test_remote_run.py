"""A run in object storage ends as one on the disk, wherever it was stopped and on whichever machine it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import s3
from runs import assert_same_run, settings

from inceptionv4.config import CheckpointConfig, Config, ScheduleConfig, TrainingConfig
from inceptionv4.errors import RunError, StoppedError, StorageError, UsageError
from inceptionv4.runtime import storage
from inceptionv4.runtime.device import select_device
from inceptionv4.training.loop import train
from inceptionv4.training.recorder import Recorder
from inceptionv4.training.run.find import create_run, find_run
from inceptionv4.training.run.recovery import set_aside
from inceptionv4.training.run.remote_run import RemoteRun
from inceptionv4.weights.checkpoint import load_checkpoint
from inceptionv4.weights.load import find_model

OUTPUT = "s3://bucket/runs"
RUN = f"{OUTPUT}/test/1"


@pytest.fixture(scope="module")
def whole(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training on a disk."""
    return Path(train(config_of(textures, tmp_path_factory.mktemp("whole"))))


@pytest.fixture
def served(tmp_path: Path) -> Path:
    (tmp_path / "served/bucket").mkdir(parents=True)
    return tmp_path / "served"


@pytest.fixture
def proxy(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Proxy]:
    with s3.running(s3.rclone(served, tmp_path / "log")) as server:
        proxy = s3.Proxy(server.port, mend=True)
        s3.use(monkeypatch, proxy.port)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one machine"))
        yield proxy
        proxy.close()


def config_of(data: Path, output: Path | str) -> Config:
    """Six steps, a state after each, two of which are kept."""
    return settings(
        data,
        output,  # type: ignore[arg-type]
        training=TrainingConfig(batch_size=30, ema_decay=0.9, precision="fp32"),
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5),
        checkpoint=CheckpointConfig(keep=2, every_minutes=0),
    )


def as_on_a_disk(served: Path) -> Path:
    """The served run, with the file that `last` stands for."""
    run = served / RUN.removeprefix("s3://")
    checkpoints = run / "checkpoints"
    newest = checkpoints / (checkpoints / "last").read_text().strip()
    (checkpoints / "last.safetensors").write_bytes(newest.read_bytes())
    return run


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Recorder.step

    def record(self: Recorder, line: Any) -> None:
        original(self, line)
        if line.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Recorder, "step", record)


def test_what_lies_in_a_run(
    textures: Path, proxy: s3.Proxy, served: Path, whole: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    config = config_of(textures, OUTPUT)
    assert train(config) == RUN
    found = {object.uri.removeprefix(f"{RUN}/") for object in storage.list_objects(RUN)}
    assert found == {
        *("config.yaml", "environment.json", "log.jsonl", "results.csv", "plots/curves.png", "plots/inputs.png"),
        *("checkpoints/best.safetensors", "checkpoints/last"),
        *(f"checkpoints/step-{step:08}.safetensors" for step in (5, 6)),
    }
    assert not (tmp_path / "one machine/inceptionv4/runs/s3/bucket/runs/test/1").exists()
    assert_same_run(as_on_a_disk(served), whole)
    # What is deleted is no longer named: the pointer went on before.
    lines = [line.split()[:2] for line in proxy.requests if line.startswith(("PUT", "DELETE"))]
    for number, (method, path) in enumerate(lines):
        if method == "DELETE":
            assert ["PUT", "/bucket/runs/test/1/checkpoints/last"] in lines[max(number - 2, 0) : number], path
    assert train(config, run=find_run(config, "auto")) == RUN  # there is nothing left to do
    # From there, by the command line.
    here = command("evaluate", whole, "--data", textures, "--json")
    there = command("evaluate", f"{OUTPUT}/test", "--data", textures, "--json")
    assert json.loads(there.out) == json.loads(here.out), there.err
    for model in (RUN, f"{RUN}/checkpoints/best.safetensors"):
        assert load_checkpoint(find_model(model)).training["step"] == 6
    assert command("predict", RUN, textures / "val/brick/000.jpg", "--json").code == 0
    storage.delete(f"{RUN}/checkpoints/best.safetensors")
    assert find_model(RUN).name.endswith("step-00000006.safetensors")  # by `last`
    missing = command("evaluate", f"{OUTPUT}/other", "--data", textures)
    assert (missing.code, f"no model at {OUTPUT}/other" in missing.err) == (2, True)


def test_it_goes_on_where_nothing_is(
    textures: Path, proxy: s3.Proxy, served: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the epoch, it goes on on a machine that knows nothing of the run."""
    config = config_of(textures, OUTPUT)
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        with pytest.raises(StoppedError, match=f"after step 3; .* --resume {RUN}"):
            train(config)
    assert (served / "bucket/runs/test/1/checkpoints/last").read_text() == "step-00000003.safetensors\n"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert find_run(config, RUN) == find_run(config, "auto") == RUN
    assert train(config, run=RUN) == RUN
    assert_same_run(as_on_a_disk(served), whole)


def test_last_is_switched_after_the_state_is_there(
    textures: Path, proxy: s3.Proxy, served: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its fourth state on nothing can be sent. The training goes on, and is sent when that is possible again."""
    s3.use(monkeypatch, proxy.port, 0.5)
    config = config_of(textures, OUTPUT)
    refused: list[str] = []

    def refuse(request: str) -> str:
        if refused or (request.startswith("PUT") and "step-00000004" in request):
            refused.append(request)
            return "503"
        return "none"

    proxy.fault = refuse
    with pytest.raises(StorageError, match=f"{RUN}.*The run is whole in .*--resume {RUN}"):
        train(config)
    states = sorted((served / "bucket/runs/test/1/checkpoints").glob("step-*"))
    assert [path.name for path in states] == ["step-00000002.safetensors", "step-00000003.safetensors"]
    assert (served / "bucket/runs/test/1/checkpoints/last").read_text() == "step-00000003.safetensors\n"
    proxy.fault = lambda request: "none"
    # Elsewhere it goes on after the third step, here there is nothing left to do.
    remote_run = RemoteRun(RUN)
    with pytest.raises(RunError, match=f"another process .* {RUN}"):
        RemoteRun(RUN)
    remote_run._following = False
    remote_run.close()
    steps: list[int] = []
    monkeypatch.setattr(Recorder, "step", lambda self, line: steps.append(line.step))
    assert train(config, run=RUN) == RUN
    assert steps == []
    assert_same_run(as_on_a_disk(served), whole)


def test_two_machines_do_not_train_one_run(
    textures: Path, proxy: s3.Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is told while the first is alive, and takes over when it is not; the first then sends nothing more."""
    monkeypatch.setattr(storage, "patience", lambda: 3.0)
    config = config_of(textures, OUTPUT)
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        with pytest.raises(StoppedError):
            train(config)
    first = RemoteRun(RUN)
    folder = first.pull()
    first.follow()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    with pytest.raises(RunError, match=f"{RUN} is in use by process {os.getpid()} on .*; wait for it, or stop it"):
        train(config, run=RUN)
    first._lease._done.set()  # killed, or cut off
    assert train(config, run=RUN) == RUN
    there = {object.uri: object.version for object in storage.list_objects(RUN)}
    storage.write(f"{RUN}/lock", b'{"token": "of the second", "process": "process 7 on elsewhere"}')
    (folder / "log.jsonl").write_text("written by the first")
    with pytest.raises(RunError, match="in use by process 7 on elsewhere, which took it meanwhile"):
        first.close()
    now = {object.uri: object.version for object in storage.list_objects(RUN)}
    assert {uri: version for uri, version in now.items() if uri != f"{RUN}/lock"} == there
    assert (folder / "log.jsonl").read_text() == "written by the first"


def test_a_lost_pointer_does_not_lose_the_states(
    textures: Path, proxy: s3.Proxy, served: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(textures, OUTPUT)
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        with pytest.raises(StoppedError):
            train(config)
    storage.delete(f"{RUN}/checkpoints/last")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    steps: list[int] = []
    original = Recorder.step
    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "step", lambda self, line: (steps.append(line.step), original(self, line)))
        assert train(config, run=RUN) == RUN
    assert steps == [4, 5, 6]
    assert_same_run(as_on_a_disk(served), whole)
    # Without its states, the model that is there is not replaced by a new beginning.
    for step in (5, 6):
        storage.delete(f"{RUN}/checkpoints/step-{step:08}.safetensors")
    before = {object.uri: object.version for object in storage.list_objects(RUN)}
    with pytest.raises(RunError, match=f"no state to go on from: .*--resume {RUN} --model.weights {RUN}"):
        train(config, run=RUN)
    assert {object.uri: object.version for object in storage.list_objects(RUN)} == before


def test_a_run_that_was_not_sent_is_kept_from_the_next_of_its_name(
    textures: Path, proxy: s3.Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.use(monkeypatch, proxy.port, 0.5)
    config = dataclasses.replace(config_of(textures, OUTPUT), checkpoint=CheckpointConfig(keep=2))
    proxy.fault = lambda request: "503" if request.startswith("PUT") and "/step-" in request else "none"
    with pytest.raises(StorageError, match="The run is whole in (.*); `--resume"):
        train(config)
    proxy.fault = lambda request: "none"
    kept = tmp_path / "one machine/inceptionv4/runs/s3/bucket/runs/test/1"
    states = {path.name: path.read_bytes() for path in (kept / "checkpoints").iterdir()}
    assert "step-00000006.safetensors" in states
    for object in storage.list_objects(RUN):
        storage.delete(object.uri)
    capfd.readouterr()
    assert train(config) == RUN
    aside = kept.with_name("1-unsent")
    assert f"what could not be sent to {RUN} before is kept in {aside}" in capfd.readouterr().err.replace("\n", " ")
    assert {path.name: path.read_bytes() for path in (aside / "checkpoints").iterdir()} == states


def test_what_is_set_aside_twice_is_kept_twice(remote: dict[str, bytes]) -> None:
    remote[f"{RUN}/aside/log.jsonl"] = b"first"
    remote_run = RemoteRun(RUN)
    folder = remote_run.pull()
    remote_run.follow()
    (folder / "log.jsonl").write_bytes(b"second")
    set_aside(folder, folder / "log.jsonl")
    remote_run.close()
    aside = {name.rpartition("/")[2]: content for name, content in remote.items() if "/aside/" in name}
    assert aside == {"log.jsonl": b"first", "log-2.jsonl": b"second"}


def test_a_newer_state_here_is_never_deleted(remote: dict[str, bytes]) -> None:
    """It is damaged, or cannot be gone on from for another reason: whoever knows more may want it."""
    remote_run = RemoteRun(RUN)
    folder = remote_run.pull()
    (folder / "checkpoints/step-00000055.safetensors").write_bytes(b"not sent")
    remote_run._fetched = False  # the process is killed here
    remote_run.close()
    remote_run = RemoteRun(RUN)
    remote_run.pull()
    kept = folder.with_name("1-unsent/checkpoints/step-00000055.safetensors".partition("/")[0])
    assert (kept / "checkpoints/step-00000055.safetensors").read_bytes() == b"not sent"
    assert f"what could not be sent to {RUN} before is kept in {kept}" in remote_run.warning
    remote_run.close()


def test_a_refused_run_is_left_as_it_is(remote: dict[str, bytes]) -> None:
    before = dict(remote)
    remote_run = RemoteRun(RUN)
    folder = remote_run.pull()
    (folder / "log.jsonl").write_bytes(b"changed here")
    remote_run.close()
    assert remote == before
    assert not folder.exists()


def test_numbers_and_settings(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """Of two runs that begin at once each gets a number of its own, where the storage knows conditional writes."""
    with s3.running(s3.moto(tmp_path / "log")) as server:
        s3.use(monkeypatch, server.port)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        s3.make_bucket(server.port)
        config, device = config_of(textures, OUTPUT), select_device("cpu", "fp32")
        assert create_run(config, device) == RUN
        with monkeypatch.context() as patched:
            patched.setattr(storage, "list_objects", lambda uri: [])
            assert create_run(config, device) == f"{OUTPUT}/test/2"
        other = config_of(tmp_path, OUTPUT)
        assert create_run(other, device) == f"{OUTPUT}/test/3"
        assert find_run(config, "auto") == f"{OUTPUT}/test/2"
        assert find_run(other, "auto") == f"{OUTPUT}/test/3"
        with pytest.raises(UsageError, match=f"{OUTPUT}/test/9 is no run folder"):
            find_run(other, f"{OUTPUT}/test/9")
        assert f"path: {textures}" in command("train", "--resume", RUN, "--print-config").out


def test_keys_that_climb_out_of_the_run_are_left(
    remote: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["../../../../../evil", "plots/../../evil", "/evil", "config.yaml"]
    objects = [storage.Object(f"{RUN}/{key}", 4, "1") for key in keys]
    monkeypatch.setattr(storage, "list_objects", lambda uri: objects)
    monkeypatch.setattr(storage, "download", lambda found, file: os.write(file, b"evil"))
    remote_run = RemoteRun(RUN)
    folder = remote_run.pull()
    remote_run._fetched = False
    remote_run.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == [
        folder / "config.yaml"
    ]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What a run in storage holds, without any storage; what is written and deleted shows in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    newest = b"step-00000002.safetensors\n"
    held = {f"{RUN}/config.yaml": b"x", f"{RUN}/checkpoints/last": newest, f"{RUN}/plots/a.png": b"picture"}
    held |= {f"{RUN}/checkpoints/step-0000000{step}.safetensors": b"state" for step in (1, 2)}

    def listed(uri: str) -> list[storage.Object]:
        return [storage.Object(name, len(held[name]), "1") for name in sorted(held)]

    def write(uri: str, content: Path | bytes, *, new: bool = False) -> bool:
        if new and uri in held:
            return False
        held[uri] = content if isinstance(content, bytes) else content.read_bytes()
        return True

    def find(uri: str) -> storage.Object | None:
        return storage.Object(uri, len(held[uri]), "1") if uri in held else None

    def read_all(place: storage.Object | str) -> bytes:
        return held[place if isinstance(place, str) else place.uri]

    monkeypatch.setattr(storage, "list_objects", listed)
    monkeypatch.setattr(storage, "read_all", read_all)
    monkeypatch.setattr(storage, "download", lambda found, file: os.write(file, held[found.uri]))
    monkeypatch.setattr(storage, "write", write)
    monkeypatch.setattr(storage, "find", find)
    monkeypatch.setattr(storage, "delete", held.pop)
    return held


def test_objects_that_stand_for_folders_are_none_of_the_run_s(remote: dict[str, bytes]) -> None:
    run = dict(remote)
    remote |= {f"{RUN}/{folder}": b"" for folder in ("checkpoints", "plots", "notes")} | {f"{RUN}/notes/a.txt": b"note"}
    with closing(RemoteRun(RUN)) as remote_run:
        folder = remote_run.pull()
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        names = {name.removeprefix(f"{RUN}/") for name in run} - {"checkpoints/last"}
        assert files == names | {"notes/a.txt"}
    assert run.items() <= remote.items()


def test_a_run_that_could_not_be_fetched_whole_is_left_as_it_is(
    remote: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(remote)

    def half(found: storage.Object, file: int) -> None:
        os.write(file, remote[found.uri][:2])
        if found.name == "step-00000002.safetensors":
            raise StorageError("the line is cut")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "download", half)
        with pytest.raises(StorageError, match="the line is cut"), closing(RemoteRun(RUN)) as remote_run:
            remote_run.pull()
    assert remote == before
    with closing(RemoteRun(RUN)) as remote_run:
        assert (remote_run.pull() / "checkpoints/step-00000002.safetensors").read_bytes() == b"state"
    assert remote == before
