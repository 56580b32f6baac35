from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.events import RunFinished, RunResumed, RunStarted, RunStopped
from lora_studio.gui.runs import run_control
from lora_studio.gui.runs.shown_run import ShownRun
from tests.gui.desk import Desk
from tests.gui.tasks import samples, step_event

STARTED = RunStarted(
    total_steps=10, train_rows=8, eval_rows=2, trainable_parameters=4, all_parameters=40, device="cpu", compute_dtype="float32"
)


@pytest.fixture(autouse=True)
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")


def test_a_finished_run_opens_with_all_its_curves_and_samples_and_without_torch(desk: Desk) -> None:
    had_torch = "torch" in sys.modules
    events = [STARTED, *(step_event(step) for step in range(1, 11)), *samples("after", "{}"), RunFinished()]
    folder = desk.past_run(events, **{"adapter.r": 4})
    desk.run_view.open(folder.path)
    assert desk.run_view.state == "finished"
    assert list(desk.run_view.history.loss.y) == [4.0 / step for step in range(1, 11)]
    assert len(desk.run_view.history.samples) == 3
    assert desk.run_view.config is not None
    assert desk.run_view.config.adapter.r == 4
    assert ("torch" in sys.modules) == had_torch


def test_opening_a_run_leaves_the_draft_alone(desk: Desk) -> None:
    before = desk.workspace.draft.config
    desk.run_view.open(desk.past_run([STARTED, RunFinished()], **{"adapter.r": 64}).path)
    assert desk.workspace.draft.config == before
    assert not desk.workspace.draft.undo_stack.canUndo()


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "new"),
        ([STARTED, step_event(1)], "interrupted"),
        ([STARTED, RunStopped()], "stopped"),
        ([STARTED, RunFinished()], "finished"),
    ],
)
def test_the_state_of_a_run_on_disk_is_what_its_last_event_says(desk: Desk, events: list[object], state: str) -> None:
    desk.run_view.open(desk.past_run(events).path)  # type: ignore[arg-type]
    assert desk.run_view.state == state
    assert desk.run_view.can_resume == (state != "finished")


def test_a_resumed_run_shows_no_step_twice(desk: Desk) -> None:
    again = [RunResumed(from_step=5, total_steps=10), *(step_event(step, 1.0) for step in range(6, 11))]
    events = [STARTED, *(step_event(step) for step in range(1, 8)), *again]
    desk.run_view.open(desk.past_run(events).path)
    assert list(desk.run_view.history.loss.x) == list(range(1, 11))


def test_a_folder_that_is_no_run_is_refused_and_the_shown_run_stays(desk: Desk, tmp_path: Path) -> None:
    folder = desk.past_run([STARTED, RunFinished()])
    desk.run_view.open(folder.path)
    with pytest.raises(InputError, match=r"run\.yaml"):
        desk.run_view.open(tmp_path)
    assert desk.run_view.path == folder.path


def test_a_live_run_updates_the_view_and_ends_as_finished(desk: Desk) -> None:
    desk.workspace.draft.edit({"training.max_steps": 12}, "steps")
    updates: list[int] = []
    desk.run_view.updated.connect(lambda: updates.append(desk.run_view.history.step))
    path = desk.starter.start_run()
    assert desk.run_view.path == path
    assert desk.run_view.is_live
    desk.until(lambda: not desk.run_view.is_live)
    assert desk.run_view.state == "finished"
    assert updates == sorted(updates)
    assert desk.run_view.history.step == 12


def test_turning_to_another_run_and_back_loses_and_doubles_nothing(desk: Desk) -> None:
    past = desk.past_run([STARTED, RunFinished()])
    desk.workspace.draft.edit({"training.max_steps": 400}, "steps")
    path = desk.starter.start_run()
    desk.until(lambda: desk.run_view.history.step >= 3)
    desk.run_view.open(past.path)
    assert not desk.run_view.is_live
    desk.qtbot.wait(120)
    desk.run_view.open(path)
    assert desk.run_view.is_live
    desk.until(lambda: not desk.run_view.is_live)
    assert list(desk.run_view.history.loss.x) == list(range(1, 401))


def test_pause_holds_the_run_until_it_is_continued(desk: Desk) -> None:
    desk.workspace.draft.edit({"training.max_steps": 5000}, "steps")
    desk.starter.start_run()
    desk.until(lambda: desk.run_view.state == "running")
    desk.starter.pause()
    desk.until(lambda: desk.run_view.state == "paused")
    held = desk.run_view.history.step
    desk.starter.go_on()
    desk.until(lambda: desk.run_view.history.step > held)
    desk.starter.stop()
    desk.until(lambda: not desk.run_view.is_live)


def test_stop_says_how_long_it_takes_saves_and_can_be_resumed(desk: Desk) -> None:
    desk.workspace.draft.edit({"training.max_steps": 5000}, "steps")
    path = desk.starter.start_run()
    desk.until(lambda: desk.run_view.history.step >= 6)
    desk.starter.stop()
    assert desk.run_view.state == "stopping"
    assert desk.starter.stop_text.startswith("stopping after this micro-batch, about ")
    desk.until(lambda: not desk.run_view.is_live)
    assert desk.run_view.state == "stopped"
    desk.starter.resume_run(path)
    desk.until(lambda: desk.run_view.history.step >= 8)
    assert desk.run_view.path == path
    desk.starter.stop()
    desk.until(lambda: not desk.run_view.is_live)


def test_a_second_stop_abandons_the_step(desk: Desk) -> None:
    desk.workspace.draft.edit({"training.max_steps": 5000}, "steps")
    desk.starter.start_run()
    desk.until(lambda: desk.run_view.history.step >= 2)
    desk.starter.stop()
    desk.starter.stop()
    assert desk.run_view.state in ("abandoning", "stopped")
    desk.until(lambda: desk.run_view.state == "stopped")


def test_a_second_run_waits_behind_the_first_with_its_own_settings(desk: Desk) -> None:
    desk.workspace.draft.edit({"training.max_steps": 5000, "adapter.r": 8}, "first")
    first = desk.starter.start_run()
    assert desk.starter.start_state.text == "Add to queue"
    desk.workspace.draft.edit({"training.max_steps": 3, "adapter.r": 16}, "second")
    second = desk.starter.start_run()
    assert desk.run_view.path == first
    assert desk.run_view.config is not None
    assert desk.run_view.config.adapter.r == 8
    other = ShownRun(desk.jobs)
    other.open(second)
    assert other.state == "waiting"
    assert other.jobs_before == ["support-triage"]
    desk.starter.stop()
    desk.until(lambda: other.state == "finished")
