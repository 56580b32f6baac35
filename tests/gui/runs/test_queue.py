"""The queue: frozen, listed, movable, removable, and kept when the window closes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from lora_studio.core.runs import RunFolder
from lora_studio.gui.runs import run_control
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs_page.page import RunsPage
from lora_studio.gui.runs_page.queue_card import QueueCard
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Desk


@pytest.fixture(autouse=True)
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")


@pytest.fixture
def busy(desk: Desk) -> Desk:
    """A desk with a run under way and three that wait, of ranks 2, 3 and 4."""
    desk.workspace.draft.edit({"training.max_steps": 50_000, "adapter.r": 1, "name": "first"}, "first")
    desk.starter.start_run()
    desk.until(lambda: desk.run_view.state == "running")
    for rank, name in ((2, "second"), (3, "third"), (4, "fourth")):
        desk.workspace.draft.edit({"training.max_steps": 3, "adapter.r": rank, "name": name}, name)
        desk.starter.start_run()
    return desk


@pytest.fixture
def page(busy: Desk) -> RunsPage:
    made = RunsPage(busy.workspace, busy.jobs, busy.run_view, busy.starter, busy.queue, busy.answers)
    busy.shown(made)
    return made


def rows(card: QueueCard) -> list[list[str]]:
    model = card.table.model()
    return [[model.index(row, column).data() for column in range(model.columnCount())] for row in range(model.rowCount())]


def names(queue: RunQueue) -> list[str]:
    return [entry.job.spec.title for entry in queue.entries]


def job(queue: RunQueue, name: str) -> Job:
    return next(entry.job for entry in queue.entries if entry.job.spec.title == name)


def press(page: RunsPage, name: str) -> None:
    page.findChild(QPushButton, f"queue_{name}_button").click()


def test_each_run_that_waits_is_listed_with_its_own_settings_and_what_it_waits_for(page: RunsPage) -> None:
    base = "SmolLM2-135M-Instruct"
    listed = rows(page.queue_card)
    assert [row[0] for row in listed] == ["second", "third", "fourth"]
    assert [row[1].split(" · ")[0] for row in listed] == ["r 2", "r 3", "r 4"]
    assert {row[2] for row in listed} <= {base, "starter"}
    assert [row[3] for row in listed] == ["this window"] * 3
    assert [row[4] for row in listed] == ["first", "second", "third"]


def test_a_queued_run_keeps_the_draft_it_was_made_of(busy: Desk) -> None:
    busy.workspace.draft.edit({"adapter.r": 99}, "rank")
    assert [entry.config.adapter.r for entry in busy.queue.entries if entry.config] == [2, 3, 4]


def test_the_card_is_there_only_while_something_waits(desk: Desk) -> None:
    page = RunsPage(desk.workspace, desk.jobs, desk.run_view, desk.starter, desk.queue, desk.answers)
    desk.shown(page)
    assert not page.queue_card.isVisible()
    first, second = (desk.jobs.start(JobSpec("tests.gui.tasks:wait", title=title, device=True)) for title in ("a", "b"))
    assert page.queue_card.isVisible()
    desk.until(lambda: first.state == "running")
    second.control.stop()
    desk.until(lambda: not page.queue_card.isVisible())


def test_a_run_is_moved_with_the_buttons_and_trains_in_its_new_place(busy: Desk, page: RunsPage) -> None:
    page.queue_card.table.selectRow(2)
    press(page, "up")
    press(page, "up")
    assert names(busy.queue) == ["fourth", "second", "third"]
    assert page.queue_card.selected is job(busy.queue, "fourth")
    assert not page.findChild(QPushButton, "queue_up_button").isEnabled()
    press(page, "down")
    assert names(busy.queue) == ["second", "fourth", "third"]
    began: list[str] = []
    busy.queue.began.connect(lambda _path, name: began.append(name))
    busy.starter.stop()
    busy.until(lambda: not busy.jobs.jobs)
    assert began == ["second", "fourth", "third"]


def test_a_run_is_moved_and_removed_with_keys(busy: Desk, page: RunsPage) -> None:
    table = page.queue_card.table
    page.focus_queue()
    table.selectRow(0)
    busy.qtbot.keyClick(table, Qt.Key.Key_Down, Qt.KeyboardModifier.AltModifier)
    assert names(busy.queue) == ["third", "second", "fourth"]
    busy.qtbot.keyClick(table, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    assert names(busy.queue) == ["second", "third", "fourth"]
    busy.qtbot.keyClick(table, Qt.Key.Key_Delete)
    busy.until(lambda: names(busy.queue) == ["third", "fourth"])


def test_removing_a_run_that_never_began_deletes_its_folder_and_can_be_put_back(busy: Desk) -> None:
    removed: list[object] = []
    busy.queue.removed.connect(lambda config, host: removed.append((config.name, host)))
    folder = Path(str(job(busy.queue, "third").spec.run_dir))
    busy.queue.remove(job(busy.queue, "third"))
    assert not folder.exists()
    assert removed == [("third", "thread")]
    busy.until(lambda: names(busy.queue) == ["second", "fourth"])


def test_removing_a_run_that_was_trained_before_keeps_it(busy: Desk) -> None:
    busy.workspace.draft.edit({"name": "old", "training.max_steps": 2}, "old")
    path = busy.starter.start_run()
    busy.jobs.move(job(busy.queue, "old"), 0)
    busy.starter.stop()
    busy.until(lambda: not busy.jobs.jobs)
    blocker = busy.jobs.start(JobSpec("tests.gui.tasks:wait", title="Merge", device=True))
    busy.until(lambda: blocker.state == "running")
    busy.starter.resume_run(path)
    busy.queue.remove(job(busy.queue, "old"))
    assert RunFolder(path).state == "finished"


def test_a_run_whose_turn_has_come_is_not_stopped_by_a_late_remove(busy: Desk) -> None:
    late = job(busy.queue, "second")
    busy.starter.stop()
    busy.until(lambda: late.ended)
    busy.queue.remove(late)
    assert RunFolder(Path(str(late.spec.run_dir))).state == "finished"


def test_waiting_runs_read_as_queued_and_cannot_be_deleted_or_started_twice(busy: Desk, page: RunsPage) -> None:
    model = page.table.model()
    states = {model.index(row, 0).data(): model.index(row, 1).data() for row in range(model.rowCount())}
    assert states == {"first": "running", "second": "queued", "third": "queued", "fourth": "queued"}
    for row in range(model.rowCount()):
        page.table.selectRow(row)
        assert not page.findChild(QPushButton, "run_resume_button").isEnabled()
        assert not page.findChild(QPushButton, "run_delete_button").isEnabled()


def test_runs_that_waited_when_the_window_closed_are_new_and_start_with_one_press(busy: Desk, qtbot: QtBot) -> None:
    folders = busy.queue.run_folders
    assert len(folders) == 3
    busy.jobs.close()
    assert [RunFolder(Path(folder)).state for folder in folders] == ["new"] * 3
    later = Desk.make(qtbot)
    page = RunsPage(later.workspace, later.jobs, later.run_view, later.starter, later.queue, later.answers)
    later.shown(page)
    model = page.table.model()
    page.table.selectRow(next(row for row in range(model.rowCount()) if model.index(row, 0).data() == "third"))
    button = page.findChild(QPushButton, "run_resume_button")
    assert (button.text(), button.isEnabled()) == ("Start", True)
    button.click()
    later.until(lambda: RunFolder(Path(folders[1])).state == "finished")
    assert [later.queue.can_start(folder) for folder in folders] == [True, False, True]
    later.queue.start_again(folders)
    later.until(lambda: all(RunFolder(Path(folder)).state == "finished" for folder in folders) and not later.jobs.jobs)
    later.close()


def test_what_waits_for_a_paused_run_says_so(busy: Desk) -> None:
    busy.starter.pause()
    busy.until(lambda: busy.run_view.state == "paused")
    busy.until(lambda: busy.queue.entries[0].waits_for == "first, which is paused")
