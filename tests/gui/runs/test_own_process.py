"""Runs in processes of their own, as the window has them: real children, closed windows, real kills."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from lora_studio.core.errors import StudioError
from lora_studio.core.runs import RunFolder
from lora_studio.gui.runs import run_control
from lora_studio.gui.runs_page.page import RunsPage
from lora_studio.gui.train_page.run_bar import RunBar
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Desk, ended_runs

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
LONG = 50_000


@pytest.fixture(autouse=True)
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@pytest.fixture(autouse=True)
def no_child_left(quick_training: None) -> Iterator[None]:
    """End the runs that outlive a test's windows, and their processes."""
    with ended_runs():
        yield


@pytest.fixture
def process_desk(desk: Desk) -> Desk:
    desk.starter.set_host("process")
    desk.workspace.draft.edit({"training.max_steps": LONG}, "steps")
    return desk


def test_a_run_of_several_processes_is_never_in_the_windows_own(desk: Desk) -> None:
    assert run_control.host_of(desk.workspace.draft.config, "thread") == "thread"
    desk.workspace.draft.edit({"training.num_processes": 2}, "processes")
    assert run_control.host_of(desk.workspace.draft.config, "thread") == "process"


@pytest.fixture
def next_window(qtbot: QtBot) -> Iterator[Callable[[], Desk]]:
    """Make windows that are opened after the first one."""
    made: list[Desk] = []

    def make() -> Desk:
        made.append(Desk.make(qtbot))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


def training(desk: Desk, step: int = 1) -> None:
    desk.until(lambda: desk.run_view.state == "running" and desk.run_view.history.step >= step)


def stopped(desk: Desk) -> None:
    desk.starter.stop()
    desk.until(lambda: not desk.run_view.is_live)


def test_a_run_in_a_process_is_seen_live_and_pauses_goes_on_and_stops(process_desk: Desk) -> None:
    desk = process_desk
    path = desk.starter.start_run()
    training(desk, 3)
    assert desk.run_view.in_own_process
    assert desk.run_view.pid not in (None, os.getpid())
    desk.starter.pause()
    desk.until(lambda: desk.run_view.state == "paused")
    held = desk.run_view.history.step
    desk.starter.go_on()
    training(desk, held + 1)
    stopped(desk)
    assert RunFolder(path).state == desk.run_view.state == "stopped"
    assert RunFolder(path).checkpoints


def test_a_second_stop_abandons_the_step_of_a_run_in_a_process(process_desk: Desk) -> None:
    desk = process_desk
    path = desk.starter.start_run()
    training(desk, 6)
    desk.starter.stop()
    desk.starter.stop()
    desk.until(lambda: not desk.run_view.is_live)
    assert RunFolder(path).state == "stopped"


def test_the_run_bar_says_that_a_run_lives_in_a_process(process_desk: Desk) -> None:
    desk = process_desk
    bar = RunBar(desk.workspace, desk.run_view, desk.starter)
    desk.qtbot.addWidget(bar)
    bar.resize(900, 50)
    desk.starter.start_run()
    training(desk)
    place = bar.findChild(QLabel, "run_place")
    assert not place.isHidden()
    assert place.text() == f"process {desk.run_view.pid}"
    stopped(desk)
    assert place.isHidden()


def test_what_runs_in_the_window_and_what_runs_in_processes_wait_for_each_other(process_desk: Desk) -> None:
    desk = process_desk
    desk.starter.start_run()
    training(desk)
    merge = desk.jobs.start(JobSpec("tests.gui.tasks:wait", title="Merge", device=True))
    assert desk.starter.start_state.text == "Add to queue"
    second = desk.starter.start_run()
    assert [entry.waits_for for entry in desk.queue.entries] == ["support-triage", "Merge"]
    assert merge.state == "queued"
    stopped(desk)
    desk.until(lambda: merge.state == "running")
    assert RunFolder(second).state == "new"
    merge.control.stop()
    desk.until(lambda: RunFolder(second).state == "running")
    desk.run_view.open(second)
    training(desk)
    stopped(desk)


@posix
def test_a_killed_child_reads_as_interrupted_and_can_be_resumed(process_desk: Desk) -> None:
    desk = process_desk
    bar = RunBar(desk.workspace, desk.run_view, desk.starter)
    desk.qtbot.addWidget(bar)
    path = desk.starter.start_run()
    training(desk, 6)
    os.kill(desk.run_view.pid or 0, signal.SIGKILL)
    desk.until(lambda: desk.run_view.state == "interrupted")
    assert not bar.findChild(QPushButton, "resume_button").isHidden()
    desk.starter.resume_run(path)
    training(desk)
    assert desk.run_view.history.loss.x[0] == 1
    stopped(desk)


