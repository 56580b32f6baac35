from __future__ import annotations

import pytest
from PySide6.QtCore import QTimer

from lora_studio.core.events import RunFailed, RunFinished, RunStopped
from lora_studio.gui.engine.notifications import Notifications
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Desk


def test_events_reach_a_listener_in_order_and_the_end_comes_last(desk: Desk) -> None:
    heard: list[object] = []
    desk.jobs.start(JobSpec("tests.gui.tasks:count", {"steps": 300}), heard.append, lambda last: heard.append(("end", last.event)))
    desk.until(lambda: heard and heard[-1] == ("end", "run_finished"))
    assert [event.done for event in heard[:300]] == list(range(300))
    assert isinstance(heard[300], RunFinished)
    assert not desk.jobs.jobs


def test_a_flood_of_events_ticks_no_more_often_than_the_timer(desk: Desk) -> None:
    ticks: list[int] = []
    ended: list[object] = []
    desk.jobs.ticked.connect(lambda: ticks.append(1))
    desk.jobs.start(JobSpec("tests.gui.tasks:count", {"steps": 20_000}), on_done=ended.append)
    desk.until(lambda: ended)
    assert 0 < len(ticks) < 2_000


def test_the_timer_rests_when_no_job_is_left(desk: Desk) -> None:
    ended: list[object] = []
    desk.jobs.start(JobSpec("tests.gui.tasks:count", {"steps": 3}), on_done=ended.append)
    desk.until(lambda: ended)
    desk.jobs.tick()
    assert not desk.jobs.findChild(QTimer).isActive()


def test_device_jobs_wait_for_one_another_and_one_that_waits_can_be_dropped(desk: Desk) -> None:
    ends: list[str] = []
    spec = JobSpec("tests.gui.tasks:wait", device=True)
    first = desk.jobs.start(spec, on_done=lambda last: ends.append(f"first {last.event}"))
    second = desk.jobs.start(spec, on_done=lambda last: ends.append(f"second {last.event}"))
    desk.until(lambda: first.state == "running")
    assert second.state == "queued"
    second.control.stop()
    desk.until(lambda: ends == ["second run_stopped"])
    first.control.stop()
    desk.until(lambda: len(ends) == 2)


@pytest.mark.parametrize(("foreseen", "message"), [(True, "There is no such thing."), (False, "ZeroDivisionError: by zero")])
def test_a_failure_arrives_as_the_last_event(desk: Desk, foreseen: bool, message: str) -> None:
    ended: list[object] = []
    desk.jobs.start(JobSpec("tests.gui.tasks:fail", {"foreseen": foreseen}), on_done=ended.append)
    desk.until(lambda: ended)
    assert isinstance(ended[0], RunFailed)
    assert ended[0].message == message


def test_close_joins_what_runs_and_then_refuses_jobs(desk: Desk) -> None:
    ended: list[object] = []
    desk.jobs.start(JobSpec("tests.gui.tasks:wait"), on_done=ended.append)
    desk.jobs.close()
    assert isinstance(ended[0], RunStopped)
    with pytest.raises(RuntimeError):
        desk.jobs.start(JobSpec("tests.gui.tasks:wait"))


def test_the_ends_of_device_jobs_are_kept_as_notifications_and_small_ones_are_not(desk: Desk) -> None:
    notes = Notifications(desk.jobs)
    ended: list[object] = []
    desk.jobs.start(JobSpec("tests.gui.tasks:count", {"steps": 2}, title="Small"), on_done=ended.append)
    desk.jobs.start(JobSpec("tests.gui.tasks:count", {"steps": 2}, title="Big", device=True), on_done=ended.append)
    desk.jobs.start(JobSpec("tests.gui.tasks:fail", title="Bad", device=True), on_done=ended.append)
    desk.until(lambda: len(ended) == 3)
    assert [(note.level, note.text) for note in notes.entries] == [
        ("error", "Bad: There is no such thing. Give another."),
        ("good", "Big finished"),
    ]
    assert notes.data(notes.index(1, 0)).endswith("Big finished")


def test_a_job_whose_starter_shows_its_end_is_told_only_when_it_fails(desk: Desk) -> None:
    notes = Notifications(desk.jobs)
    ended: list[object] = []
    notes.keep_quiet(desk.jobs.start(JobSpec("tests.gui.tasks:count", {"steps": 2}, title="Quiet", device=True), on_done=ended.append))
    notes.keep_quiet(desk.jobs.start(JobSpec("tests.gui.tasks:fail", title="Loud", device=True), on_done=ended.append))
    desk.until(lambda: len(ended) == 2)
    assert [note.text.partition(":")[0] for note in notes.entries] == ["Loud"]
