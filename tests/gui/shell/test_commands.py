"""Every action of the window has one command, which is enabled where it can be done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from lora_studio.core.config import RunConfig
from lora_studio.core.run_store import RunStore
from lora_studio.gui.compose import Services, build
from lora_studio.gui.platform.window_state import WindowState
from lora_studio.gui.shell.actions import ACTIONS, Actions, Command
from lora_studio.gui.shell.help import attach_help
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.theme import Theme
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Answers

SOMETIMES = {"undo", "redo", "reset_to_run", "pause", "stop", "checkpoint_now", "sample_now", "export", "merge"}
ALWAYS = frozenset(spec.id for spec in ACTIONS) - SOMETIMES


@pytest.fixture
def services(qtbot: QtBot, dark: Theme) -> Iterator[Services]:
    window = MainWindow(WindowState())
    qtbot.addWidget(window)
    made = build(window, Answers())
    attach_help(window, made.notifications)
    made.pages.make()
    yield made
    window.guard_closing(lambda: True, made.close)
    made.close()


def enabled(services: Services) -> set[str]:
    return {spec.id for spec in ACTIONS if services.window.actions_[spec.id].isEnabled()}


def test_every_action_has_a_command(services: Services) -> None:
    assert {spec.id for spec in services.window.actions_.specs} == services.window.actions_.registered
    assert {spec.id for spec in ACTIONS} <= services.window.actions_.registered


def test_an_action_takes_one_command_alone(qtbot: QtBot, dark: Theme) -> None:
    window = MainWindow(WindowState())
    qtbot.addWidget(window)
    actions: Actions = window.actions_
    actions.register({"save": Command(lambda: None)})
    with pytest.raises(ValueError, match="save"):
        actions.register({"save": Command(lambda: None)})
    with pytest.raises(KeyError):
        actions.register({"no such action": Command(lambda: None)})


def test_without_a_run_and_an_edit_nothing_can_be_steered_or_taken_back(services: Services) -> None:
    assert enabled(services) == ALWAYS


def test_an_edit_can_be_taken_back_and_made_again(services: Services) -> None:
    services.workspace.draft.edit({"adapter.r": 4}, "Rank")
    assert enabled(services) == ALWAYS | {"undo"}
    services.window.actions_["undo"].trigger()
    assert services.workspace.draft.config.adapter.r == RunConfig().adapter.r
    assert enabled(services) == ALWAYS | {"redo"}
    services.window.actions_["redo"].trigger()
    assert services.workspace.draft.config.adapter.r == 4


@pytest.mark.parametrize("sample_rows", [0, 2])
def test_a_run_under_way_can_be_steered(services: Services, qtbot: QtBot, tmp_path: Path, sample_rows: int) -> None:
    folder = RunStore(tmp_path / "runs").create(RunConfig().replace({"training.max_steps": 50_000, "training.sample_rows": sample_rows}))
    job = services.jobs.start(JobSpec("tests.gui.tasks:train", {"run_dir": str(folder.path)}, device=True, run_dir=str(folder.path)))
    services.run_view.attach(job, folder.path)
    qtbot.waitUntil(lambda: services.run_view.state == "running", timeout=20_000)
    steered = {"pause", "stop", "checkpoint_now", "reset_to_run"} | ({"sample_now"} if sample_rows else set())
    assert enabled(services) - {"export", "merge"} == ALWAYS | steered
    services.window.actions_["stop"].trigger()
    qtbot.waitUntil(lambda: not services.run_view.is_live, timeout=20_000)
    assert enabled(services) - {"export", "merge"} == ALWAYS | {"reset_to_run"}


def test_where_runs_live_is_a_choice_of_two(services: Services) -> None:
    actions = services.window.actions_
    for host, other in (("process", "thread"), ("thread", "process"), ("thread", "process")):
        actions[f"host_{host}"].trigger()
        assert services.starter.host == host
        assert (actions[f"host_{host}"].isChecked(), actions[f"host_{other}"].isChecked()) == (True, False)
