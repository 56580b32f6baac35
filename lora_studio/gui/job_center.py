"""Every long task of the window: started here, drained on one timer, joined before the application returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.events import LastEvent, RunEvent, RunFailed, RunFinished, RunStopped
from lora_studio.jobs.host import Host
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec
from lora_studio.jobs.thread import ThreadHost

TICK_MS = 33  # the window looks at its jobs 30 times a second, however many events they give

OnEvent = Callable[[RunEvent], None]
OnDone = Callable[[LastEvent], None]
HostName = Literal["thread", "process"]


@dataclass
class _Watched:
    """A job under way, whoever wants its events, and the state that was last told."""

    job: Job
    on_event: list[OnEvent] = field(default_factory=list)
    on_done: list[OnDone] = field(default_factory=list)
    told_state: str = ""


class JobCenter(QObject):
    """Owns the hosts; one timer drains all jobs and calls their listeners in the window's thread.

    Signals:
        job_changed: A job's state changed, or it told something; carries the `Job`.
        jobs_changed: A job was added, came to its turn, paused, went on or ended.
        ticked: One look at all jobs is over, and some event came: the moment to repaint, once.
        ended: A job ended; carries the `Job` and its last event.
    """

    job_changed = Signal(object)
    jobs_changed = Signal()
    ticked = Signal()
    ended = Signal(object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("job_center")
        self._hosts: dict[HostName, Host] = {}
        self._watched: list[_Watched] = []
        self._closed = False
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.tick)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Jobs that have not ended, oldest first."""
        return tuple(watched.job for watched in self._watched)

    @property
    def device_jobs(self) -> tuple[Job, ...]:
        """Jobs that have, or wait for, the device."""
        return tuple(job for job in self.jobs if job.spec.device)

    @property
    def live_run(self) -> Job | None:
        """The run that trains, or is the next to; None where no run is under way."""
        return next((job for job in self.device_jobs if job.spec.run_dir is not None), None)

    def start(
        self, spec: JobSpec, on_event: OnEvent | None = None, on_done: OnDone | None = None, host: HostName = "thread",
    ) -> Job:
        """Start a task; listeners are called in this thread, events in order, the end last.

        Raises:
            RuntimeError: The center is closed.
        """
        if self._closed:
            raise RuntimeError("the job center is closed")
        watched = _Watched(self._host(host).start(spec))
        self._watched.append(watched)
        self._add_listeners(watched, on_event, on_done)
        self._timer.start()
        self.jobs_changed.emit()
        self.job_changed.emit(watched.job)
        return watched.job

    def listen(self, job: Job, on_event: OnEvent | None = None, on_done: OnDone | None = None) -> None:
        """Add listeners to a job under way; one that has ended is not heard any more."""
        for watched in self._watched:
            if watched.job is job:
                self._add_listeners(watched, on_event, on_done)

    def tick(self) -> None:
        """Drain every job once; the timer's work."""
        heard = False
        for watched in tuple(self._watched):
            heard = self._drain(watched) or heard
        if not self._watched:
            self._timer.stop()
        if heard:
            self.ticked.emit()

    def close(self, timeout: float | None = 60.0) -> None:
        """Drop the queue, stop every job and join its thread or process; after `timeout` seconds they are told to abandon."""
        self._closed = True
        for host in self._hosts.values():
            host.close(timeout)
        self.tick()
        self._timer.stop()

    def _host(self, name: HostName) -> Host:
        if name not in self._hosts:
            self._hosts[name] = ThreadHost() if name == "thread" else _process_host()
        return self._hosts[name]

    @staticmethod
    def _add_listeners(watched: _Watched, on_event: OnEvent | None, on_done: OnDone | None) -> None:
        if on_event is not None:
            watched.on_event.append(on_event)
        if on_done is not None:
            watched.on_done.append(on_done)

    def _drain(self, watched: _Watched) -> bool:
        events = watched.job.drain()
        last: LastEvent | None = None
        for event in events:
            for listener in watched.on_event:
                listener(event)
            if isinstance(event, RunFinished | RunStopped | RunFailed):
                last = event
        before, watched.told_state = watched.told_state, watched.job.state
        if events or watched.told_state != before:
            self.job_changed.emit(watched.job)
        if watched.told_state != before:
            self.jobs_changed.emit()
        if last is not None:
            self._end(watched, last)
        return bool(events)

    def _end(self, watched: _Watched, last: LastEvent) -> None:
        self._watched.remove(watched)
        for listener in watched.on_done:
            listener(last)
        self.ended.emit(watched.job, last)
        self.jobs_changed.emit()


def _process_host() -> Host:
    from lora_studio.jobs.process import ProcessHost  # only a window that starts children pays for it

    return ProcessHost()