@posix
def test_a_followed_run_that_is_killed_is_noticed(process_desk: Desk, next_window: Callable[[], Desk]) -> None:
    process_desk.starter.start_run()
    training(process_desk)
    process_desk.jobs.close()
    later = next_window()
    later.run_view.open(later.starter.follow_living()[0])
    training(later)
    os.kill(later.run_view.pid or 0, signal.SIGKILL)
    later.until(lambda: later.run_view.state == "interrupted")
    assert later.run_view.can_resume


def test_a_run_outlives_its_window_and_the_next_one_finds_it(process_desk: Desk, next_window: Callable[[], Desk]) -> None:
    path = process_desk.starter.start_run()
    training(process_desk, 3)
    pid = process_desk.run_view.pid
    process_desk.jobs.close()
    later = next_window()
    assert later.starter.follow_living() == [path]
    later.run_view.open(path)
    seen = later.run_view.history.step
    training(later, seen + 1)
    assert later.run_view.pid == pid
    assert later.starter.start_state.text == "Add to queue"
    assert list(later.run_view.history.loss.x) == list(range(1, later.run_view.history.step + 1))
    later.starter.pause()
    later.until(lambda: later.run_view.state == "paused")
    later.starter.go_on()
    training(later)
    stopped(later)
    assert RunFolder(path).state == "stopped"


def test_a_run_that_was_paused_when_its_window_closed_can_be_continued(process_desk: Desk, next_window: Callable[[], Desk]) -> None:
    process_desk.starter.start_run()
    training(process_desk)
    process_desk.starter.pause()
    process_desk.until(lambda: process_desk.run_view.state == "paused")
    process_desk.jobs.close()
    later = next_window()
    later.run_view.open(later.starter.follow_living()[0])
    assert later.run_view.state == "paused"
    assert later.run_view.is_pause_asked
    later.starter.go_on()
    training(later)
    stopped(later)


def test_a_run_in_the_queue_waits_for_one_that_was_found_alive(process_desk: Desk, next_window: Callable[[], Desk]) -> None:
    process_desk.starter.start_run()
    training(process_desk)
    process_desk.jobs.close()
    later = next_window()
    later.run_view.open(later.starter.follow_living()[0])
    later.workspace.draft.edit({"training.max_steps": 3}, "steps")
    second = later.starter.start_run()
    assert [entry.waits_for for entry in later.queue.entries] == ["support-triage"]
    stopped(later)
    later.until(lambda: RunFolder(second).state == "finished")


def test_a_run_another_program_trains_is_followed_when_it_is_opened(process_desk: Desk, next_window: Callable[[], Desk]) -> None:
    path = process_desk.starter.start_run()
    training(process_desk)
    other = next_window()
    other.run_view.open(path)
    training(other)
    stopped(other)
    process_desk.until(lambda: process_desk.run_view.state == "stopped")


def test_a_run_that_is_alive_is_not_started_twice(process_desk: Desk, next_window: Callable[[], Desk]) -> None:
    first = process_desk.starter.start_run()
    training(process_desk)
    second = process_desk.starter.start_run()
    with pytest.raises(StudioError, match="under way already"):
        process_desk.starter.resume_run(first)
    with pytest.raises(StudioError, match="in the queue already"):
        process_desk.starter.resume_run(second)
    with pytest.raises(StudioError, match="Another program trains"):
        next_window().starter.resume_run(first)
    process_desk.queue.remove(process_desk.jobs.queue[0])
    stopped(process_desk)
    assert [event.attempt for event in RunFolder(first).events()][-1] == 1


def test_a_living_run_is_listed_as_running_and_offers_neither_resume_nor_delete(
    process_desk: Desk, next_window: Callable[[], Desk]
) -> None:
    process_desk.starter.start_run()
    training(process_desk)
    other = next_window()
    page = RunsPage(other.workspace, other.jobs, other.run_view, other.starter, other.queue, other.answers)
    other.shown(page)
    assert page.table.model().index(0, 1).data() == "running"
    assert not page.findChild(QPushButton, "run_resume_button").isEnabled()
    assert not page.findChild(QPushButton, "run_delete_button").isEnabled()
    stopped(process_desk)
