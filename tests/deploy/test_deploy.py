"""Launchers: scripts that are sound and run what they say, manifests of known fields, commands that the CLI takes."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser
from trainer import RESERVED, TRAIN_JOB, TRAINING_RUNTIME, complaints

from inceptionv4.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
SCRIPTS = [DEPLOY / "slurm.sbatch", DEPLOY / "torchrun.sh"]
MANIFEST = [*yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))]

STUB = """#!{python}
import json, os, signal, sys, time
with open({log!r}, "a") as log:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=log, flush=True)
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if name == "scontrol" and arguments[0] == "show":
    print("node7\\nnode8")
if name == "srun":
    os.execvp("torchrun", arguments[arguments.index("torchrun"):])
if name == "torchrun" and "wait" in arguments:
    def stop(*_):
        time.sleep(0.5)
        print(json.dumps(["saved"]), file=open({log!r}, "a"))
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    print(json.dumps(["ready"]), file=open({log!r}, "a"))
    time.sleep(30)
"""


@pytest.fixture
def stubs(tmp_path: Path) -> tuple[dict[str, str], Callable[[], list[list[str]]]]:
    """An environment where SLURM's programs and torchrun only note how they were called, and what was noted."""
    log = tmp_path / "log"
    log.touch()
    for name in ("srun", "scontrol", "torchrun"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(STUB.format(python=sys.executable, log=str(log)))
        stub.chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "123456",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_CPUS_PER_TASK": "64",
    }
    variables = os.environ | slurm | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    return variables, lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, "--shell=bash", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def assert_takes(arguments: list[str]) -> None:
    """That the command line has this command with these arguments, settings included."""
    function, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    if function.__name__ == "train":
        from inceptionv4.config import load_config
        from inceptionv4.settings import read_options

        load_config(bound.kwargs.get("recipe"), bound.kwargs.get("config"), read_options(tuple(bound.args)))


def torchrun_of(notes: list[list[str]]) -> Any:
    [call] = [note[1:] for note in notes if note[0] == "torchrun"]
    options = get_args_parser().parse_args(call)
    assert options.module
    assert options.training_script == "inceptionv4"
    return options


def test_the_torchrun_script_starts_a_machine(stubs: Any) -> None:
    variables, notes = stubs
    usage = re.search(r"deploy/torchrun.sh (--recipe.*?)\n#\n", SCRIPTS[1].read_text(), re.DOTALL)
    assert usage is not None
    arguments = shlex.split(usage[1].replace("\\\n#", ""))
    own = {"NODES": "2", "HEAD": "node0.example", "PROCESSES": "8"}
    subprocess.run(["bash", SCRIPTS[1], *arguments], env=variables | own, check=True)
    options = torchrun_of(notes())
    assert (options.nnodes, options.nproc_per_node, options.rdzv_backend) == ("2", "8", "c10d")
    assert options.rdzv_endpoint == "node0.example:29400"
    assert options.training_script_args[:3] == ["train", "--resume", "auto"]
    assert options.training_script_args[3:] == arguments
    assert_takes(options.training_script_args)
    forgotten = subprocess.run(["bash", SCRIPTS[1]], env=variables, capture_output=True, text=True)
    assert forgotten.returncode != 0
    assert "NODES: how many machines" in forgotten.stderr


def test_the_slurm_script_meets_at_the_first_node(stubs: Any) -> None:
    variables, notes = stubs
    arguments = ["--recipe", "imagenet", "--data", "/shared/shards", "--output", "/shared/runs"]
    assert " ".join(arguments) in SCRIPTS[0].read_text()
    subprocess.run(["bash", SCRIPTS[0], *arguments], env=variables, check=True)
    options = torchrun_of(notes())
    assert (options.nnodes, options.nproc_per_node, options.rdzv_id) == ("2", "8", "123456")
    assert options.rdzv_endpoint == "node7:23456"
    [step] = [note for note in notes() if note[0] == "srun"]
    assert step[step.index("--cpus-per-task") + 1] == "64", "a step has one core of the job's, if it is not said"
    assert_takes(options.training_script_args)
    assert ["scontrol", "requeue", "123456"] not in notes()


