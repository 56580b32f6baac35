"""The one run the window shows: its folder, its frozen config, its curves, and its job while it lives."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from PySide6.QtCore import QObject, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.events import RunEvent, RunFailed, RunFinished, read_events
from lora_studio.core.history import RunHistory
from lora_studio.core.runs import RunFolder
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.jobs.job import Job

ShownState = Literal[
    "none",
    "new",
    "waiting",
    "loading",
    "running",
    "paused",
    "stopping",
    "abandoning",
    "finished",
    "stopped",
    "failed",
    "interrupted",
]
LIVE_STATES: frozenset[ShownState] = frozenset({"waiting", "loading", "running", "paused", "stopping", "abandoning"})

_NOTHING_HEARD = (0, -1)
_WITHIN_TRAINING = frozenset({"training", "evaluating", "sampling", "saving"})  # what a run that has taken a step does between steps


class ShownRun(QObject):
    """Read-only: opening, attaching or ending a run never touches the draft.

    Signals:
        changed: Another run is shown, the run's state changed, or it has its first checkpoint.
        updated: New events came; at most once per tick of the job center.
    """

    changed = Signal()
    updated = Signal()

    def __init__(self, jobs: JobCenter, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("run_view")
        self._jobs = jobs
        self._heard = False
        self._told: tuple[ShownState, bool] = ("none", False)
        self._clear()
        jobs.ticked.connect(self._on_tick)
        jobs.job_changed.connect(self._on_job_changed)

    @property
    def folder(self) -> RunFolder | None:
        """The run's folder; None while no run is shown."""
        return self._folder

    @property
    def path(self) -> Path | None:
        """The folder's path; None while no run is shown."""
        return self._folder.path if self._folder else None

    @property
    def config(self) -> RunConfig | None:
        """The run's own frozen config, never the draft's."""
        return self._config

    @property
    def history(self) -> RunHistory:
        """The curves, phase, samples and log."""
        return self._history

    @property
    def job(self) -> Job | None:
        """The job that trains it; None once it has ended, and for a run opened from disk."""
        return self._job

    @property
    def name(self) -> str:
        """The folder's name, such as 20261123-180205-support-triage."""
        return self._folder.path.name if self._folder else ""

    @property
    def is_live(self) -> bool:
        """Whether the run has a job that has not ended."""
        return self._job is not None

    @property
    def state(self) -> ShownState:
        """What the run is doing or how it ended."""
        if self._folder is None:
            return "none"
        return self._state_on_disk() if self._job is None else self._state_of_job(self._job)

    @property
    def failure(self) -> RunFailed | None:
        """Why the run failed, where it did."""
        last = self._history.last_event
        return last if isinstance(last, RunFailed) else None

    @property
    def is_pause_asked(self) -> bool:
        """Whether the run is paused, or will be after this micro-batch."""
        return self._job is not None and (self._job.control.paused or self.state == "paused")

    @property
    def has_weights(self) -> bool:
        """Whether there is an adapter or a checkpoint to export."""
        if self._folder is None:
            return False
        return bool(self._history.checkpoints) or (self._folder.adapter_path / "adapter_config.json").is_file()

    @property
    def jobs_before(self) -> list[str]:
        """Titles of the jobs that have the device before this run."""
        return [job.spec.title for job in self._jobs.jobs_before(self._job)] if self._job is not None else []

    @property
    def in_own_process(self) -> bool:
        """Whether the run lives, or is to live, in a process of its own, which outlives the window."""
        return self._job is not None and self._job.spec.survives

    @property
    def pid(self) -> int | None:
        """The process the run lives in, where that is another than the window's."""
        return self._job.pid if self._job is not None else None

    @property
    def can_resume(self) -> bool:
        """Whether the run ended early, or never began, and can go on."""
        return self.state in ("new", "stopped", "failed", "interrupted")

    @property
    def seconds_to_stop(self) -> float | None:
        """How long a stop may take: the rest of a micro-batch, and a checkpoint; None before the first step."""
        left, steps = self._history.seconds_left, self._history.total_steps - self._history.step
        if left is None or steps <= 0 or self._config is None:
            return None
        saving = self._history.checkpoints[-1].seconds if self._history.checkpoints else 0.0
        return left / steps / self._config.training.gradient_accumulation_steps + saving

    def open(self, path: Path) -> None:
        """Show the run in a folder: its config, a replay of its events, and its job; one that another process trains is followed.

        Raises:
            InputError: The folder holds no run.
        """
        live = self._jobs.run_job(path)
        if live is None and RunFolder.open(path).state == "running":
            live = self._jobs.follow(path)
        self._show(path, live)

    def attach(self, job: Job, path: Path) -> None:
        """Show a run that a job trains; what is written already is replayed first, and heard once.

        Raises:
            InputError: The folder holds no run.
        """
        self._show(path, job)

    def close(self) -> None:
        """Show no run; a live one goes on, unseen."""
        self._clear()
        self._told = ("none", False)
        self.changed.emit()
        self.updated.emit()

    def _show(self, path: Path, job: Job | None) -> None:
        folder = RunFolder.open(path)
        config = folder.config
        self._clear()
        self._folder, self._config, self._job = folder, config, job
        self._replay(folder)
        if job is not None:
            self._jobs.listen(job, on_event=lambda event: self._hear(job, event), on_done=lambda _last: self._on_done(job))
        self._told = self._to_tell
        self.changed.emit()
        self.updated.emit()

    def _clear(self) -> None:
        self._folder: RunFolder | None = None
        self._config: RunConfig | None = None
        self._job: Job | None = None
        self._history = RunHistory()
        self._newest = _NOTHING_HEARD

    def _replay(self, folder: RunFolder) -> None:
        if folder.events_path.is_file():
            with folder.events_path.open("rb") as file:
                for event in read_events(file):
                    self._take(event)

    def _hear(self, job: Job, event: RunEvent) -> None:
        """Take an event of the shown run's job; one that the replay had already is not taken twice."""
        if job is self._job and (event.attempt, event.seq) > self._newest:
            self._take(event)
            self._heard = True

    def _take(self, event: RunEvent) -> None:
        self._newest = (event.attempt, event.seq)
        self._history.add(event)

    def _on_tick(self) -> None:
        if self._heard:
            self._heard = False
            self._tell_state()
            self.updated.emit()

    def _on_job_changed(self, job: Job) -> None:
        if job is self._job:
            self._tell_state()

    def _on_done(self, job: Job) -> None:
        if job is self._job:
            self._job = None
            self._tell_state()

    def _tell_state(self) -> None:
        reported = self._to_tell
        if reported != self._told:
            self._told = reported
            self.changed.emit()

    @property
    def _to_tell(self) -> tuple[ShownState, bool]:
        return self.state, bool(self._history.checkpoints)

    def _state_of_job(self, job: Job) -> ShownState:
        if job.control.abandoning:
            return "abandoning"
        if job.control.stopping:
            return "stopping"
        if job.state == "queued":
            return "waiting"
        if self._history.state == "paused":
            return "paused"
        phase = self._history.phase
        return "running" if self._history.step and (phase is None or phase.name in _WITHIN_TRAINING) else "loading"

    def _state_on_disk(self) -> ShownState:
        last = self._history.last_event
        if last is None:
            return "new" if self._newest == _NOTHING_HEARD else "interrupted"
        if isinstance(last, RunFinished):
            return "finished"
        return "failed" if isinstance(last, RunFailed) else "stopped"
