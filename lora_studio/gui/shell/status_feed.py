"""What the status bar and the window's title say, kept up with the engine, the device, the jobs and the run."""

from __future__ import annotations

from PySide6.QtCore import QObject

from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.engine.engine_loader import EngineLoader
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.train_page.run_bar import place_text
from lora_studio.jobs.job import Job

_GB = 1e9


class StatusFeed(QObject):
    """Feeds the status bar and the title."""

    def __init__(self, window: MainWindow, workspace: Workspace, jobs: JobCenter, run_view: ShownRun, engine: EngineLoader) -> None:
        super().__init__(window)
        self._window = window
        self._workspace = workspace
        self._jobs = jobs
        self._run_view = run_view
        self._engine = engine
        engine.changed.connect(self._show_engine)
        jobs.jobs_changed.connect(self._show_jobs)
        run_view.changed.connect(self._show_run)
        run_view.updated.connect(self._show_run)
        workspace.draft.config_changed.connect(self._show_title)
        workspace.plan.changed.connect(self._show_device)
        self._show_engine()
        self._show_jobs()
        self._show_run()

    def _show_run(self) -> None:
        self._show_engine()
        self._show_device()
        self._show_title()

    def _show_engine(self) -> None:
        status = self._window.status
        live = self._jobs.live_run
        if live is not None and live.state != "queued":
            paused = live.state == "paused" or (live is self._run_view.job and self._run_view.state == "paused")
            status.set_engine(_where_it_trains(live, paused), "warning" if paused else "good")
        elif self._engine.ready:
            status.set_engine(tr("Ready"), "good")
        else:
            status.set_engine(self._engine.text or tr("engine not loaded yet"))
        status.set_versions(self._engine.text if self._engine.ready else "")

    def _show_device(self) -> None:
        started, history = self._run_view.history.started, self._run_view.history
        plan = self._workspace.plan.plan
        live = self._run_view.is_live and started is not None
        parts = [started.device if live and started is not None else str(plan.memory.device) if plan is not None else ""]
        if history.device_total and self._run_view.is_live:
            parts.append(f"{history.device_total / _GB:.0f} GB")
        elif plan is not None:
            parts.append(f"{plan.memory.capacity_bytes / _GB:.0f} GB")
        if self._run_view.is_live:
            busy = history.memory.get("device_utilization")
            parts += [f"{busy.last:.0f} %"] if busy is not None and busy.last is not None else []
        self._window.status.set_device(" · ".join(part for part in parts if part))

    def _show_jobs(self) -> None:
        self._show_engine()
        queued = sum(job.state == "queued" for job in self._jobs.jobs)
        self._window.status.set_jobs(len(self._jobs.jobs) - queued, queued)

    def _show_title(self) -> None:
        history = self._run_view.history
        name = f"{self._workspace.draft.config.name} · LoRA Studio"
        if self._run_view.is_live and history.total_steps:
            name = f"{history.step / history.total_steps:.0%} · {name}"
        if name != self._window.windowTitle():
            self._window.setWindowTitle(name)


def _where_it_trains(job: Job, paused: bool) -> str:
    if not job.spec.survives:
        return tr("Paused in a background thread") if paused else tr("Training in a background thread")
    where = place_text(job.pid)
    return tr("Paused in {place}", place=where) if paused else tr("Training in {place}", place=where)
