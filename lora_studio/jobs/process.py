"""The host for runs apart from the window: the same task in a child process, behind the same interface."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, cast

from lora_studio.core.events import LastEvent, Phase, RunFailed, RunStopped, read_events
from lora_studio.core.runs import RunFolder
from lora_studio.core.waits import Patience, exit_words, reap
from lora_studio.jobs.child import DETACH
from lora_studio.jobs.device_queue import DeviceQueue
from lora_studio.jobs.follow import follow_events
from lora_studio.jobs.host import Host
from lora_studio.jobs.job import Job
from lora_studio.jobs.mailbox import process_behind, send_request
from lora_studio.jobs.spec import JobSpec

GRACE_S = 5.0
START_S = 120.0
_LOOK_S = 0.05
_LETS_GO_S = 10.0
_LOG_TAIL = 8192
_BLOCK = 1 << 16
_FOLLOW = "follow"


@dataclass
class _Link:
    """Our end of one child: requests sent before it is there wait for it.

    Attributes:
        step: What the child is at, in words that follow "while".
        under_way: Whether it has taken its job; from then on only its end is waited for, however long that takes.
    """

    mutex: threading.Lock = field(default_factory=threading.Lock)
    waiting: list[str] = field(default_factory=list)
    stdin: IO[bytes] | None = None
    detached: bool = False
    step: str = "starting"
    under_way: bool = False
    silent: bool = False

    def send(self, line: str) -> None:
        with self.mutex:
            if self.stdin is None:
                self.waiting.append(line)
                return
            with contextlib.suppress(OSError):  # the child is gone: its end is told by the thread that waits for it
                self.stdin.write(line.encode() + b"\n")
                self.stdin.flush()

    def connect(self, stdin: IO[bytes], order: str) -> None:
        with contextlib.suppress(OSError):  # an order may be more than a pipe takes: nobody who has a request waits for that
            stdin.write(order.encode() + b"\n")
            stdin.flush()
        with self.mutex:
            self.stdin = stdin
            lines, self.waiting = self.waiting, []
        for line in lines:
            self.send(line)


class ProcessHost(Host):
    """Runs each task in a child of its own; jobs on the device one after the other.

    Args:
        grace: Seconds an abandoned task has to unwind before its process is ended.
        line: As for every host.
        start: Seconds of a free machine in which a child has to start and take its job.
    """

    def __init__(self, grace: float = GRACE_S, line: DeviceQueue | None = None, start: float = START_S) -> None:
        super().__init__(line)
        self._grace = grace
        self._start_s = start
        self._links: dict[str, _Link] = {}

    def follow(self, run_dir: Path, after: int = -1) -> Job:
        """Attach to a run that another program started: its events from `seq` `after` + 1 on, its controls, its end.

        A run that is not alive is told to its last event; one without any ends as failed, since it was interrupted. As long as
        it is followed it has the device: jobs in the line wait for it.

        Raises:
            InputError: `run_dir` holds no run.
            StudioError: The host is closing.
        """
        folder = RunFolder.open(run_dir)
        spec = JobSpec(_FOLLOW, {"after": after}, folder.config.name, device=True, run_dir=str(folder.path), survives=True)
        job = Job(spec, self._requested)
        job.pid = process_behind(folder.control_path)
        with self._changed:
            self._refuse_when_closing()
            self.line.hold(job, self)
            self._begin(job)
        return job

    def detach(self, job: Job) -> None:
        """Let a run go on when this host closes; nothing more is heard of it here, `follow` finds it again."""
        link = self._link(job)
        link.detached = True
        link.send(DETACH)

    def close(self, timeout: float | None = None) -> None:
        """End all jobs but runs that survive, as `Host.close`; those are let go of."""
        waiting = self.queue
        for job in self.jobs:
            if job.spec.target == _FOLLOW or (job.spec.survives and job not in waiting):
                self.detach(job)
        super().close(timeout)

    def _must_end(self, job: Job) -> bool:
        return super()._must_end(job) and not self._link(job).detached

    def _run(self, job: Job) -> None:
        try:
            if job.spec.target == _FOLLOW:
                self._follow(job)
            else:
                with _log_of(job.spec) as log:
                    self._run_child(job, log)
        except OSError as error:
            told = f"Cannot start a process: {error.strerror}."
            job.receive(RunFailed(message=told, hint="Train in a thread instead.", time=time.time()))
        finally:
            self._links.pop(job.id, None)

    def _run_child(self, job: Job, log: IO[bytes]) -> None:
        link = self._link(job)
        child = _start_child(child_command(job.spec), log)
        job.pid = child.pid
        stdin, stdout = cast("IO[bytes]", child.stdin), cast("IO[bytes]", child.stdout)
        order = json.dumps({"spec": asdict(job.spec), "grace": self._grace})
        reader = threading.Thread(target=_talk, args=(stdin, stdout, job, link, order), name=f"reader-{job.id}")
        reader.start()
        try:
            self._await(child, job, link)
        finally:
            if not link.detached:
                _kill(child)
            reader.join()
            with contextlib.suppress(OSError):
                stdin.close()
            stdout.close()
        if not link.detached:
            job.receive(_how_it_died(child.returncode, job, link, log))

    def _await(self, child: subprocess.Popen[bytes], job: Job, link: _Link) -> None:
        """Wait until the child ends or is let go of; one that does not take its job, or does not end when abandoned, is killed in time."""
        deadline, patience = float("inf"), Patience(self._start_s)
        while child.poll() is None and not link.detached:
            if job.control.abandoning:
                deadline = min(deadline, time.monotonic() + 2 * self._grace + 1)
            if time.monotonic() > deadline:
                return
            if not link.under_way and patience.is_over():
                link.silent = True
                return
            time.sleep(_LOOK_S)

    def _follow(self, job: Job) -> None:
        link = self._link(job)
        folder = RunFolder(Path(str(job.spec.run_dir)))
        for event in follow_events(folder, int(job.spec.arguments["after"]), lambda: link.detached):
            job.receive(event)
        if not link.detached:
            job.receive(_interrupted("The program that ran it ended without a word."))

    def _forward(self, job: Job, request: str) -> None:
        if job.spec.target == _FOLLOW:
            send_request(RunFolder(Path(str(job.spec.run_dir))).control_path, request)
        else:
            self._link(job).send(request)

    def _link(self, job: Job) -> _Link:
        return self._links.setdefault(job.id, _Link())


def child_command(_spec: JobSpec) -> list[str]:
    """Return the command line of the child that runs a job: it reads the job itself from its standard input."""
    return [sys.executable, "-m", "lora_studio.jobs.child"]


def _start_child(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a child out of reach of the terminal's Ctrl+C: who started it decides what a person means by that."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=sys.platform != "win32",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def _log_of(spec: JobSpec) -> IO[bytes]:
    """Open a file for what the child says on standard error: kept in the run's folder, else for as long as it is needed."""
    if spec.run_dir is None:
        return tempfile.TemporaryFile()
    folder = RunFolder(Path(spec.run_dir)).control_path
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "process.log").open("wb+")