def test_when_the_time_is_up_the_slurm_script_waits_for_the_state_and_queues_again(stubs: Any) -> None:
    variables, notes = stubs
    job = subprocess.Popen(["bash", SCRIPTS[0], "wait"], env=variables)
    deadline = time.monotonic() + 20
    while ["ready"] not in notes() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143
    assert notes()[-2:] == [["saved"], ["scontrol", "requeue", "123456"]]


def test_the_manifest_has_known_fields_only_and_its_parts_fit() -> None:
    runtime, job = MANIFEST
    assert complaints(runtime, TRAINING_RUNTIME) == []
    assert complaints(job, TRAIN_JOB) == []
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    [replicated] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    assert replicated["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    pod = replicated["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == "node", "whose command and variables a TrainJob replaces"
    volumes = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volumes.keys() == {volume["name"] for volume in pod["volumes"]}
    trainer = job["spec"]["trainer"]
    variables = {variable["name"]: variable.get("value") for variable in trainer["env"]}
    assert not variables.keys() & RESERVED
    assert variables["XDG_CACHE_HOME"] == volumes["cache"]
    [limit] = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "cache"]
    assert float(variables["INCEPTIONV4_CACHE_GB"]) * 1e9 < int(limit.removesuffix("Gi")) * 2**30
    assert int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    gpus = trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert int(gpus) == trainer["numProcPerNode"]
    assert trainer["command"][0] == "torchrun"
    options = get_args_parser().parse_args(trainer["command"][1:] + trainer["args"])
    used = set(re.findall(r"\$\((\w+)\)", options.rdzv_endpoint))
    assert used <= RESERVED
    assert (options.rdzv_backend, options.training_script) == ("c10d", "inceptionv4")
    assert_takes(options.training_script_args)


def test_the_schema_sees_mistakes() -> None:
    def spoiled(change: Callable[[dict[str, Any]], object]) -> list[str]:
        job = copy.deepcopy(MANIFEST[1])
        change(job)
        return complaints(job, TRAIN_JOB)

    assert spoiled(lambda job: job["spec"]["trainer"].update(numNode=4)) == [".spec.trainer.numNode: unknown"]
    assert spoiled(lambda job: job["spec"].pop("runtimeRef")) == [".spec.runtimeRef: missing"]
    assert spoiled(lambda job: job["spec"]["trainer"].update(numNodes="4")) == [".spec.trainer.numNodes: '4'"]
    assert spoiled(lambda job: job["metadata"].update(name="Inception")) == [".metadata.name: 'Inception'"]
    assert spoiled(lambda job: job["spec"]["trainer"]["env"][0].pop("name")) == [".spec.trainer.env[0].name: missing"]


def test_every_command_of_the_page_is_one() -> None:
    """Also behind torchrun, ModelArts' start and the scripts, whose own options are looked at above."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    commands = [line for line in lines if "inceptionv4" in line]
    for line in commands:
        if line[0] == "torchrun":
            options = get_args_parser().parse_args(line[1:])
            assert (options.module, options.training_script) == (True, "inceptionv4")
            assert_takes(options.training_script_args)
        else:
            assert line[0] == "inceptionv4", line
            assert_takes(line[1:])
    assert len(commands) >= 5
    for start in ("deploy/torchrun.sh", "deploy/slurm.sbatch", "inceptionv4.runtime.modelarts"):
        [line] = [line for line in lines if start in line]
        assert_takes(["train", *line[line.index(start) + 1 :]])


def test_every_file_that_the_page_names_is_there() -> None:
    for path in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        if not path.startswith("http"):
            assert (ROOT / "docs" / path).exists(), path
    for path in re.findall(r"`((?:deploy|benchmarks|tests)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path
