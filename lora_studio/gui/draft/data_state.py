"""What is known of the draft's data: its rows and faults at once, its tokens as soon as the tokenizer is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError
from lora_studio.core.events import LastEvent, Phase, RunEvent, RunFailed, RunFinished
from lora_studio.core.settings import DataSettings
from lora_studio.data.bad_rows import with_refused
from lora_studio.data.check import DataCheck, check_files
from lora_studio.data.readers.files import quick_bytes
from lora_studio.data.tasks import CHECK_TASK
from lora_studio.gui.engine.latest_job import LatestJob
from lora_studio.gui.platform.text import tr
from lora_studio.jobs.spec import JobSpec

if TYPE_CHECKING:
    from lora_studio.gui.draft.draft_store import DraftStore
    from lora_studio.gui.draft.model_state import ModelState
    from lora_studio.gui.engine.job_center import JobCenter

REPORT_TASK = "lora_studio.data.tasks:report"
_READ_HERE_BYTES = 1_000_000  # smaller files are read within a few milliseconds
_REPORT_AFTER_MS = 400


class DataState(QObject):
    """Checks the data files of the draft anew whenever the draft's data settings change.

    Attributes:
        check: Rows, format and faults; None until read, or where the files cannot be.
        report: `data --json` of the draft: token counts and what is trained; None until the tokenizer has seen the rows.
        error: Why the files cannot be used; empty when they can.
        hint: The way out of the error.
        field: The setting at fault.
        reading: Whether a check is under way.
        progress: Bytes read and bytes in all of the check under way; 0 in all while that is not known.
        stopped: Whether a person stopped the reading: nothing is known then, until `look`.

    Signals:
        changed: Anything but the progress is another.
        progressed: `progress` is another.
    """

    changed = Signal()
    progressed = Signal()

    def __init__(self, draft: DraftStore, model: ModelState, jobs: JobCenter) -> None:
        super().__init__(draft)
        self._draft = draft
        self._model = model
        self.check: DataCheck | None = None
        self.report: dict[str, Any] | None = None
        self.error = self.hint = self.field = ""
        self.progress: tuple[float, float] = (0, 0)
        self.stopped = False
        self._check_job = LatestJob(jobs)
        self._report_job = LatestJob(jobs)
        self._reported: object = None
        self._timer = QTimer(self, singleShot=True, interval=0)
        self._timer.timeout.connect(self.look)
        self._report_timer = QTimer(self, singleShot=True, interval=_REPORT_AFTER_MS)
        self._report_timer.timeout.connect(self._ask_for_report)
        self._timer.start()
        draft.config_changed.connect(self._on_config)
        model.changed.connect(self._report_timer.start)

    @property
    def reading(self) -> bool:
        """Whether the rows are being read."""
        return self.checking or self._timer.isActive()

    @property
    def checking(self) -> bool:
        """Whether a job reads the rows, which can be cancelled."""
        return self._check_job.job is not None

    @property
    def judged(self) -> DataCheck | None:
        """The check with what the chat template refuses among the bad rows, as far as that is known."""
        return with_refused(self.check, self.report) if self.check else None

    def cancel(self) -> None:
        """Stop reading the rows; `look` begins anew."""
        if self.checking:
            self._check_job.drop()
            self.stopped = True
            self.changed.emit()

    def look(self) -> None:
        """Check the draft's files now; large ones in a job."""
        self._timer.stop()
        self._check_job.drop()
        self._report_job.drop()
        self.stopped = False
        self.check = self.report = self._reported = None  # a report of other rows would tell of their lengths
        self.error = self.hint = self.field = ""
        settings = self._draft.config.data
        size = quick_bytes(settings)
        if size is None or size > _READ_HERE_BYTES:
            self._start_check(settings)
        else:
            try:
                self.check = check_files(settings)
            except InputError as error:
                self._fail(error.message, error.hint, error.field)
        self.changed.emit()
        self._report_timer.start()

    def _on_config(self, before: RunConfig, after: RunConfig) -> None:
        files = ("train", "eval", "format", "columns", "encoding")
        if any(getattr(before.data, name) != getattr(after.data, name) for name in files):
            self._timer.start()
        elif before.data != after.data:
            self.changed.emit()
            self._report_timer.start()

    def _start_check(self, settings: DataSettings) -> None:
        self.progress = (0, 0)
        spec = JobSpec(CHECK_TASK, {"settings": settings.model_dump(mode="json")}, title=tr("Check the data"))
        self._check_job.start(spec, self._on_checked, self._on_progress)

    def _on_progress(self, event: RunEvent) -> None:
        if isinstance(event, Phase) and event.total:
            self.progress = (event.done or 0, event.total)
            self.progressed.emit()

    def _on_checked(self, last: LastEvent) -> None:
        if isinstance(last, RunFinished):
            self.check = DataCheck.from_json(last.result)
        elif isinstance(last, RunFailed):
            self._fail(last.message, last.hint, last.field)
        else:
            self.stopped = True
        self.changed.emit()
        self._report_timer.start()

    def _ask_for_report(self) -> None:
        """Count tokens as soon as there are sound rows and a model whose tokenizer can be loaded."""
        config, model = self._draft.config, self._model
        wanted = (config.data, config.model.name_or_path, config.model.revision, config.training.seed)
        if not model.engine or not (model.source and model.source.ready) or not (self.check and self.check.rows):
            return
        if wanted == self._reported:
            return
        self._reported = wanted
        arguments = {"config": config.model_dump(mode="json"), "model_folder": str(model.source.path)}
        spec = JobSpec(REPORT_TASK, arguments, title=tr("Count the tokens"))
        self._report_job.start(spec, self._on_report)

    def _on_report(self, last: LastEvent) -> None:
        self.report = last.result if isinstance(last, RunFinished) else None
        if isinstance(last, RunFinished):
            self.error = self.hint = self.field = ""  # an earlier report's; without a check there is no report
        if isinstance(last, RunFailed):
            self._fail(last.message, last.hint, last.field or "data.train")
        self.changed.emit()

    def _fail(self, message: str, hint: str, field: str) -> None:
        self.error, self.hint, self.field = message, hint, field or "data.train"
