"""What only a child can suffer: being killed, being orphaned, being left to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.events import RunFailed, RunStopped, Step
from lora_studio.core.runs import RunFolder
from lora_studio.jobs import process as process_module
from lora_studio.jobs.job import Job
from lora_studio.jobs.process import ProcessHost
from lora_studio.jobs.spec import JobSpec
from lora_studio.jobs.thread import ThreadHost

Until = Callable[[Callable[[], bool]], None]
posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.fixture
def host() -> Iterator[ProcessHost]:
    with ProcessHost(grace=0.3) as host:
        yield host


def patient(place: Path, run: RunFolder | None = None, **more: bool) -> JobSpec:
    return JobSpec("tests.jobs.tasks:process_id", {"path": str(place)}, run_dir=str(run.path) if run else None, **more)


def process_of(job: Job, place: Path, until: Until) -> psutil.Process:
    until(lambda: any(isinstance(event, Step) for event in job.drain()))
    return psutil.Process(int(place.read_text()))


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@posix
def test_a_killed_child_is_reported_by_the_signal_that_killed_it(host: ProcessHost, tmp_path: Path, until: Until) -> None:
    job = host.start(patient(tmp_path / "pid"))
    process_of(job, tmp_path / "pid", until).send_signal(signal.SIGKILL)
    assert job.wait(2)
    last = job.last_event
    assert isinstance(last, RunFailed)
    assert "SIGKILL" in last.message


SLEEP = "import time; time.sleep(60)\n"
HANGS = {  # a module that the child comes upon, and what it does there
    "starting": ("sitecustomize", SLEEP),
    "taking its job": ("sitecustomize", "import json, time; json.loads = lambda _text: time.sleep(60)\n"),
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a module where the child, and it alone, comes upon it first."""

    def plant(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))

    return plant


@pytest.mark.parametrize("step", HANGS)
def test_a_child_that_does_not_take_its_job_is_given_up_and_the_step_named(planted: Callable[[str, str], None], step: str) -> None:
    planted(*HANGS[step])
    more_than_a_pipe_takes = "x" * 1_000_000
    with ProcessHost(grace=0.3, start=0.5 if step == "starting" else 5.0) as host:
        job = host.start(JobSpec("tests.jobs.tasks:steps", {"count": 1, "loss": more_than_a_pipe_takes}))
        job.control.pause()
        assert job.wait(120)
    last = job.last_event
    assert isinstance(last, RunFailed)
    assert f"Its process did not answer, and was ended, while {step}." in last.message


@posix
@pytest.mark.parametrize(("task", "step"), [("tests.jobs.tasks:stuck", "training"), ("tests.jobs.slow_import:task", "importing its task")])
def test_a_killed_child_is_reported_with_what_it_was_at(host: ProcessHost, until: Until, task: str, step: str) -> None:
    job = host.start(JobSpec(task))
    until(lambda: job.pid is not None and host._link(job).step == step)
    assert job.pid is not None
    psutil.Process(job.pid).kill()
    assert job.wait(30)
    last = job.last_event
    assert isinstance(last, RunFailed)
    assert f"was killed by SIGKILL while {step}." in last.message


