"""The machines of a job by what ModelArts and Ascend's clusters say, each alone, together, and against each other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_modelarts import HOSTS, MANY, start
from torch.distributed.run import get_args_parser

from inceptionv4.errors import UsageError
from inceptionv4.runtime.modelarts import plan_start
from inceptionv4.runtime.rank_table import read_rank_table


def table_of(form: str, cards: Sequence[int], status: str = "completed") -> dict[str, Any]:
    """A rank table of machines with so many cards: 10.0.0.1, 10.0.0.2 and so on. The last is listed first."""
    addresses = [f"10.0.0.{number + 1}" for number in range(len(cards))]
    ids = [[{"device_id": str(card), "device_ip": f"192.{card}.0.1"} for card in range(count)] for count in cards]
    order = range(len(cards))[::-1]
    if form == "pods":
        pods = [
            {"pod_name": f"job-a-{number}", "server_id": addresses[number], "devices": ids[number]} for number in order
        ]
        group = {"group_name": "job-a", "device_count": str(sum(cards)), "instance_list": pods}
        return {"status": status, "group_count": "1", "group_list": [group]}
    ranks = iter(range(sum(cards)))
    for devices in ids:
        for device in devices:
            device["rank_id"] = str(next(ranks))
    servers = [{"server_id": addresses[number], "device": ids[number]} for number in order]
    return {"status": status, "version": "1.0", "server_count": str(len(cards)), "server_list": servers}


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Write a rank table; the variable that names it."""

    def write(*arguments: Any, **more: Any) -> dict[str, str]:
        path = tmp_path / "jobstart_hccl.json"
        path.write_text(json.dumps(table_of(*arguments, **more)))
        return {"RANK_TABLE_FILE": str(path)}

    return write


def options_of(variables: dict[str, str]) -> Any:
    return get_args_parser().parse_args(start(["--data_url=/in"], variables).arguments)


def test_rank_size_tells_the_processes() -> None:
    """Of all machines together, each of which starts as many."""
    assert options_of({"RANK_SIZE": "8"}).nproc_per_node == "8"
    assert options_of({"RANK_SIZE": "8", "MA_NUM_GPUS": "0", "MA_NUM_HOSTS": "1"}).nproc_per_node == "8"
    many = {name: value for name, value in MANY.items() if name != "MA_NUM_GPUS"} | {"RANK_SIZE": "32"}
    assert options_of(many).nproc_per_node == "8"
    assert options_of(many | {"MA_NUM_GPUS": "8"}).nproc_per_node == "8"
    for variables, reason in (
        (
            {"RANK_SIZE": "8", "MA_NUM_GPUS": "4"},
            "processes of this machine is not certain: 4 by MA_NUM_GPUS, 8 by RANK_SIZE",
        ),
        (MANY | {"RANK_SIZE": "8"}, "8 by MA_NUM_GPUS, 2 by RANK_SIZE, for 4 machines"),
        (many | {"RANK_SIZE": "30"}, "RANK_SIZE is 30, which 4 machines cannot share equally"),
        ({"RANK_SIZE": "-8"}, "RANK_SIZE must be a number, got '-8'"),
        ({"RANK_ID": "3"}, "RANK_ID is 3, and RANK_SIZE None"),
        ({"RANK_ID": "8", "RANK_SIZE": "8"}, "RANK_ID is 8, and RANK_SIZE 8"),
        (many | {"RANK_ID": "8"}, "which machine this is is not certain: 2 by VC_TASK_INDEX, 1 by RANK_ID"),
        ({"MA_NUM_HOSTS": "2", "VC_TASK_INDEX": "0"}, "neither VC_WORKER_HOSTS nor a rank table names them"),
        ({"MA_NUM_HOSTS": "2"}, "there are 2 machines, and nothing says which this is"),
        ({"VC_TASK_INDEX": "1"}, "this is machine 1 by VC_TASK_INDEX, and there are 1"),
        ({"MA_NUM_HOSTS": "0", "RANK_SIZE": "8"}, "MA_NUM_HOSTS is 0"),
    ):
        with pytest.raises(UsageError, match=reason):
            plan_start(["--data_url=/in"], variables)


def test_of_processes_for_each_card_exactly_one_starts_on_each_machine() -> None:
    for hosts, cards in ((1, 8), (4, 8), (2, 1)):
        job = {"MA_NUM_HOSTS": str(hosts), "VC_WORKER_HOSTS": ",".join(HOSTS[:hosts]), "RANK_SIZE": str(hosts * cards)}
        planned = [plan_start(["--data_url=/in"], job | {"RANK_ID": str(rank)}) for rank in range(hosts * cards)]
        assert [number for number, each in enumerate(planned) if each is not None] == list(
            range(0, hosts * cards, cards)
        )


