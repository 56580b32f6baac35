"""The program itself, in a process of its own: how it starts, is stopped, is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lora_studio.core.runs import RunFolder
from tests.cli.conftest import Command, WriteConfig

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


def program(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lora_studio", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.fixture
def no_child_stays() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))  # such as multiprocessing's resource tracker
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


def wait_for_step(train: subprocess.Popen[str], number: int) -> None:
    assert train.stdout is not None
    for line in train.stdout:
        event = json.loads(line)
        if event["event"] == "step" and event["step"] >= number:
            return
    raise AssertionError(f"it ended before step {number}: {train.stderr.read() if train.stderr else ''}")


@posix
@pytest.mark.usefixtures("no_child_stays")
@pytest.mark.parametrize("host", ["thread", "process"])
def test_ctrl_c_stops_with_a_checkpoint_and_the_run_can_be_resumed(
    command: Command, write_config: WriteConfig, tmp_path: Path, host: str
) -> None:
    out = tmp_path / "out"
    config = write_config(training__max_steps=120, training__eval_steps=1000, training__save_steps=1000)
    train = program("train", config, "--output", out, "--events", "-", "--host", host)
    wait_for_step(train, 3)
    train.send_signal(signal.SIGINT)
    rest, told = train.communicate(timeout=120)
    assert train.returncode == 130, told
    assert "the work is saved" in told
    assert "Traceback" not in told
    assert json.loads(rest.splitlines()[-1])["event"] == "run_stopped"
    assert RunFolder(out).state == "stopped"
    assert len(RunFolder(out).checkpoints) == 1
    stopped_at = int(RunFolder(out).checkpoints[0].name.removeprefix("step-"))
    resumed = command("train", "--resume", out, "--events", "-")
    assert resumed.status == 0, resumed.err
    events = [json.loads(line) for line in resumed.out.splitlines()]
    assert [event["from_step"] for event in events if event["event"] == "run_resumed"] == [stopped_at]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(stopped_at + 1, 121))


@posix
@pytest.mark.usefixtures("no_child_stays")
def test_a_killed_run_reads_as_interrupted_and_goes_on_from_its_checkpoint(
    command: Command, write_config: WriteConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = write_config(training__max_steps=40, training__eval_steps=1000, training__save_steps=5)
    train = program("train", config, "--output", out, "--events", "-")
    wait_for_step(train, 12)
    train.kill()
    train.communicate(timeout=60)
    assert RunFolder(out).state == "interrupted"
    resumed = command("train", "--resume", out, "--events", "-")
    assert resumed.status == 0, resumed.err
    events = [json.loads(line) for line in resumed.out.splitlines()]
    (start,) = [event["from_step"] for event in events if event["event"] == "run_resumed"]
    assert start >= 10
    assert start % 5 == 0
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(start + 1, 41))
    assert RunFolder(out).state == "finished"


@posix
@pytest.mark.usefixtures("no_child_stays")
def test_a_second_ctrl_c_abandons_the_run(write_config: WriteConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train = program("train", write_config(training__max_steps=100_000), "--output", out, "--events", "-")
    wait_for_step(train, 2)
    train.send_signal(signal.SIGINT)
    train.send_signal(signal.SIGINT)
    _rest, told = train.communicate(timeout=120)
    assert train.returncode == 130, told
    assert RunFolder(out).state == "stopped"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["runs"], ["train", "--help"], ["plan", "--help"], ["export", "--help"]])
def test_help_and_runs_answer_without_the_engine_or_the_window(arguments: list[str]) -> None:
    script = (
        "import sys; from lora_studio.cli.main import main\n"
        "status = main(sys.argv[1:], lambda _arguments: 1)\n"
        "heavy = {'torch', 'transformers', 'peft', 'PySide6', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr); sys.exit(status)"
    )
    ended = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stdout
    assert ended.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_error_with_a_traceback() -> None:
    listing = program("runs", "--json")
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.stderr is not None
    assert "Traceback" not in listing.stderr.read()
    listing.stderr.close()
    listing.wait(60)


def test_standard_output_holds_the_document_alone_in_a_fresh_program(write_config: WriteConfig) -> None:
    plan = program("plan", write_config(), "--json")
    out, told = plan.communicate(timeout=120)
    assert plan.returncode == 0, told
    assert json.loads(out)["trainable_parameters"] == 896
    assert "Traceback" not in told
