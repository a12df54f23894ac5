"""Where files are kept of users without a home, as in containers whose number no passwd knows; second names of files.

A user namespace makes such a user of whoever runs the tests, who may still read Python and this package.
"""

from __future__ import annotations

import errno
import getpass
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inceptionv4.errors import RunError
from inceptionv4.runtime.files import cache_folder, link_whole, settle_home

ROOT = Path(__file__).parents[2]
NARROW = ("--model.width", "0.1", "--image.size", "75", "--training.batch-size", "128")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache_folder() == Path("/fast/inceptionv4")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/x")
    assert cache_folder() == Path("/home/x/.cache/inceptionv4")


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user has neither a home nor a name; where a home for the time of a process is."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"inceptionv4-{os.geteuid()}"


def test_a_user_without_a_home_has_one_among_the_temporary_files(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == nobody / ".cache/inceptionv4"
    assert nobody.stat().st_mode & 0o777 == 0o700
    with pytest.raises(RuntimeError):
        Path.home()
    monkeypatch.setenv("HOME", "")  # so that what is set below is undone
    monkeypatch.setenv("LOGNAME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("LOGNAME")
    settle_home()
    assert Path.home() == nobody
    assert getpass.getuser() == str(os.geteuid())


@pytest.mark.parametrize("planted", ["that all may write", "of another user", "a link", "a file"])
def test_a_home_that_others_made_is_refused(planted: str, nobody: Path, tmp_path: Path) -> None:
    if planted == "a file":
        nobody.write_text("")
    elif planted == "a link":
        nobody.symlink_to(tmp_path)
    else:
        nobody.mkdir(mode=0o700)
        if planted == "of another user":
            if os.geteuid() != 0:
                pytest.skip("only root may give a folder away")
            os.chown(nobody, 12345, 12345)
        else:
            nobody.chmod(0o777)
    with pytest.raises(RunError, match=f"{nobody}.*set HOME or XDG_CACHE_HOME"):
        cache_folder()
    with pytest.raises(RunError, match=f"{nobody}.*set HOME or XDG_CACHE_HOME"):
        settle_home()


def test_a_second_name_leaves_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode too: it may be another user's. Where a file system has no links, it is a copy."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("content")
    first.chmod(0o640)
    second.write_text("before")
    link_whole(first, second)
    assert second.samefile(first)
    link_whole(first, second)
    assert first.stat().st_mode & 0o777 == 0o640

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    link_whole(first, tmp_path / "third")
    assert not (tmp_path / "third").samefile(first)
    assert (tmp_path / "third").read_text() == "content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "third"]


@pytest.fixture(scope="module")
def homeless(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What makes a command that of a user without a home."""
    temporary = tmp_path_factory.mktemp("temporary")
    command = ["env", "-i", f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT / 'src'}", "OMP_NUM_THREADS=1"]
    command += [f"TMPDIR={temporary}"]
    command += ["unshare", "--user", "--map-user=54321"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    asked = "import os; from pathlib import Path; print(os.getuid()); Path.home()"
    answer = subprocess.run([*command, sys.executable, "-c", asked], capture_output=True, text=True)
    assert answer.stdout == "54321\n"
    assert "Could not determine home directory" in answer.stderr
    return command


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_training_and_answers_of_a_user_without_a_home(capability: str, homeless: list[str], tmp_path: Path) -> None:
    def inceptionv4(*arguments: str) -> str:
        command = [*homeless, "env", f"ATEN_CPU_CAPABILITY={capability}", sys.executable, "-m", "inceptionv4"]
        result = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        assert "slower" not in result.stderr
        return result.stdout

    epoch = ("--schedule.epochs", "1", "--schedule.warmup-epochs", "0.1")
    run = inceptionv4("train", "--data", "digits", *NARROW, *epoch).strip()
    assert (tmp_path / run / "plots" / "curves.png").is_file()
    for runtime in ("torch", "onnxruntime", "openvino"):
        answer = inceptionv4("predict", run, str(ROOT / "examples/seven.png"), "--runtime", runtime)
        assert "seven.png" in answer
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize("arguments", [("doctor",), ("data", "inspect", "digits"), ("train", "--print-config")])
def test_other_commands_of_a_user_without_a_home(
    arguments: tuple[str, ...], homeless: list[str], tmp_path: Path
) -> None:
    command = [*homeless, sys.executable, "-m", "inceptionv4", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "~").exists()
