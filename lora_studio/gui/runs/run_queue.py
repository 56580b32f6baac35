"""The jobs that wait for the device: what each is, what it waits for, moving one, taking one out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import StudioError
from lora_studio.core.runs import RunFolder
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.jobs.job import Job


@dataclass(frozen=True)
class QueueEntry:
    """One job that waits.

    Attributes:
        job: The job.
        config: The run's frozen config; None for a job that is no run, such as a merge.
        waits_for: Titles of the jobs that must end just before it starts.
    """

    job: Job
    config: RunConfig | None
    waits_for: str


class RunQueue(QObject):
    """The queue as a person sees it.

    Signals:
        changed: The entries, or what they wait for, are others.
        began: A run's turn came after it had waited; carries its folder's path and its title.
        removed: A run that never began was taken out, its folder deleted; carries its config and where it was to live.
    """

    changed = Signal()
    began = Signal(object, str)
    removed = Signal(object, str)

    def __init__(self, jobs: JobCenter, starter: RunControl, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("run_queue")
        self._jobs = jobs
        self._starter = starter
        self._configs: dict[str, RunConfig | None] = {}
        self._waiting: tuple[Job, ...] = ()
        self._entries: list[QueueEntry] = []
        jobs.jobs_changed.connect(self._on_jobs_changed)

    @property
    def entries(self) -> Sequence[QueueEntry]:
        """The jobs that wait, the next one first."""
        return self._entries

    @property
    def run_folders(self) -> tuple[str, ...]:
        """Folders of the runs that wait, the next one first."""
        return tuple(entry.job.spec.run_dir for entry in self._entries if entry.job.spec.run_dir is not None)

    def move(self, job: Job, by: int) -> None:
        """Move a job by so many places, down being positive; at the ends it stays."""
        jobs = [entry.job for entry in self._entries]
        if job in jobs:
            self._jobs.move(job, min(max(jobs.index(job) + by, 0), len(jobs) - 1))

    def remove(self, job: Job) -> None:
        """Take a job out of the queue. The folder of a run that never began goes with it; whatever was trained stays.

        Raises:
            StudioError: The run's folder cannot be deleted.
        """
        if job not in self._jobs.queue:  # its turn has come meanwhile: stopping it is another wish
            return
        job.control.stop()
        if job.spec.run_dir is None:
            return
        folder = RunFolder(Path(job.spec.run_dir))
        if folder.state == "new":
            config = folder.config
            folder.delete()
            self.removed.emit(config, "process" if job.spec.survives else "thread")

    def can_start(self, folder: str) -> bool:
        """Return whether a run that waited is there still, and has not begun."""
        path = Path(folder)
        return (path / "run.yaml").is_file() and RunFolder(path).state == "new" and self._jobs.run_job(path) is None

    def start_again(self, folders: Sequence[str]) -> None:
        """Start runs that waited when a window was closed, one after the other.

        Raises:
            StudioError: A run's config cannot be read.
        """
        for folder in filter(self.can_start, folders):
            self._starter.resume_run(Path(folder))

    def _on_jobs_changed(self) -> None:
        before, self._waiting = self._waiting, self._jobs.queue
        entries = self._look()
        if entries != self._entries:
            self._entries = entries
            self.changed.emit()
        for job in before:
            if job not in self._waiting and job.began and job.spec.run_dir is not None:
                self.began.emit(Path(job.spec.run_dir), job.spec.title)

    def _look(self) -> list[QueueEntry]:
        queue = self._waiting
        self._configs = {job.id: self._configs[job.id] if job.id in self._configs else _config_of(job) for job in queue}
        return [QueueEntry(job, self._configs[job.id], self._waits_for(job)) for job in queue]

    def _waits_for(self, job: Job) -> str:
        """Name what must end first: the job ahead in the queue, or, for the next one, whatever has the device."""
        position = self._waiting.index(job)
        if position:
            return self._waiting[position - 1].spec.title
        ahead = [other for other in self._jobs.jobs_before(job) if other not in self._waiting]
        text = [tr("{title}, which is paused", title=other.spec.title) if other.state == "paused" else other.spec.title for other in ahead]
        return ", ".join(text)


def _config_of(job: Job) -> RunConfig | None:
    try:
        return RunFolder.open(Path(job.spec.run_dir)).config if job.spec.run_dir is not None else None
    except StudioError:
        return None
