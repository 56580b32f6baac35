"""Handing a run over: out of the window's thread into a process of its own, from the checkpoint in between."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal

from lora_studio.core.errors import StudioError
from lora_studio.core.events import LastEvent, RunEvent, RunFailed, RunFinished
from lora_studio.gui.engine.job_center import HostName, JobCenter
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.jobs.job import Job


class HandOver(QObject):
    """One hand-over: the run stops after its micro-batch with its work saved, and a child goes on from there.

    The queue waits meanwhile, and the run goes before it.

    Signals:
        done: The run goes on in a process that has its lock and has told something; or it ended before it could be stopped.
        failed: The run is not under way any more, or is in the window again; carries why, empty where that was asked for.
    """

    done = Signal()
    failed = Signal(str)

    def __init__(self, jobs: JobCenter, starter: RunControl, job: Job, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("hand_over")
        self._jobs = jobs
        self._starter = starter
        self._job = job
        self._was_paused = job.control.paused
        self._back = False
        self._over = False

    def begin(self) -> None:
        """Ask the run to stop; the rest follows by itself."""
        self._jobs.hold_back()
        self._jobs.listen(self._job, on_done=self._on_stopped)
        self._job.control.stop()

    def take_back(self) -> None:
        """Let the run stay here after all: stopped already, it goes on in the window; in its process already, it stays there."""
        self._back = True

    def _on_stopped(self, last: LastEvent) -> None:
        if isinstance(last, RunFinished):
            self._end("")
        elif isinstance(last, RunFailed):
            self._end(last.message, failed=True)
        else:
            self._go_on("thread" if self._back else "process")

    def _go_on(self, host: HostName) -> None:
        try:
            job = self._starter.resume_run(Path(str(self._job.spec.run_dir)), host)
        except (StudioError, OSError) as error:
            self._end(str(error), failed=True)
            return
        self._jobs.move(job, 0)
        if self._was_paused:
            job.control.pause()
        if host == "thread":
            self._end("", failed=True)
            return
        self._jobs.hold_back(False)
        self._jobs.listen(job, self._on_first_event, self._on_child_ended)

    def _on_first_event(self, event: RunEvent) -> None:
        if not isinstance(event, RunFailed):
            self._end("")

    def _on_child_ended(self, last: LastEvent) -> None:
        self._end(last.message if isinstance(last, RunFailed) else "", failed=isinstance(last, RunFailed))

    def _end(self, why: str, failed: bool = False) -> None:
        if self._over:
            return
        self._over = True
        self._jobs.hold_back(False)
        if failed:
            self.failed.emit(why)
        else:
            self.done.emit()
        self.deleteLater()
