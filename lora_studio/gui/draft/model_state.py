"""What is known of the draft's base model: where it is, its facts, its modules, and the job that makes it ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError
from lora_studio.core.events import LastEvent, Phase, RunEvent, RunFailed
from lora_studio.gui.draft.carry_targets import TargetCarrier
from lora_studio.gui.engine.latest_job import LatestJob
from lora_studio.gui.platform.text import tr
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.facts import read_facts
from lora_studio.models.sources import find_model
from lora_studio.models.tree_cache import cached_tree, starter_tree

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleTree
    from lora_studio.gui.draft.draft_store import DraftStore
    from lora_studio.gui.engine.job_center import JobCenter
    from lora_studio.jobs.job import Job
    from lora_studio.models.facts import ModelFacts
    from lora_studio.models.sources import ModelSource

PREPARE_TASK = "lora_studio.models.prepare:prepare"
INSPECT_TASK = "lora_studio.models.inspect:inspect"


class ModelState(QObject):
    """Reads the base model of the draft anew whenever the draft names another.

    Finding it and reading its facts touch a few small files and no torch. What needs the engine (an unseen module tree,
    the conversion of a GGUF file) starts by itself once `begin` was called; a download only when a person asks.

    Attributes:
        source: Where the model is; None where there is none.
        facts: What its files say; None without any.
        tree: Its modules; None until they are known.
        error: Why there is no usable model; empty when there is.
        hint: The way out of the error.
        phase: How far that job is.
    """

    changed = Signal()
    progressed = Signal()

    def __init__(self, draft: DraftStore, jobs: JobCenter) -> None:
        super().__init__(draft)
        self._draft = draft
        self._targets = TargetCarrier(draft)
        self._automatic = False
        self._failed = ""  # the model whose job failed or was cancelled: it is not tried again by itself
        self.source: ModelSource | None = None
        self.facts: ModelFacts | None = None
        self.tree: ModuleTree | None = None
        self.error = self.hint = ""
        self._latest = LatestJob(jobs)
        self.phase: Phase | None = None
        self._timer = QTimer(self, singleShot=True, interval=0)
        self._timer.timeout.connect(self.look)
        self._timer.start()
        draft.config_changed.connect(self._on_config)

    @property
    def job(self) -> Job | None:
        """The job that makes the model or its tree ready; None when none runs."""
        return self._latest.job

    @property
    def engine(self) -> bool:
        """Whether jobs that need the engine start by themselves."""
        return self._automatic

    @property
    def needs(self) -> str:
        """What `prepare` has to do: "convert", "download", or nothing."""
        return self.source.needs if self.source and self.source.needs in ("convert", "download") else ""

    def begin(self) -> None:
        """Let jobs that need the engine start by themselves from now on."""
        self._automatic = True
        self._timer.start()

    def choose(self, name_or_path: str, revision: str | None = None) -> dict[str, str]:
        """Make another base model the draft's: targets that still match stay, the others are told; one undo step.

        Returns:
            What is wrong by field, as `DraftStore.edit` does.
        """
        return self._targets.choose(name_or_path, revision, self.tree)

    def look(self) -> None:
        """Read the draft's model now."""
        self._timer.stop()
        self.error = self.hint = ""
        self.source = self.facts = self.tree = None
        settings = self._draft.config.model
        try:
            self.source = find_model(settings.name_or_path, settings.revision)
            at = self.source.path or self.source.file
            self.facts = read_facts(at) if at else None
            self.tree = cached_tree(self.source.path) or (starter_tree() if self.source.kind == "starter" else None)
            if self.source.needs == "weights":
                self._fail(tr("There are no weights in {path}.", path=str(self.source.path)), tr("Download or copy the model again."))
        except InputError as error:
            self._fail(error.message, error.hint)
        except OSError as error:
            self._fail(tr("The model cannot be read: {reason}.", reason=str(error.strerror)), tr("Check the folder's permissions."))
        if self._automatic:
            self._start_what_is_missing()
        self.changed.emit()
        if self.tree is not None:
            self._targets.fit(self.tree)

    def prepare(self) -> None:
        """Convert or download the model, with progress; nothing where it is being made ready already."""
        if self.job is None:
            title = tr("Download {name}") if self.needs == "download" else tr("Convert {name}")
            self._start(PREPARE_TASK, title.format(name=self._draft.config.model.name_or_path))

    def cancel(self) -> None:
        """Ask the job under way to stop."""
        self._latest.stop()

    def _on_config(self, before: RunConfig, after: RunConfig) -> None:
        named = (before.model.name_or_path, before.model.revision)
        if named != (after.model.name_or_path, after.model.revision):
            self._failed = ""
            self._latest.drop()
            self.phase = None
            self._timer.start()

    def _start_what_is_missing(self) -> None:
        source = self.source
        if source is None or self.job is not None or self._failed == source.name:
            return
        if source.needs == "convert":
            self.prepare()
        elif self.tree is None and source.path is not None and (not self.error or source.needs == "weights"):
            self._start(INSPECT_TASK, tr("Read the modules of {name}", name=source.name))

    def _start(self, task: str, title: str) -> None:
        settings = self._draft.config.model
        arguments = {"name_or_path": settings.name_or_path, "revision": settings.revision}
        self.phase = None
        self._latest.start(JobSpec(task, arguments, title=title), self._on_done, self._on_event)
        self.changed.emit()

    def _on_event(self, event: RunEvent) -> None:
        if isinstance(event, Phase):
            self.phase = event
            self.progressed.emit()

    def _on_done(self, last: LastEvent) -> None:
        self.phase = None
        if last.event != "run_finished":
            self._failed = self.source.name if self.source else ""
        self.look()
        if isinstance(last, RunFailed):
            self._fail(last.message, last.hint)
            self.changed.emit()

    def _fail(self, message: str, hint: str) -> None:
        self.error, self.hint = message, hint
