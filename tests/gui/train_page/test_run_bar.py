from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QMenu, QPushButton, QToolButton, QWidget

from lora_studio.core.events import RunFinished, RunStarted, RunStopped
from lora_studio.gui.runs import run_control
from lora_studio.gui.train_page.run_bar import RunBar
from tests.gui.desk import Desk
from tests.gui.tasks import step_event

STARTED = RunStarted(
    total_steps=10, train_rows=8, eval_rows=2, trainable_parameters=4, all_parameters=40, device="cpu", compute_dtype="float32"
)


@pytest.fixture(autouse=True)
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")


@pytest.fixture
def bar(desk: Desk) -> RunBar:
    made = RunBar(desk.workspace, desk.run_view, desk.starter)
    desk.qtbot.addWidget(made)
    made.resize(900, 50)
    return made


def button(bar: RunBar, name: str) -> QPushButton:
    found = bar.findChild(QPushButton, name)
    assert found is not None
    return found


def press(desk: Desk, bar: RunBar, name: str) -> None:
    desk.qtbot.mouseClick(button(bar, name), Qt.MouseButton.LeftButton)


def shown(bar: RunBar, kind: type, name: str) -> str:
    found = bar.findChild(kind, name)
    return "" if found.isHidden() else found.text()


def test_the_bar_hides_until_there_is_a_run(bar: RunBar) -> None:
    assert bar.isHidden()


def test_the_bar_names_the_run_and_its_own_settings_whatever_the_draft_becomes(desk: Desk, bar: RunBar) -> None:
    folder = desk.past_run([STARTED, RunFinished()], **{"adapter.r": 4, "adapter.lora_alpha": 32, "model.dtype": "bfloat16"})
    desk.run_view.open(folder.path)
    desk.workspace.draft.edit({"adapter.r": 64}, "rank")
    assert shown(bar, QLabel, "run_name") == folder.name
    assert shown(bar, QLabel, "run_settings") == "r 4 · α 32 · bf16"


def test_each_edit_of_the_draft_is_counted_and_undo_takes_it_back(desk: Desk, bar: RunBar) -> None:
    settings = desk.workspace.draft.config.model_dump(exclude={"name", "schema_version"})
    desk.run_view.open(desk.past_run([STARTED, RunFinished()], **settings).path)
    assert shown(bar, QToolButton, "draft_differs") == ""
    desk.workspace.draft.edit({"adapter.r": 16}, "rank")
    desk.workspace.draft.edit({"training.learning_rate": 1e-5}, "rate")
    assert shown(bar, QToolButton, "draft_differs") == "draft differs: 2"
    desk.workspace.draft.undo_stack.undo()
    assert shown(bar, QToolButton, "draft_differs") == "draft differs: 1"


def test_the_list_of_differences_leads_to_the_field(desk: Desk, bar: RunBar) -> None:
    settings = desk.workspace.draft.config.model_dump(exclude={"name", "schema_version"})
    desk.run_view.open(desk.past_run([STARTED, RunFinished()], **settings).path)
    run_rank = desk.workspace.draft.config.adapter.r
    desk.workspace.draft.edit({"adapter.r": 16}, "rank")
    menu = bar.findChild(QMenu, "draft_differs_menu")
    menu.aboutToShow.emit()
    assert [action.text() for action in menu.actions()] == [f"Rank: {run_rank} here, 16 in the draft"]
    with desk.qtbot.waitSignal(desk.workspace.draft.field_requested) as asked:
        menu.actions()[0].trigger()
    assert asked.args == ["adapter.r"]


def test_pause_becomes_continue_and_stop_becomes_abandon(desk: Desk, bar: RunBar) -> None:
    desk.workspace.draft.edit({"training.max_steps": 5000}, "steps")
    desk.starter.start_run()
    desk.until(lambda: desk.run_view.state == "running")
    press(desk, bar, "pause_button")
    desk.until(lambda: desk.run_view.state == "paused")
    assert button(bar, "pause_button").text() == "Continue"
    assert shown(bar, QLabel, "run_state") == "Paused"
    press(desk, bar, "pause_button")
    desk.until(lambda: desk.run_view.state == "running")
    press(desk, bar, "stop_button")
    desk.until(lambda: not desk.run_view.is_live)
    assert shown(bar, QLabel, "run_state") == "Stopped"
    assert not button(bar, "resume_button").isHidden()


def test_export_waits_for_the_first_checkpoint(desk: Desk, bar: RunBar) -> None:
    desk.run_view.open(desk.past_run([STARTED, step_event(1), RunStopped()]).path)
    assert not button(bar, "export_button").isEnabled()
    assert button(bar, "export_button").toolTip() == "Nothing is saved yet: the first checkpoint can be exported."


def test_where_it_is_narrow_the_bar_says_less_of_the_draft_and_all_of_its_buttons(desk: Desk) -> None:
    settings = desk.workspace.draft.config.model_dump(exclude={"name", "schema_version"})
    desk.run_view.open(desk.past_run([STARTED, RunFinished()], **settings).path)
    desk.workspace.draft.edit({"adapter.r": 16}, "rank")
    room = QWidget()
    bar = RunBar(desk.workspace, desk.run_view, desk.starter, room)
    desk.shown(room, 1000, 60)
    bar.resize(1000, 50)
    enough = bar.minimumSizeHint().width()
    for width, text in ((enough, "draft differs: 1"), (enough - 20, "≠ 1"), (enough, "draft differs: 1")):
        bar.resize(width, 50)
        assert shown(bar, QToolButton, "draft_differs") == text
        assert bar.findChild(QToolButton, "draft_differs").accessibleName() == "draft differs: 1"


def test_export_is_offered_from_the_first_checkpoint_of_a_run_that_goes_on(desk: Desk, bar: RunBar) -> None:
    desk.workspace.draft.edit({"training.max_steps": 50_000}, "steps")
    desk.starter.start_run()
    desk.until(lambda: desk.run_view.state == "running")
    desk.until(lambda: button(bar, "export_button").isEnabled())
    assert desk.run_view.state == "running"
    desk.starter.stop()
    desk.until(lambda: not desk.run_view.is_live)