@pytest.mark.parametrize("form", ["servers", "pods"])
def test_a_rank_table_alone(table: Callable[..., dict[str, str]], tmp_path: Path, form: str) -> None:
    one = table(form, [4])
    for variables in (one, {"RANK_TABLE_FILE": str(tmp_path)}, {"RANK_TABLE_FILE_V_1_0": one["RANK_TABLE_FILE"]}):
        options = options_of(variables)
        assert (options.standalone, options.nproc_per_node) == (True, "4")
    started = [plan_start(["--data_url=/in"], one | {"RANK_ID": str(rank)}) for rank in range(4)]
    assert [each is not None for each in started] == [True, False, False, False]
    two = table(form, [4, 2])
    place = {"servers": {"MA_CURRENT_HOST_IP": "10.0.0.2"}, "pods": {"MA_CURRENT_INSTANCE_NAME": "job-a-1"}}[form]
    for which in (place, {"RANK_ID": "4"}, {"VC_TASK_INDEX": "1"}, {**place, "RANK_ID": "4", "RANK_SIZE": "6"}):
        options = options_of(two | which)
        assert (options.nnodes, options.nproc_per_node, options.local_addr) == ("2", "2", "10.0.0.2")
        assert (options.rdzv_endpoint, options.rdzv_conf) == ("10.0.0.1:29400", "is_host=false")
    first = options_of(two | {"RANK_ID": "0", "VC_TASK_INDEX": "0"})
    assert (first.nproc_per_node, first.local_addr, first.rdzv_conf) == ("4", "10.0.0.1", "is_host=true")
    assert plan_start(["--data_url=/in"], two | {"RANK_ID": "5"}) is None
    named = options_of(two | place | {"VC_WORKER_HOSTS": ",".join(HOSTS[:2])})  # what ModelArts' own network knows
    assert (named.local_addr, named.rdzv_endpoint) == (HOSTS[1], f"{HOSTS[0]}:29400")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "there are 2 machines, and nothing says which this is"),
        ({"MA_NUM_HOSTS": "1"}, "number of machines is not certain: 1 by MA_NUM_HOSTS, 2 by the rank table"),
        ({"RANK_SIZE": "8", "RANK_ID": "0"}, "number of processes is not certain: 8 by RANK_SIZE, 6 by the rank table"),
        ({"RANK_ID": "0", "MA_NUM_GPUS": "2"}, "this machine is not certain: 2 by MA_NUM_GPUS, 4 by the rank table"),
        (
            {"RANK_ID": "0", "VC_TASK_INDEX": "1"},
            "which machine this is is not certain: 1 by VC_TASK_INDEX, 0 by RANK_ID",
        ),
        ({"RANK_ID": "0", "MA_CURRENT_HOST_IP": "10.0.0.2"}, "0 by RANK_ID, 1 by MA_CURRENT_HOST_IP"),
        ({"RANK_ID": "6"}, "RANK_ID is 6, and RANK_SIZE 6"),
        (
            {"VC_TASK_INDEX": "0", "ASCEND_DEVICE_ID": "3"},
            "ASCEND_DEVICE_ID is 3 and there is a rank table, but no RANK_ID",
        ),
        ({"VC_TASK_INDEX": "2"}, "this is machine 2 by VC_TASK_INDEX, and there are 2"),
    ],
)
def test_a_rank_table_that_others_contradict(
    table: Callable[..., dict[str, str]], changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        plan_start(["--data_url=/in"], table("servers", [4, 2]) | changes)


def test_a_rank_table_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for content, reason in (
        (None, f"the rank table {path} cannot be read: No such file"),
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"status": "completed"}', "is no rank table that is known here: KeyError"),
        (
            json.dumps(table_of("pods", [2])).replace("job-a-0", "job-a"),
            "is no rank table that is known here: ValueError",
        ),
        (
            json.dumps(table_of("servers", [2])).replace('"rank_id": "1"', '"rank_id": "2"'),
            r"are not 0, 1, 2 .*: \[0, 2\]",
        ),
        (json.dumps(table_of("servers", [])), r"are not 0, 1, 2 .*: \[\]"),
        (json.dumps(table_of("pods", [2], "initializing")), "is 'initializing' and not completed after 0.1 s"),
    ):
        if content is not None:
            path.write_text(content)
        with pytest.raises(UsageError, match=reason):
            read_rank_table(path, 0.1)


def test_a_rank_table_that_is_not_complete_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table_of("pods", [1, 2], "initializing")))
    (tmp_path / "complete").write_text(json.dumps(table_of("pods", [1, 2])))
    timer = threading.Timer(0.1, (tmp_path / "complete").replace, [path])
    timer.start()
    assert [machine.ranks for machine in read_rank_table(path, 5)] == [(0,), (1, 2)]
    timer.join()
