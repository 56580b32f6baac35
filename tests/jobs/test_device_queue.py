"""One device, one lease: hosts that share a line run one device job at a time between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_studio.core.events import RunStopped, Step
from lora_studio.core.runs import RunFolder
from lora_studio.jobs.device_queue import DeviceQueue
from lora_studio.jobs.job import Job
from lora_studio.jobs.process import ProcessHost
from lora_studio.jobs.spec import JobSpec
from lora_studio.jobs.thread import ThreadHost

Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def line() -> DeviceQueue:
    return DeviceQueue()


@pytest.fixture
def threads(line: DeviceQueue) -> Iterator[ThreadHost]:
    with ThreadHost(line) as host:
        yield host


@pytest.fixture
def processes(line: DeviceQueue) -> Iterator[ProcessHost]:
    with ProcessHost(grace=0.3, line=line) as host:
        yield host


def device(task: str, **arguments: object) -> JobSpec:
    return JobSpec(f"tests.jobs.tasks:{task}", arguments, title=task, device=True)


def test_a_job_in_a_thread_waits_for_one_in_a_process_and_the_other_way_round(
    threads: ThreadHost, processes: ProcessHost, line: DeviceQueue, until: Until
) -> None:
    first = processes.start(device("patient"))
    until(lambda: any(isinstance(event, Step) for event in first.drain()))
    second, third = threads.start(device("patient")), processes.start(device("silent"))
    assert line.holders == (first,)
    assert line.queue == (second, third)
    first.control.stop()
    until(lambda: second.state == "running")
    assert first.ended
    assert third.state == "queued"
    second.control.stop()
    assert third.wait(30)
    assert third.state == "finished"
    until(lambda: not line.holders)


def test_a_job_can_be_moved_before_one_of_the_other_host(
    threads: ThreadHost, processes: ProcessHost, line: DeviceQueue, until: Until
) -> None:
    first = threads.start(device("patient"))
    until(lambda: first.state == "running")
    in_a_process, in_a_thread = processes.start(device("patient")), threads.start(device("silent"))
    line.move(in_a_thread, 0)
    assert line.queue == (in_a_thread, in_a_process)
    first.control.stop()
    assert in_a_thread.wait(30)
    until(lambda: in_a_process.pid is not None)
    assert in_a_process.state == "running"


def test_a_job_that_left_the_line_is_never_started(threads: ThreadHost, processes: ProcessHost, line: DeviceQueue, until: Until) -> None:
    first = processes.start(device("patient"))
    until(lambda: first.state == "running")
    dropped, kept = threads.start(device("patient")), threads.start(device("silent"))
    dropped.control.stop()
    first.control.stop()
    assert kept.wait(30)
    assert [type(event) for event in dropped.drain()] == [RunStopped]


def test_a_run_that_is_followed_has_the_device_until_it_ends(
    threads: ThreadHost, processes: ProcessHost, run_folder: RunFolder, until: Until
) -> None:
    with ThreadHost() as elsewhere:
        alive = elsewhere.start(JobSpec("tests.jobs.tasks:patient", run_dir=str(run_folder.path)))
        until(lambda: any(isinstance(event, Step) for event in alive.drain()))
        followed = processes.follow(run_folder.path)
        waiting = threads.start(device("silent"))
        until(lambda: any(isinstance(event, Step) for event in followed.drain()))
        assert waiting.state == "queued"
        followed.control.stop()
        assert waiting.wait(30)
        assert alive.ended


def test_a_run_in_a_thread_of_another_program_is_reached_through_its_folder(
    processes: ProcessHost, run_folder: RunFolder, until: Until
) -> None:
    with ThreadHost() as elsewhere:
        alive = elsewhere.start(JobSpec("tests.jobs.tasks:patient", run_dir=str(run_folder.path)))
        until(lambda: any(isinstance(event, Step) for event in alive.drain()))
        followed = processes.follow(run_folder.path)
        followed.control.pause()
        until(lambda: alive.state == "paused")
        followed.control.resume()
        until(lambda: alive.state == "running")
        followed.control.stop()
        assert followed.wait(30)


def test_the_model_kept_warm_goes_when_a_process_takes_the_device(threads: ThreadHost, processes: ProcessHost, until: Until) -> None:
    def count() -> object:
        job = threads.start(device("warm_count"))
        assert job.wait(30)
        return (job.result or {})["count"]

    assert [count(), count()] == [1, 2]
    other = processes.start(device("silent"))
    assert other.wait(30)
    assert count() == 1


def test_closing_one_host_leaves_the_jobs_of_the_other_in_the_line(threads: ThreadHost, line: DeviceQueue, until: Until) -> None:
    first = threads.start(device("patient"))
    until(lambda: first.state == "running")
    with ThreadHost(line) as other:
        dropped = other.start(device("silent"))
        kept = threads.start(device("silent"))
    assert dropped.state == "stopped"
    assert line.queue == (kept,)


def known(job: Job) -> list[int]:
    assert job.wait(30)
    return [event.step for event in job.drain() if isinstance(event, Step)]


def test_following_a_long_run_reads_only_what_is_new(processes: ProcessHost, run_folder: RunFolder) -> None:
    with ThreadHost() as elsewhere:
        elsewhere.start(JobSpec("tests.jobs.tasks:steps", {"count": 2000}, run_dir=str(run_folder.path))).wait()
    lines = run_folder.events_path.read_bytes().splitlines(keepends=True)
    at = next(event.seq for event in run_folder.events() if isinstance(event, Step) and event.step == 1990)
    early = next(place for place, line in enumerate(lines) if b'"event":"step"' in line)
    lines[early] = lines[early].replace(b'"seq":', b'"seq":99999')  # who reads it takes it for a new one
    run_folder.events_path.write_bytes(b"".join(lines))
    assert known(processes.follow(run_folder.path, after=at)) == list(range(1991, 2001))
    assert known(processes.follow(run_folder.path, after=-1)) == list(range(1, 2001))


def test_a_run_that_ended_just_before_it_is_followed_is_told_to_have_ended(processes: ProcessHost, run_folder: RunFolder) -> None:
    with ThreadHost() as elsewhere:
        elsewhere.start(JobSpec("tests.jobs.tasks:steps", {"count": 2000}, run_dir=str(run_folder.path))).wait()
    job = processes.follow(run_folder.path, after=list(run_folder.events())[-1].seq)
    assert job.wait(30)
    assert job.state == "finished"


def test_a_followed_run_tells_the_process_it_runs_in(processes: ProcessHost, tmp_path: Path, run_folder: RunFolder, until: Until) -> None:
    with ProcessHost(grace=0.3) as elsewhere:
        place = tmp_path / "pid"
        alive = elsewhere.start(JobSpec("tests.jobs.tasks:process_id", {"path": str(place)}, run_dir=str(run_folder.path)))
        until(lambda: any(isinstance(event, Step) for event in alive.drain()))
        followed = processes.follow(run_folder.path)
        assert followed.pid == alive.pid == int(place.read_text())