def _talk(stdin: IO[bytes], stdout: IO[bytes], job: Job, link: _Link, order: str) -> None:
    """Hand the child its order once it is there, then take in its events, until it ends or is let go of."""
    lines = _lines(stdout.fileno(), _LetGo(link).is_over)
    if next(lines, None) is None:
        return
    link.step = "taking its job"
    link.connect(stdin, order)
    if next(lines, None) is None:
        return
    link.step, link.under_way = "importing its task", True
    for event in read_events(lines):
        if isinstance(event, Phase):
            link.step = event.name
        job.receive(event)


class _LetGo:
    """For how long a child that was let go of may take to close its end: one that was stopped would never."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._patience: Patience | None = None

    def is_over(self) -> bool:
        if self._link.detached and self._patience is None:
            self._patience = Patience(_LETS_GO_S if self._link.under_way else START_S)
        return self._patience is not None and self._patience.is_over()


def _lines(stream: int, given_up: Callable[[], bool]) -> Iterator[bytes]:
    """Read lines from a pipe until its other end is closed, or nobody wants more of it."""
    rest = b""
    with contextlib.nullcontext() if sys.platform == "win32" else selectors.DefaultSelector() as selector:
        if selector is not None:  # Windows cannot ask a pipe whether it has something
            selector.register(stream, selectors.EVENT_READ)
        while _has_something(selector, given_up) and (block := os.read(stream, _BLOCK)):
            *whole, rest = (rest + block).split(b"\n")
            yield from whole


def _has_something(selector: selectors.BaseSelector | None, given_up: Callable[[], bool]) -> bool:
    while selector is not None and not selector.select(_LOOK_S):
        if given_up():
            return False
    return True


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started, so that nothing outlives the job and its pipe closes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
    reap(child)


def _how_it_died(status: int | None, job: Job, link: _Link, log: IO[bytes]) -> LastEvent:
    """Say how a child ended that left no last event, and at what; `Job.receive` drops this where there is one."""
    if job.control.abandoning:
        return RunStopped(time=time.time())
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG_TAIL))
    how = "did not answer, and was ended," if link.silent or status is None else exit_words(status)
    return _interrupted(f"Its process {how} while {link.step}.", log.read().decode(errors="replace"))


def _interrupted(told: str, details: str = "") -> RunFailed:
    hint = "A run can be resumed from its last checkpoint."
    return RunFailed(message=f"The job was interrupted. {told}", hint=hint, details=details, time=time.time())
