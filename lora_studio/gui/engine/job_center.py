"""Every long task of the window: started here, drained on one timer, joined before the application returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.events import LastEvent, RunEvent, RunFailed, RunFinished, RunStopped
from lora_studio.core.runs import RunFolder, last_line
from lora_studio.jobs.device_queue import DeviceQueue
from lora_studio.jobs.host import Host
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec
from lora_studio.jobs.thread import ThreadHost

if TYPE_CHECKING:
    from lora_studio.jobs.process import ProcessHost

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

    The hosts share one line in front of the device: a run in a process and a job in a thread wait for each other.

    Signals:
        job_changed: A job's state changed, or it told something; carries the `Job`.
        jobs_changed: A job was added, moved in the line, came to its turn, paused, went on or ended.
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
        self._line = DeviceQueue()
        self._threads: ThreadHost | None = None
        self._processes: ProcessHost | None = None
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
        """Jobs that have, or wait for, the device, in the order of their turns."""
        return tuple(self._line.in_order(job for job in self.jobs if job.spec.device))

    @property
    def queue(self) -> tuple[Job, ...]:
        """Jobs that wait for the device, the next one first."""
        return self._line.queue

    @property
    def live_run(self) -> Job | None:
        """The run that trains, or is the next to; None where no run is under way."""
        return next((job for job in self.device_jobs if job.spec.run_dir is not None), None)

    def run_job(self, path: Path) -> Job | None:
        """Return the job that trains the run in a folder, or is to; None where there is none."""
        wanted = path.resolve()
        return next((job for job in self.device_jobs if job.spec.run_dir is not None and Path(job.spec.run_dir).resolve() == wanted), None)

    def jobs_before(self, job: Job) -> tuple[Job, ...]:
        """Return the jobs that have the device before this one, the next to end first."""
        jobs = self.device_jobs
        return jobs[: jobs.index(job)] if job in jobs else ()

    def start(
        self,
        spec: JobSpec,
        on_event: OnEvent | None = None,
        on_done: OnDone | None = None,
        host: HostName = "thread",
    ) -> Job:
        """Start a task; listeners are called in this thread, events in order, the end last.

        Raises:
            RuntimeError: The center is closed.
        """
        return self._watch(self._host(host).start(spec), on_event, on_done)

    def follow(self, path: Path) -> Job:
        """Follow a run that another process trains, from its last event on; it has the device until it ends.

        Raises:
            InputError: The folder holds no run.
            RuntimeError: The center is closed.
        """
        folder = RunFolder.open(path)
        last = last_line(folder.events_path)
        return self._watch(self._process_host().follow(folder.path, int(last.get("seq", -1)) if last else -1))

    def move(self, job: Job, position: int) -> None:
        """Put a waiting job at a position of the queue, 0 being next."""
        self._line.move(job, position)
        self.jobs_changed.emit()

    def hold_back(self, back: bool = True) -> None:
        """Keep the queue from moving on when the device comes free, or let it move on again."""
        self._line.hold_back(back)

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
        """Drop the queue, stop every job and join its thread or process; after `timeout` seconds they are told to abandon.

        Runs in processes that survive go on.
        """
        self._closed = True
        for job in self.queue:  # first, or the next of one host would start when the job of another has ended
            job.control.stop()
        for host in (self._threads, self._processes):
            if host is not None:
                host.close(timeout)
        self.tick()
        self._timer.stop()

    def _watch(self, job: Job, on_event: OnEvent | None = None, on_done: OnDone | None = None) -> Job:
        watched = _Watched(job)
        self._watched.append(watched)
        self._add_listeners(watched, on_event, on_done)
        self._timer.start()
        self.jobs_changed.emit()
        self.job_changed.emit(job)
        return job

    def _host(self, name: HostName) -> Host:
        if name == "process":
            return self._process_host()
        self._refuse_when_closed()
        if self._threads is None:
            self._threads = ThreadHost(self._line)
        return self._threads

    def _process_host(self) -> ProcessHost:
        self._refuse_when_closed()
        if self._processes is None:
            from lora_studio.jobs.process import ProcessHost  # only a window with runs in processes pays for it

            self._processes = ProcessHost(line=self._line)
        return self._processes

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the job center is closed")

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
