"""Training on Huawei's ModelArts: what it tells a container, in the words of `torchrun` and of `inceptionv4 train`.

    python -m inceptionv4.runtime.modelarts --recipe=imagenet

is the boot command of a job, or `main()` all that its boot file calls. ModelArts adds the job's inputs, outputs and
hyperparameters as `--name=value`:

    data_url            images: a folder, an archive, a folder with one archive in it, or obs://...; becomes --data
    train_url           where runs go: a folder that ModelArts copies to OBS, or obs://...; becomes --output
    checkpoint_url      a model to start from; becomes --model.weights
    recipe, schedule.epochs and all other settings    as `inceptionv4 train` has them

Inputs and outputs may come as environment variables of the same names too, as a job's page lets one choose. What the
original's jobs said of unzipping is understood, and nothing is unzipped: archives are read in place.

    MA_NUM_HOSTS        --nnodes
    MA_NUM_GPUS         --nproc-per-node; accelerators of whichever kind
    VC_WORKER_HOSTS     the first one is --rdzv-endpoint, this machine's own --local-addr
    VC_TASK_INDEX       which of them this machine is
    MA_VJ_NAME          --rdzv-id
    RANK_TABLE_FILE     the same of Ascends, as JSON (`runtime.rank_table`): machines, cards and their ranks
    RANK_ID, RANK_SIZE  which of the processes this is, and of how many, where one is started for each card

A job that is started again goes on: `--resume auto` is always there.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from inceptionv4.errors import Error, UsageError
from inceptionv4.printable import note
from inceptionv4.runtime.machines import PER_CARD, Machines, find_machines
from inceptionv4.runtime.storage import is_uri, join

PORT = 29400
RESTARTS = 3
"""Times that `torchrun` starts the processes again; beyond that it is for ModelArts to start the job again."""
PLACES = {"data_url": "--data", "train_url": "--output", "checkpoint_url": "--model.weights"}
UNZIPPED = "modelarts_dataset_unzip_name"
"""The original's name, without .zip, of an archive in `data_url`."""
LAUNCHING = {"init_method", "rank", "world_size", "num_gpus", "enable_modelarts", "need_modelarts_dataset_unzip"}
"""Arguments of ModelArts and of the original's jobs that say nothing about a training."""


@dataclass(frozen=True)
class Start:
    """The process to become: a Python module with arguments, and variables that it must not see."""

    module: str
    arguments: list[str]
    unset: tuple[str, ...] = field(default=())


def plan_start(arguments: Sequence[str], variables: Mapping[str, str]) -> Start | None:
    """What to run on this machine, or None if another of its processes runs it.

    Raises:
        UsageError: `data_url` is missing or an empty folder, or ModelArts' variables do not fit together.
    """
    command = training(arguments, variables)
    if "LOCAL_RANK" in variables:  # ModelArts itself calls torchrun, with MA_RUN_METHOD=torchrun
        return Start("inceptionv4", command, PER_CARD)
    machines = find_machines(variables)
    if not machines.is_starter:
        return None
    options = launcher(machines, variables.get("MA_VJ_NAME", "inceptionv4"))
    return Start("torch.distributed.run", [*options, "-m", "inceptionv4", *command], PER_CARD)


def launcher(machines: Machines, job: str) -> list[str]:
    """Options of `torchrun` for this machine; `job` is a name that all of them know."""
    options = [f"--nproc-per-node={machines.processes}", f"--max-restarts={RESTARTS}"]
    hosts, index = machines.hosts, machines.index
    if len(hosts) < 2:
        return ["--standalone", *options]
    return [
        f"--nnodes={len(hosts)}",
        *options,
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={hosts[0]}:{PORT}",
        f"--rdzv-id={job}",
        f"--rdzv-conf=is_host={'true' if index == 0 else 'false'}",
        # Processes are numbered in the order of these, so that the first one stays on the first machine.
        f"--local-addr={hosts[index]}",
    ]


def training(arguments: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """`train` with its arguments.

    Raises:
        UsageError: `data_url` is missing, or a folder with nothing in it; a place has no value.
    """
    places = {name: variables[name] for name in PLACES if variables.get(name)}
    unzipped = variables.get(UNZIPPED, "")
    settings: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        name, equals, value = argument.removeprefix("--").partition("=")
        if name in (*PLACES, UNZIPPED, *LAUNCHING) and not equals and rest and not rest[0].startswith("--"):
            value = rest.popleft()
        if name in (*PLACES, UNZIPPED) and not value:
            raise UsageError(f"--{name} has no value; give it as --{name}=...")
        if name in PLACES:
            places[name] = value
        elif name == UNZIPPED:
            unzipped = value
        elif name not in LAUNCHING:
            settings.append(argument)
    if "data_url" not in places:
        raise UsageError("no data_url: add an input of this name to the job, with the images' folder or archive")
    places["data_url"] = images_at(places["data_url"], unzipped)
    given = [f"{option}={places[name]}" for name, option in PLACES.items() if places.get(name)]
    return ["train", *given, "--resume=auto", *settings]


def images_at(place: str, unzipped: str) -> str:
    """Where the images are: `place`, or the archive in it, if that is named or all that there is.

    A named archive that is not there may have been unpacked already, to a folder of its name or to `place` itself; the
    original took both.

    Raises:
        UsageError: there is nothing; or neither the named archive, nor a folder, only other archives.
    """
    folder = Path(place)
    if unzipped:
        name = unzipped if unzipped.endswith((".zip", ".tar")) else f"{unzipped}.zip"
        if is_uri(place) or (folder / name).exists() or not folder.is_dir():
            return str(join(place, name))
        if (unpacked := folder / name[: -len(".zip")]).is_dir():
            return str(unpacked)
        others = [entry.name for entry in folder.iterdir() if entry.suffix in (".zip", ".tar")]
        if others:
            raise UsageError(
                f"{place} holds neither {name} nor a folder {unpacked.name}, as {UNZIPPED} says, but "
                f"{', '.join(sorted(others)[:3])}; name one of these, or leave {UNZIPPED} out"
            )
    if folder.is_dir():
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if not entries:
            raise UsageError(f"{place} is empty; does the job's input data_url name the folder of the images?")
        if len(entries) == 1 and entries[0].suffix in (".zip", ".tar"):
            return str(entries[0])
    return place


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Become what `plan_start` says."""
    try:
        start = plan_start(sys.argv[1:] if arguments is None else arguments, os.environ)
    except Error as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
    if start is None:
        note("the first process of this machine trains on all of its cards")
        sys.exit(0)
    variables = {name: value for name, value in os.environ.items() if name not in start.unset}
    # A machine that comes back would wait in vain for the address of a store that torch (2.14) tells only once.
    variables.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # The process keeps its number, so that signals reach torchrun, which passes them on.
    os.execve(sys.executable, [sys.executable, "-m", start.module, *start.arguments], variables)


if __name__ == "__main__":
    main()
