from __future__ import annotations

import pytest

from lora_studio.core.events import LastEvent, RunEvent
from lora_studio.gui.engine.latest_job import LatestJob
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Desk

WAIT, COUNT, FAIL = (
    JobSpec(f"tests.gui.tasks:{name}", arguments) for name, arguments in (("wait", {}), ("count", {"steps": 9}), ("fail", {}))
)


def test_the_events_and_the_end_of_the_latest_are_heard(desk: Desk) -> None:
    latest, events, ends = LatestJob(desk.jobs), [], []
    latest.start(COUNT, lambda last: ends.append((last.event, latest.job)), events.append)
    assert latest.job is not None
    desk.until(lambda: ends)
    assert ends == [("run_finished", None)]
    assert [event.done for event in events[:9]] == list(range(9))


def test_a_question_asked_again_stops_the_one_before_and_hears_nothing_of_it(desk: Desk) -> None:
    latest = LatestJob(desk.jobs)
    heard: list[RunEvent | LastEvent] = []
    ends: list[str] = []
    first = latest.start(WAIT, heard.append, heard.append)
    desk.until(lambda: first.state == "running")
    heard.clear()
    latest.start(COUNT, lambda last: ends.append(last.event))
    desk.until(lambda: ends and not desk.jobs.jobs)
    assert (first.state, heard, ends) == ("stopped", [], ["run_finished"])


@pytest.mark.parametrize(("spec", "end"), [(WAIT, "run_stopped"), (FAIL, "run_failed")])
def test_the_end_is_told_whatever_it_is(desk: Desk, spec: JobSpec, end: str) -> None:
    latest, ends = LatestJob(desk.jobs), []
    latest.start(spec, lambda last: ends.append(last.event))
    latest.stop()
    desk.until(lambda: ends)
    assert ends == [end]
    assert latest.job is None


def test_what_is_dropped_is_stopped_and_not_heard(desk: Desk) -> None:
    latest, ends = LatestJob(desk.jobs), []
    job = latest.start(WAIT, ends.append)
    latest.drop()
    desk.until(lambda: not desk.jobs.jobs)
    assert (job.state, ends, latest.job) == ("stopped", [], None)


def test_a_job_that_is_started_by_the_end_of_another_is_the_latest(desk: Desk) -> None:
    latest, ends = LatestJob(desk.jobs), []

    def again(last: LastEvent) -> None:
        ends.append(last.event)
        if len(ends) < 3:
            latest.start(COUNT, again)

    latest.start(COUNT, again)
    desk.until(lambda: len(ends) == 3)
    assert ends == ["run_finished"] * 3
