"""What every host does: start jobs, keep those on the device in one line, which hosts may share, end them all.

A host decides where a task runs (`_run`). Its threads are started and joined here and nowhere else.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from lora_studio.core.errors import StudioError
from lora_studio.core.events import RunStopped
from lora_studio.jobs.device_queue import DeviceQueue
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec

_LOOK_S = 1.0


class Host(ABC):
    """Runs jobs; a context manager that closes itself.

    Jobs on the device (`JobSpec.device`) run one after the other on one lasting thread, the engine thread; every
    other job has a thread of its own.

    Args:
        line: The line in front of the device; hosts that share one run one device job at a time between them.

    Attributes:
        line: That line.
    """

    def __init__(self, line: DeviceQueue | None = None) -> None:
        self.line = line or DeviceQueue()
        self._changed = self.line.changed
        self._active: list[Job] = []
        self._threads: list[threading.Thread] = []
        self._engine: threading.Thread | None = None
        self._closing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Jobs that have not ended: those at work, then the queue in its order."""
        with self._changed:
            return (*self._active, *self.queue)

    @property
    def queue(self) -> tuple[Job, ...]:
        """This host's jobs that wait for the device, the next one first."""
        return self.line.waiting_of(self)

    def start(self, spec: JobSpec) -> Job:
        """Start a job, or put it in the queue when it needs the device; returns at once.

        Raises:
            StudioError: The host is closing.
            TypeError: An argument is not JSON.
        """
        spec.to_json()
        job = Job(spec, self._requested)
        with self._changed:
            self._refuse_when_closing()
            if spec.device:
                self.line.join(job, self)
                if self._engine is None:
                    self._engine = self._start_thread(self._work_queue, "engine")
            else:
                self._begin(job)
        return job

    def move(self, job: Job, position: int) -> None:
        """Put a waiting job at a position of the line, 0 being next; one that no longer waits stays where it is."""
        self.line.move(job, position)

    def close(self, timeout: float | None = None) -> None:
        """End all jobs and join all threads: waiting ones are dropped, the others asked to stop with their work saved.

        Args:
            timeout: Seconds to wait before the jobs still alive are told to abandon; None waits as long as saving takes.
        """
        with self._changed:
            self._closing = True
            waiting, active = self.queue, tuple(self._active)
            self._changed.notify_all()
        active = tuple(job for job in active if self._must_end(job))
        for job in (*waiting, *active):
            if not job.control.stopping:
                job.control.stop()
        until = None if timeout is None else time.monotonic() + timeout
        for job in active:
            if not job.wait(None if until is None else max(0.0, until - time.monotonic())):
                job.control.abandon()
        for thread in tuple(self._threads):
            thread.join()

    @abstractmethod
    def _run(self, job: Job) -> None:
        """Run a job until its last event has been received; called on a thread of its own or the engine thread."""

    def _must_end(self, job: Job) -> bool:
        """Return whether a job has to end when the host closes."""
        return not job.ended

    def _forward(self, job: Job, request: str) -> None:  # noqa: B027 - a thread shares the job's control: nothing to pass on
        """Pass a request on to where the job runs, when that is not this process."""

    def _let_go(self) -> None:  # noqa: B027 - a host without warm things has nothing to let go of
        """Let go of what the engine thread keeps on the device; called on it when another host's job has the device, and at its end."""

    def _requested(self, job: Job, request: str) -> None:
        if request in ("stop", "abandon") and self.line.leave(job):
            job.receive(RunStopped(time=time.time()))
        elif not job.ended:
            self._forward(job, request)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise StudioError("The program is closing: no job can be started.")

    def _begin(self, job: Job) -> None:
        """Run a job on a thread of its own; call this with the line held."""
        self._active.append(job)
        self._start_thread(partial(self._work, job), f"job-{job.id}")

    def _work(self, job: Job) -> None:
        try:
            job.started()
            self._run(job)
        finally:
            with self._changed:
                self._active.remove(job)
                self.line.release(job)
                with contextlib.suppress(ValueError):
                    self._threads.remove(threading.current_thread())

    def _work_queue(self) -> None:
        try:
            while job := self._next_job():
                job.started()
                self._run(job)
                with self._changed:
                    self._active.remove(job)
                    self.line.release(job)
        finally:
            self._let_go()

    def _next_job(self) -> Job | None:
        """Wait for the next job on the device; None when the host closes or the program ends without closing it."""
        told = False
        while True:
            with self._changed:
                if (job := self.line.take(self)) is not None:
                    self._active.append(job)
                    return job
                if not self.queue and (self._closing or not threading.main_thread().is_alive()):
                    return None
                lost = self.line.is_with_another(self)
                if told or not lost:
                    self._changed.wait(_LOOK_S)
            if lost and not told:
                self._let_go()
            told = lost

    def _start_thread(self, work: Callable[[], Any], name: str) -> threading.Thread:
        """Start a thread that the interpreter waits for: one still at work when it exits would abort the process."""
        thread = threading.Thread(target=work, name=name, daemon=False)
        self._threads.append(thread)
        thread.start()
        return thread
