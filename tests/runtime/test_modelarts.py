"""ModelArts' variables and arguments, as its documentation shows them, against what `torchrun` and `train` take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from inceptionv4.errors import UsageError
from inceptionv4.runtime.modelarts import Start, plan_start

HOSTS = [f"modelarts-job-a0978141-1712-4f9b-8a83-000000000000-worker-{i}.job.svc" for i in range(4)]
MANY = {
    "MA_NUM_HOSTS": "4",
    "MA_NUM_GPUS": "8",
    "VC_TASK_INDEX": "2",
    "VC_WORKER_NUM": "4",
    "VC_WORKER_HOSTS": ",".join(HOSTS),
    "MA_VJ_NAME": "modelarts-job-a0978141",
}


def start(arguments: list[str], variables: dict[str, str]) -> Start:
    planned = plan_start(arguments, variables)
    assert planned is not None
    return planned


def test_each_machine_of_many_meets_the_others_at_the_first() -> None:
    for index, host in enumerate(HOSTS):
        planned = start(["--data_url=/in", "--train_url=/out"], MANY | {"VC_TASK_INDEX": str(index)})
        assert planned.module == "torch.distributed.run"
        options = get_args_parser().parse_args(planned.arguments)
        assert (options.nnodes, options.nproc_per_node, options.max_restarts) == ("4", "8", 3)
        assert (options.rdzv_backend, options.rdzv_endpoint) == ("c10d", f"{HOSTS[0]}:29400")
        assert (options.rdzv_id, options.local_addr) == ("modelarts-job-a0978141", host)
        assert options.rdzv_conf == f"is_host={str(index == 0).lower()}"
        assert options.module
        assert options.training_script == "inceptionv4"
        assert options.training_script_args == ["train", "--data=/in", "--output=/out", "--resume=auto"]


@pytest.mark.parametrize(("cards", "processes"), [("8", "8"), ("1", "1"), ("0", "1"), ("", "1")])
def test_one_machine_needs_no_meeting(cards: str, processes: str) -> None:
    planned = start(["--data_url=/in"], {"MA_NUM_HOSTS": "1", "MA_NUM_GPUS": cards})
    options = get_args_parser().parse_args(planned.arguments)
    assert options.standalone
    assert options.nproc_per_node == processes


def test_inputs_come_as_arguments_or_as_variables_and_settings_pass_through() -> None:
    arguments = [
        *("--data_url", "obs://bucket/shards", "--recipe=imagenet", "--schedule.epochs=100"),
        *("--checkpoint_url=obs://bucket/model.safetensors", "--init_method=tcp://host:1", "--rank=0"),
        *("--world_size=4", "--num_gpus=8", "--enable_modelarts=True", "--need_modelarts_dataset_unzip=True"),
    ]
    expected = [
        *("train", "--data=obs://bucket/shards", "--output=obs://bucket/runs"),
        *("--model.weights=obs://bucket/model.safetensors", "--resume=auto"),
        *("--recipe=imagenet", "--schedule.epochs=100"),
    ]
    planned = start(arguments, {"train_url": "obs://bucket/runs", "data_url": "overridden"})
    assert planned.arguments[planned.arguments.index("inceptionv4") + 1 :] == expected


def test_a_flag_without_a_value_takes_no_other_s() -> None:
    arguments = ["--data_url=/in", "--need_modelarts_dataset_unzip", "--recipe=imagenet", "--enable_modelarts"]
    planned = start([*arguments, "--num_gpus", "8", "--schedule.epochs=3", "--rank"], {})
    settings = planned.arguments[planned.arguments.index("train") :]
    assert settings == ["train", "--data=/in", "--resume=auto", "--recipe=imagenet", "--schedule.epochs=3"]


def test_an_archive_is_read_where_the_original_unzipped_it(tmp_path: Path) -> None:
    def data(*arguments: str) -> str:
        return start([f"--data_url={tmp_path}", *arguments], {}).arguments[6].removeprefix("--data=")

    (tmp_path / "ImageNet_Original.zip").touch()
    (tmp_path / ".hidden").touch()
    assert data() == f"{tmp_path}/ImageNet_Original.zip"
    (tmp_path / "readme.txt").touch()
    assert data() == str(tmp_path)
    assert data("--modelarts_dataset_unzip_name=ImageNet_Original") == f"{tmp_path}/ImageNet_Original.zip"
    (tmp_path / "images.tar").touch()
    assert data("--modelarts_dataset_unzip_name", "images.tar") == f"{tmp_path}/images.tar"
    remote = start(["--data_url=obs://bucket/in/", "--modelarts_dataset_unzip_name=all"], {}).arguments
    assert "--data=obs://bucket/in/all.zip" in remote


def test_where_a_process_is_started_for_each_card_one_starts_them_all() -> None:
    table = {"RANK_TABLE_FILE": "/user/config/jobstart_hccl.json", "RANK_SIZE": "8", "MA_NUM_GPUS": "8"}
    assert plan_start(["--data_url=/in"], table | {"RANK_ID": "3", "ASCEND_DEVICE_ID": "3"}) is None
    planned = start(["--data_url=/in"], table | {"RANK_ID": "0", "ASCEND_DEVICE_ID": "0"})
    assert planned.module == "torch.distributed.run"
    assert {"RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "ASCEND_DEVICE_ID"} <= set(planned.unset)


def test_where_modelarts_calls_torchrun_itself_nothing_is_started_twice() -> None:
    planned = start(["--data_url=/in"], MANY | {"MA_RUN_METHOD": "torchrun", "LOCAL_RANK": "3", "RANK": "19"})
    assert (planned.module, planned.arguments) == ("inceptionv4", ["train", "--data=/in", "--resume=auto"])


def test_what_does_not_fit_together_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data_url: add an input of this name"):
        plan_start([], MANY)
    for forgotten in (["--data_url", "--recipe=imagenet"], ["--data_url=/in", "--train_url="]):
        with pytest.raises(UsageError, match="_url has no value; give it as --"):
            plan_start(forgotten, MANY)
    with pytest.raises(UsageError, match="is empty; does the job's input"):
        plan_start([f"--data_url={tmp_path}"], MANY)
    with pytest.raises(UsageError, match="number of machines is not certain: 4 by MA_NUM_HOSTS, 1 by VC_WORKER_HOSTS"):
        plan_start(["--data_url=/in"], MANY | {"VC_WORKER_HOSTS": HOSTS[0]})
    with pytest.raises(UsageError, match="this is machine 4 by VC_TASK_INDEX, and there are 4"):
        plan_start(["--data_url=/in"], MANY | {"VC_TASK_INDEX": "4"})
    with pytest.raises(UsageError, match="MA_NUM_GPUS must be a number, got 'eight'"):
        plan_start(["--data_url=/in"], MANY | {"MA_NUM_GPUS": "eight"})


@pytest.mark.parametrize(("unpacked", "named"), [("ImageNet_Original", "ImageNet_Original"), ("images", "images.tar")])
def test_an_unpacked_archive_is_read_without_it(tmp_path: Path, unpacked: str, named: str) -> None:
    """The original looks for the folder first, and goes on without either."""

    def data() -> str:
        planned = start([f"--data_url={tmp_path}", f"--modelarts_dataset_unzip_name={named}"], {})
        return next(argument for argument in planned.arguments if argument.startswith("--data=")).removeprefix(
            "--data="
        )

    (tmp_path / "train").mkdir()
    assert data() == str(tmp_path)
    (tmp_path / unpacked).mkdir()
    assert data() == f"{tmp_path}/{unpacked}"
    (tmp_path / "other.zip").touch()
    assert data() == f"{tmp_path}/{unpacked}"
    (tmp_path / unpacked).rmdir()
    with pytest.raises(
        UsageError, match=rf"holds neither {unpacked}\.\w+ nor a folder {unpacked}, as .* but other.zip"
    ):
        data()
    archive = tmp_path / (named if "." in named else f"{named}.zip")
    archive.touch()
    (tmp_path / unpacked).mkdir()
    assert data() == str(archive)  # it is whole; what a broken unpacking left may not be


@pytest.mark.slow
def test_the_boot_file_trains(textures: Path, tmp_path: Path) -> None:
    """All of it once: a job of one machine without accelerators, by the very boot file; then it is started again."""
    boot = Path(__file__).parents[2] / "deploy/start_modelarts.py"
    arguments = [
        *(f"--data_url={textures}", f"--train_url={tmp_path}", "--image.size=75", "--image.crop=1", "--data.workers=0"),
        *("--model.width=0.1", "--training.batch_size=60", "--schedule.epochs=1"),
        "--schedule.warmup_epochs=0",
    ]
    variables = os.environ | {"MA_NUM_HOSTS": "1", "MA_NUM_GPUS": "0", "OMP_NUM_THREADS": "1"}
    for said in ("epoch 1/1", "going on after step 3"):
        job = [sys.executable, str(boot), *arguments]
        ended = subprocess.run(job, capture_output=True, text=True, timeout=100, env=variables)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"{tmp_path}/finetune/1\n"
        assert said in ended.stderr
