"""Runs of several processes from the command line: it starts them itself, or a launcher does."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lora_studio.core.config_files import read_config
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from tests.cli.conftest import Command, WriteConfig
from tests.cli.test_bad_input import no_run_is_left, refused
from tests.cli.test_program import no_child_stays, posix, program, wait_for_step

__all__ = ["no_child_stays"]


@posix
@pytest.mark.usefixtures("no_child_stays")
def test_the_command_starts_the_other_process_and_a_stop_ends_both_with_the_work_saved(
    command: Command,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    quiet = {"training__eval_steps": 1000, "training__save_steps": 1000, "training__sample_rows": 0}
    train = program("train", write_config(training__max_steps=150, training__num_processes=2, **quiet), "--output", out, "--events", "-")
    wait_for_step(train, 3)
    (other,) = psutil.Process(train.pid).children()
    train.send_signal(signal.SIGTERM)
    rest, told = train.communicate(timeout=120)
    assert train.returncode == 130, told
    assert "Traceback" not in told
    assert not other.is_running()
    assert json.loads(rest.splitlines()[-1])["event"] == "run_stopped"
    run = RunFolder(out)
    assert len(run.checkpoints) == 1
    assert json.loads((out / "environment.json").read_text())["processes"]["count"] == 2

    resumed = command("train", "--resume", out, "--num-processes", 1, "--events", "-")
    assert resumed.status == 0, resumed.err
    events = [json.loads(line) for line in resumed.out.splitlines()]
    assert "processes_changed" in [event.get("code") for event in events]
    assert [event["step"] for event in events if event["event"] == "step"][-1] == 150


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_under_torchrun_the_first_process_alone_speaks(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(training__max_steps=3, training__num_processes=2, training__sample_rows=0)
    # An address and not a name: --standalone asks for localhost, which a bare container may not know.
    meeting = ["--nnodes", "1", "--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    launcher = [sys.executable, "-m", "torch.distributed.run", *meeting, "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*launcher, "-m", "lora_studio", "train", config, "--output", tmp_path / "out", "--events", "-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3]
    assert ended.stderr.count("Run folder: ") == 1
    assert RunFolder(tmp_path / "out").state == "finished"


@posix
@pytest.mark.usefixtures("no_child_stays")
def test_what_is_wrong_before_the_processes_meet_ends_them_all(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(training__num_processes=2, training__max_steps=1)
    out = RunStore(tmp_path / "runs").create(read_config(config), tmp_path / "out")
    (out.path / "run.yaml").write_text((out.path / "run.yaml").read_text().replace("device: cpu", "device: mps"))
    refused(command("train", "--resume", out.path), "no mps device", "training.device")


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_of_a_run_for_one_are_refused_by_the_first_alone(
    command: Command,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lora_studio.cli.commands.train._FIRST_SPEAKS_S", 0)
    outcome = command("train", write_config())
    assert no_run_is_left()
    if rank:
        assert (outcome.status, outcome.out, outcome.err) == (2, "", "")
    else:
        refused(outcome, "2 processes were started for a run of 1", "training.num_processes", "lora-studio train RUN.yaml")


def test_deepspeed_is_refused_with_the_reason(command: Command, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    refused(command("train", write_config()), "DeepSpeed", "torchrun")
    assert no_run_is_left()