@posix
def test_a_stopped_child_does_not_keep_a_host_from_closing_that_lets_it_go_on(
    tmp_path: Path, run_folder: RunFolder, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_LETS_GO_S", 0.2)
    with ProcessHost(grace=0.3) as first:
        job = first.start(patient(tmp_path / "pid", run_folder, survives=True))
        process = process_of(job, tmp_path / "pid", until)
        process.send_signal(signal.SIGSTOP)
    assert not ended(process)
    process.send_signal(signal.SIGCONT)
    with ProcessHost() as second:
        followed = second.follow(run_folder.path)
        followed.control.stop()
        assert followed.wait(30)
    assert run_folder.state == "stopped"
    until(lambda: ended(process))
    os.waitpid(process.pid, os.WNOHANG)


@posix
def test_a_killed_run_reads_as_interrupted_and_goes_on_as_a_second_attempt(
    host: ProcessHost, tmp_path: Path, run_folder: RunFolder, until: Until
) -> None:
    job = host.start(patient(tmp_path / "pid", run_folder))
    process_of(job, tmp_path / "pid", until).send_signal(signal.SIGKILL)
    assert job.wait(2)
    assert run_folder.state == "interrupted"
    again = host.start(JobSpec("tests.jobs.tasks:steps", {"count": 1}, run_dir=str(run_folder.path)))
    assert again.wait(30)
    assert run_folder.state == "finished"
    assert list(run_folder.events())[-1].attempt == 2


@posix
def test_a_child_that_crashes_natively_leaves_its_last_words(host: ProcessHost) -> None:
    job = host.start(JobSpec("tests.jobs.tasks:die"))
    assert job.wait(30)
    last = job.last_event
    assert isinstance(last, RunFailed)
    assert "SIGSEGV" in last.message
    assert "in die" in last.details


def test_a_library_that_prints_does_not_disturb_the_events(host: ProcessHost) -> None:
    job = host.start(JobSpec("tests.jobs.tasks:noisy"))
    assert job.wait(30)
    assert job.result == {"heard": True}
    assert len(job.drain()) == 1


def test_abandoning_ends_a_task_stuck_in_one_call(host: ProcessHost, until: Until) -> None:
    job = host.start(JobSpec("tests.jobs.tasks:stuck"))
    until(lambda: bool(job.drain()))
    job.control.abandon()
    assert job.wait(30)
    assert isinstance(job.last_event, RunStopped)


def test_an_abandoned_run_is_written_down_as_stopped(host: ProcessHost, run_folder: RunFolder, until: Until) -> None:
    job = host.start(JobSpec("tests.jobs.tasks:stuck", run_dir=str(run_folder.path)))
    until(lambda: bool(job.drain()))
    job.control.abandon()
    assert job.wait(30)
    assert run_folder.state == "stopped"


@posix
def test_a_terminated_child_stops_with_its_work_saved(host: ProcessHost, tmp_path: Path, until: Until) -> None:
    job = host.start(patient(tmp_path / "pid"))
    process_of(job, tmp_path / "pid", until).terminate()
    assert job.wait(30)
    assert isinstance(job.last_event, RunStopped)


def owner(tmp_path: Path, spec: JobSpec) -> subprocess.Popen[bytes]:
    """Start a program that starts the job and is then to be killed."""
    script = tmp_path / "owner.py"
    script.write_text(
        "import sys, threading\n"
        "from lora_studio.jobs.process import ProcessHost\n"
        "from lora_studio.jobs.spec import JobSpec\n"
        "ProcessHost(grace=0.3).start(JobSpec.from_json(sys.argv[1]))\n"
        "threading.Event().wait()\n",
        encoding="utf-8",
    )
    return subprocess.Popen([sys.executable, str(script), spec.to_json()])


@posix
def test_no_child_is_orphaned_when_its_owner_is_killed(tmp_path: Path, until: Until) -> None:
    place = tmp_path / "pid"
    program = owner(tmp_path, patient(place))
    until(place.exists)
    until(lambda: bool(place.read_text()))
    child = psutil.Process(int(place.read_text()))
    program.kill()
    program.wait()
    until(lambda: ended(child))


@posix
def test_a_run_whose_owner_is_killed_stops_with_its_work_saved(tmp_path: Path, run_folder: RunFolder, until: Until) -> None:
    place = tmp_path / "pid"
    program = owner(tmp_path, patient(place, run_folder))
    until(place.exists)
    program.kill()
    program.wait()
    until(lambda: run_folder.state == "stopped")


@posix
def test_a_run_that_survives_its_owner_can_be_followed_and_stopped(
    host: ProcessHost, tmp_path: Path, run_folder: RunFolder, until: Until
) -> None:
    place = tmp_path / "pid"
    program = owner(tmp_path, patient(place, run_folder, survives=True))
    until(lambda: run_folder.events_path.exists() and any(event.step > 2 for event in run_folder.events()))
    program.kill()
    program.wait()
    job = host.follow(run_folder.path, after=0)
    until(lambda: any(isinstance(event, Step) for event in job.drain()))
    assert run_folder.state == "running"
    job.control.stop()
    assert job.wait(30)
    assert isinstance(job.last_event, RunStopped)
    assert run_folder.state == "stopped"


def test_a_run_let_go_of_outlives_its_host(tmp_path: Path, run_folder: RunFolder, until: Until) -> None:
    place = tmp_path / "pid"
    with ProcessHost(grace=0.3) as first:
        job = first.start(patient(place, run_folder))
        process = process_of(job, place, until)
        first.detach(job)
    assert not ended(process)
    with ProcessHost() as second:
        followed = second.follow(run_folder.path)
        followed.control.stop()
        assert followed.wait(30)
        assert followed.drain()[0].seq == 0
    until(lambda: ended(process))
    if sys.platform != "win32":
        os.waitpid(process.pid, os.WNOHANG)


def test_closing_leaves_a_followed_run_alone(host: ProcessHost, tmp_path: Path, run_folder: RunFolder, until: Until) -> None:
    job = host.start(patient(tmp_path / "pid", run_folder))
    process_of(job, tmp_path / "pid", until)
    with ProcessHost() as other:
        other.follow(run_folder.path)
    assert not job.ended


def test_following_a_finished_run_tells_it_to_its_end(host: ProcessHost, run_folder: RunFolder) -> None:
    with ThreadHost() as threads:
        for count in (1, 2):
            threads.start(JobSpec("tests.jobs.tasks:steps", {"count": count}, run_dir=str(run_folder.path))).wait()
    job = host.follow(run_folder.path)
    assert job.wait(30)
    assert job.state == "finished"
    assert [event.step for event in job.drain() if isinstance(event, Step)] == [1, 1, 2]


def test_following_something_else_is_refused(host: ProcessHost, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run"):
        host.follow(tmp_path)
