"""Start, pause, continue, stop and resume: the draft becomes a run here, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import StudioError
from lora_studio.core.paths import studio_paths
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from lora_studio.gui.engine.job_center import HostName, JobCenter
from lora_studio.gui.platform.formatting import format_seconds
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

TRAIN_TASK = "lora_studio.train.engine:train"


@dataclass(frozen=True)
class StartState:
    """What the Start button reads, whether it may be pressed, and why or what will happen."""

    text: str
    tooltip: str
    enabled: bool


def host_of(config: RunConfig, wanted: HostName) -> HostName:
    """Return where a run lives: one of several processes is never in this one, whatever is wanted."""
    return "process" if config.training.num_processes > 1 else wanted


class RunControl(QObject):
    """Freezes the draft into a run and passes a person's wishes to the run that is shown.

    Signals:
        changed: `start_state` or `stop_text` may read otherwise now.
        run_added: A run was started or put behind the one that trains; carries its folder's path.
    """

    changed = Signal()
    run_added = Signal(object)

    def __init__(self, workspace: Workspace, jobs: JobCenter, run_view: ShownRun, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("run_starter")
        self._workspace = workspace
        self._jobs = jobs
        self._run_view = run_view
        self._host: HostName = "thread"
        workspace.readiness.changed.connect(self.changed)
        jobs.jobs_changed.connect(self.changed)
        run_view.changed.connect(self.changed)

    @property
    def store(self) -> RunStore:
        """The runs on this machine."""
        return RunStore(studio_paths().runs)

    @property
    def host(self) -> HostName:
        """Where runs are started: in this window, or each in a process of its own, which outlives the window."""
        return self._host

    def set_host(self, host: HostName) -> None:
        """Start runs there from now on; those under way stay where they are."""
        if host != self._host:
            self._host = host
            self.changed.emit()

    @property
    def start_state(self) -> StartState:
        """What Start offers now."""
        blocking = [item for item in self._workspace.readiness.items if not item.ok]
        live = self._jobs.live_run
        text = tr("Start") if live is None else tr("Add to queue")
        if blocking:
            return StartState(text, "\n".join(f"{item.name}: {item.message}" for item in blocking), enabled=False)
        where = (
            tr("It trains in this window.")
            if host_of(self._workspace.draft.config, self._host) == "thread"
            else tr("It trains in a process of its own, which goes on when this window closes.")
        )
        deed = (
            tr("Freeze this draft as a run and train it.")
            if live is None
            else tr("Freeze this draft as a run; it trains when {title} has ended.", title=live.spec.title)
        )
        return StartState(text, f"{deed} {where}", enabled=True)

    def start_run(self) -> Path:
        """Freeze the draft as a run and train it, after the runs that are there already; give its folder.

        Raises:
            InputError: The runs folder cannot be written.
        """
        return self.start_new(self._workspace.draft.config, self._host)

    def start_new(self, config: RunConfig, host: HostName) -> Path:
        """Make a run of a config and train it, after the runs that are there already; give its folder.

        Raises:
            InputError: The runs folder cannot be written.
        """
        folder = self.store.create(config)
        self._train(config, folder.path, host, resume=False)
        return folder.path

    def resume_run(self, path: Path, host: HostName | None = None) -> Job:
        """Go on with a run from its newest sound checkpoint, with its own config; from the start where it has none.

        Args:
            path: The run's folder.
            host: Where it is to live; None for where runs are started now.

        Raises:
            InputError: The folder holds no run.
            StudioError: The run is alive, or in the queue already.
        """
        folder = RunFolder.open(path)
        self._refuse_living(folder)
        return self._train(folder.config, folder.path, host or self._host, resume=bool(folder.checkpoints) or folder.adapter_path.exists())

    def follow_living(self) -> list[Path]:
        """Follow the runs that are alive in other processes; give the folders of all that live, the newest first."""
        matches = [run.path for run in self.store.list() if run.state == "running"]
        for path in matches:
            if self._jobs.run_job(path) is None:
                self._jobs.follow(path)
        return matches

    def pause(self) -> None:
        """Ask the shown run to wait before its next micro-batch."""
        self._ask("pause")

    def go_on(self) -> None:
        """Let the shown run go on."""
        self._ask("resume")

    def stop(self) -> None:
        """Ask the shown run to end and save; asked again, to abandon the step under way."""
        self._ask("stop")

    def checkpoint_now(self) -> None:
        """Ask the shown run for a checkpoint after the step under way."""
        self._ask("checkpoint_now")

    def sample_now(self) -> None:
        """Ask the shown run to answer its held-out prompts after the step under way."""
        self._ask("sample_now")

    @property
    def stop_text(self) -> str:
        """How long stopping takes, as a sentence's end; a second press's meaning once it is asked."""
        state = self._run_view.state
        if state == "abandoning":
            return tr("abandoning this step; the last checkpoint is kept")
        if state != "stopping":
            return ""
        seconds = self._run_view.seconds_to_stop
        about = tr(", about {time}", time=format_seconds(max(1.0, seconds))) if seconds is not None else ""
        return tr("stopping after this micro-batch{about}", about=about)

    def _refuse_living(self, folder: RunFolder) -> None:
        """Raise `StudioError` where somebody trains the run, or is to: there is never a second writer."""
        job = self._jobs.run_job(folder.path)
        if job is not None and job.state == "queued":
            raise StudioError(f"{folder.name} is in the queue already.", "It starts when its turn comes.")
        if job is not None:
            raise StudioError(f"{folder.name} is under way already.", "Stop it first, or let it go on.")
        if folder.state == "running":
            raise StudioError(f"Another program trains {folder.name}.", "Open the run to follow it, or stop it there.")

    def _train(self, config: RunConfig, path: Path, host: HostName, *, resume: bool) -> Job:
        host = host_of(config, host)
        arguments: dict[str, object] = {"run_dir": str(path)}
        if resume:
            arguments["resume"] = True
        spec = JobSpec(TRAIN_TASK, arguments, title=config.name, device=True, run_dir=str(path), survives=host == "process")
        alone = self._jobs.live_run is None
        job = self._jobs.start(spec, host=host)
        if alone or self._run_view.path == path:
            self._run_view.attach(job, path)
        self.run_added.emit(path)
        return job

    def _ask(self, wish: str) -> None:
        job: Job | None = self._run_view.job
        if job is not None:
            getattr(job.control, wish)()
            self._jobs.job_changed.emit(job)
            self.changed.emit()
