"""A run that outlives its window: the program killed with signal 9 while a child trains, started again, and told to stop the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from tests.end_to_end.conftest import SCREEN
from tests.end_to_end.person import Person, Program, QtHands

STARTING_SECONDS = 120.0


def opened(home: Path, arguments: list[str]) -> tuple[Program, Person]:
    screen = home.parent / "screen.json"
    screen.write_text(json.dumps(SCREEN), encoding="utf-8")
    program = Program(home, arguments, QT_QPA_PLATFORM=f"offscreen:configfile={screen}", HF_HUB_OFFLINE="1")
    return program, Person(program, QtHands(program), patience=2.0)


def running(me: Person) -> int:
    """Wait until the run bar shows a run that trains in a process of its own; give that process."""
    me.wait_for_text("run_state", "Running", STARTING_SECONDS)
    return int(me.wait_for_text("run_place", "process ").rpartition(" ")[2])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_run_in_a_process_outlives_a_killed_window_and_is_found_and_stopped_by_the_next(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    chat_rows: Path,
    request: pytest.FixtureRequest,
) -> None:
    home = tmp_path / "home"
    (home / "settings").mkdir(parents=True)
    (home / "settings" / "window.json").write_text(json.dumps({"host": "process"}), encoding="utf-8")
    config = RunConfig().replace(
        {
            "name": "lasting",
            "model.name_or_path": str(tiny_model("llama")),
            "data.train": (str(chat_rows),),
            "data.max_length": 128,
            "adapter.target_modules": ("q_proj",),
            "training.max_steps": 100_000,
            "training.sample_rows": 0,
            "training.device": "cpu",
        }
    )
    write_config(tmp_path / "lasting.yaml", config)

    program, me = opened(home, [str(tmp_path / "lasting.yaml")])
    try:
        me.click("start_button", STARTING_SECONDS)
        pid = running(me)
    finally:
        program.end()  # with signal 9
    child = psutil.Process(pid)
    request.addfinalizer(lambda: child.is_running() and child.kill())
    assert child.is_running()
    run = RunFolder(RunStore(home / "runs").list()[0].path)
    assert run.state == "running"

    program, me = opened(home, [])
    try:
        assert running(me) == pid
        assert me.text("run_name") == run.name
        me.click("stop_button")
        me.wait_for_text("run_state", "Stopped", STARTING_SECONDS)
    finally:
        program.end()
    assert run.state == "stopped"
    assert run.checkpoints
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
