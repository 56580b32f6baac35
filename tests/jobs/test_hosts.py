"""One suite for every host: what runs in a thread and what runs in a child look the same from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.core.errors import StudioError
from lora_studio.core.events import (
    Memory,
    Notice,
    Phase,
    RunEvent,
    RunFailed,
    RunFinished,
    RunStopped,
    Step,
    event_from_json,
    event_to_json,
)
from lora_studio.core.runs import RunFolder
from lora_studio.jobs.host import Host
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec

Until = Callable[[Callable[[], bool]], None]


def spec(task: str, **arguments: object) -> JobSpec:
    return JobSpec(f"tests.jobs.tasks:{task}", arguments, title=task)


def finished(job: Job) -> list[RunEvent]:
    assert job.wait(30)
    return job.drain()


def test_a_finished_job_has_its_result_and_its_events_in_order(host: Host) -> None:
    job = host.start(spec("add", left=2, right=3))
    events = finished(job)
    assert [type(event) for event in events] == [Phase, RunFinished]
    assert [event.seq for event in events] == [0, 1]
    assert job.state == "finished"
    assert job.result == {"sum": 5}
    assert job.last_event == events[-1]


def test_progress_carries_what_is_done_and_in_what_unit(host: Host) -> None:
    phase = finished(host.start(spec("add", left=2, right=3)))[0]
    assert isinstance(phase, Phase)
    assert (phase.name, phase.message, phase.done, phase.total, phase.unit) == ("adding", "Adding", 1, 2, "numbers")


def test_a_task_that_says_nothing_finishes_with_an_empty_result(host: Host) -> None:
    job = host.start(spec("silent"))
    assert [type(event) for event in finished(job)] == [RunFinished]
    assert job.result == {}


def test_events_posted_from_another_thread_keep_their_place(host: Host) -> None:
    events = finished(host.start(spec("post_from_inside")))
    assert [type(event) for event in events] == [Phase, Notice, RunFinished]


def test_draining_takes_each_event_once(host: Host) -> None:
    job = host.start(spec("add", left=2, right=3))
    finished(job)
    assert job.drain() == []


def test_stop_ends_a_task_with_its_work_saved(host: Host, tmp_path: Path, until: Until) -> None:
    saved = tmp_path / "saved"
    job = host.start(spec("patient", leave=str(saved)))
    seen: list[RunEvent] = []
    until(lambda: bool(seen.extend(job.drain()) or seen))
    job.control.stop()
    last = finished(job)[-1]
    assert isinstance(last, RunStopped)
    assert last.result["steps"] >= 1
    assert job.state == "stopped"
    assert saved.read_text() == "saved"


def test_a_cancelled_task_reads_as_stopped(host: Host, until: Until) -> None:
    job = host.start(spec("cancelled"))
    until(lambda: bool(job.drain()))
    job.control.stop()
    assert isinstance(finished(job)[-1], RunStopped)


def test_a_second_stop_ends_a_task_that_never_looks(host: Host, until: Until) -> None:
    job = host.start(spec("deaf"))
    until(lambda: bool(job.drain()))
    job.control.stop()
    until(lambda: bool(job.drain()))
    assert not job.ended
    job.control.stop()
    assert isinstance(finished(job)[-1], RunStopped)


def test_pause_holds_a_task_until_it_is_resumed(host: Host, until: Until) -> None:
    job = host.start(spec("patient"))
    seen: list[RunEvent] = []
    until(lambda: bool(seen.extend(job.drain()) or seen))
    job.control.pause()
    until(lambda: job.state == "paused")
    held = job.drain()[-1]
    job.control.resume()
    until(lambda: job.state == "running")
    job.control.stop()
    steps = [event for event in finished(job) if isinstance(event, Step)]
    assert steps[0].step == held.step + 1


def test_requests_for_a_checkpoint_and_a_sample_reach_the_task(host: Host, until: Until) -> None:
    job = host.start(spec("patient"))
    job.control.checkpoint_now()
    job.control.sample_now()
    codes: set[str] = set()

    def both_came() -> bool:
        codes.update(event.code for event in job.drain() if isinstance(event, Notice))
        return codes == {"checkpoint", "sample"}

    until(both_came)
    job.control.stop()
    finished(job)


def test_an_error_for_people_keeps_its_fields(host: Host) -> None:
    job = host.start(spec("refuse"))
    last = finished(job)[-1]
    assert isinstance(last, RunFailed)
    assert (last.message, last.hint, last.field, last.exit_status) == ("Rank must be positive.", "Set adapter.r to 8.", "adapter.r", 2)
    assert last.details == ""
    assert job.state == "failed"
    assert job.result is None


def test_a_crash_keeps_its_traceback(host: Host) -> None:
    last = finished(host.start(spec("crash")))[-1]
    assert isinstance(last, RunFailed)
    assert last.message == "ZeroDivisionError: a bug of ours"
    assert "in crash" in last.details


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("tests.jobs.nowhere:task", "There is no module tests.jobs.nowhere"),
        ("tests.jobs.tasks:nothing", "has no task 'nothing'"),
        ("tests.jobs.tasks", "has no task ''"),
    ],
)
def test_a_task_that_does_not_exist_is_named(host: Host, target: str, told: str) -> None:
    last = finished(host.start(JobSpec(target)))[-1]
    assert isinstance(last, RunFailed)
    assert told in last.message


def test_arguments_that_are_not_json_are_refused_at_the_door(host: Host) -> None:
    with pytest.raises(TypeError):
        host.start(spec("add", left=object(), right=1))


def test_wrong_arguments_fail_the_job_not_the_host(host: Host) -> None:
    assert finished(host.start(spec("add", left=1)))[-1].event == "run_failed"
    assert finished(host.start(spec("add", left=1, right=1)))[-1].event == "run_finished"


def test_events_are_the_same_after_json(host: Host) -> None:
    events = finished(host.start(spec("steps", count=3)))
    assert [event_from_json(event_to_json(event)) for event in events] == events


def test_a_run_keeps_exactly_the_events_that_were_watched(host: Host, run_folder: RunFolder) -> None:
    job = host.start(JobSpec("tests.jobs.tasks:steps", {"count": 5}, run_dir=str(run_folder.path)))
    watched = finished(job)
    assert list(run_folder.events()) == watched
    assert [event.seq for event in watched] == list(range(len(watched)))
    assert run_folder.state == "finished"


def test_a_run_is_sampled_for_memory(host: Host, run_folder: RunFolder) -> None:
    events = finished(host.start(JobSpec("tests.jobs.tasks:steps", {"count": 1}, run_dir=str(run_folder.path))))
    memory = next(event for event in events if isinstance(event, Memory))
    assert memory.resident > 1_000_000


def test_a_second_attempt_counts_on(host: Host, run_folder: RunFolder) -> None:
    again = JobSpec("tests.jobs.tasks:steps", {"count": 2}, run_dir=str(run_folder.path))
    finished(host.start(again))
    with run_folder.events_path.open("ab") as file:
        file.write(b'{"seq": 99, "torn')
    finished(host.start(again))
    events = list(run_folder.events())
    assert {event.attempt for event in events} == {1, 2}
    assert [event.seq for event in events] == list(range(len(events)))


def test_a_run_held_by_another_is_refused_untouched(host: Host, run_folder: RunFolder) -> None:
    with run_folder.lock():
        last = finished(host.start(JobSpec("tests.jobs.tasks:steps", {"count": 1}, run_dir=str(run_folder.path))))[-1]
    assert isinstance(last, RunFailed)
    assert str(run_folder.path) in last.message
    assert not run_folder.events_path.exists()


def test_a_loss_that_is_not_a_number_arrives_as_one(host: Host) -> None:
    events = finished(host.start(spec("steps", count=1, loss=float("nan"))))
    step = next(event for event in events if isinstance(event, Step))
    assert step.loss != step.loss


def test_jobs_on_the_device_wait_in_line_and_can_be_moved(host: Host, until: Until) -> None:
    def device(task: str) -> JobSpec:
        return JobSpec(f"tests.jobs.tasks:{task}", title=task, device=True)

    first = host.start(device("patient"))
    until(lambda: first.state == "running")
    second, third, fourth = (host.start(device("silent")) for _ in range(3))
    assert [job.state for job in (second, third, fourth)] == ["queued"] * 3
    assert host.queue == (second, third, fourth)
    host.move(fourth, 0)
    assert host.queue == (fourth, second, third)
    third.control.stop()
    assert third.state == "stopped"
    assert host.queue == (fourth, second)
    first.control.stop()
    assert finished(second)[-1].event == "run_finished"
    assert fourth.ended


def test_other_jobs_do_not_wait_for_the_device(host: Host, until: Until) -> None:
    first = host.start(JobSpec("tests.jobs.tasks:patient", device=True))
    until(lambda: first.state == "running")
    assert finished(host.start(spec("silent")))[-1].event == "run_finished"
    assert not first.ended


def test_closing_stops_what_is_at_work_and_drops_what_waits(host: Host, tmp_path: Path, until: Until) -> None:
    saved = tmp_path / "saved"
    first = host.start(JobSpec("tests.jobs.tasks:patient", {"leave": str(saved)}, device=True))
    until(lambda: bool(first.drain()))
    second = host.start(JobSpec("tests.jobs.tasks:patient", device=True))
    host.close()
    assert (first.state, second.state) == ("stopped", "stopped")
    assert saved.exists()
    with pytest.raises(StudioError):
        host.start(spec("silent"))


def test_closing_in_a_hurry_abandons_what_does_not_stop(host: Host, until: Until) -> None:
    job = host.start(spec("deaf"))
    until(lambda: bool(job.drain()))
    host.close(timeout=0.1)
    assert job.state == "stopped"
