"""Export… and Merge…: a form, progress, then the certificate. It blocks nothing and names its own adapter."""

from __future__ import annotations

import time

from PySide6.QtCore import QSize, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QDialog, QSizePolicy, QStackedWidget, QVBoxLayout, QWidget

from lora_studio.core.events import LastEvent, Phase, RunEvent, RunFailed, RunFinished
from lora_studio.export.export_format import ExportFormat
from lora_studio.export.formats import remember
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.export.form import FormPage
from lora_studio.gui.export.parts import button, to_the_right
from lora_studio.gui.export.result import ResultPage
from lora_studio.gui.export.subject import ExportSubject
from lora_studio.gui.export.text import ExportSource
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import ElidedLabel, ProgressLine, label
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec

_MARGINS = 28
EXPORT_TASK = "lora_studio.export.task:export"
FETCH_TASK = "lora_studio.export.gguf.llama_cpp:fetch_converter"


class ExportDialog(QDialog):
    """Exports one adapter in one of four forms.

    Closed while it works, the export goes on; its end is told as a notification.

    Args:
        form: What is chosen at first.
        subject: What is exported.
        jobs: Where the export is started.
        asker: Asks for the destination.
        parent: The window.
    """

    def __init__(
        self, form: ExportFormat, subject: ExportSubject, jobs: JobCenter, asker: FileDialogs, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("merge_dialog" if form == "merged" else "export_dialog")
        self.setWindowTitle(tr("Merge {run}", run=subject.name) if form == "merged" else tr("Export {run}", run=subject.name))
        self.subject = subject
        self._jobs = jobs
        self._job: Job | None = None
        self._began = 0.0
        self.form = FormPage(subject, form, asker)
        self.ended = ResultPage(subject, asker)
        self._build()
        self._connect()

    @property
    def job(self) -> Job | None:
        """The export under way."""
        return self._job

    @property
    def source(self) -> ExportSource:
        """What is exported."""
        return self.form.source

    def sizeHint(self) -> QSize:
        """Wide enough for a path."""
        return QSize(600, super().sizeHint().height())

    def showEvent(self, event: QShowEvent) -> None:
        """Fit to the page, now that fonts and styles are known."""
        super().showEvent(event)
        QTimer.singleShot(0, self, lambda: self._turn_to(self._pages.currentWidget() or self.form))

    def begin(self) -> None:
        """Start the export, unless its destination is none, or something stands there that may not be replaced."""
        if not self.form.may_begin():
            return
        if self.form.needs_converter:
            self._start(JobSpec(FETCH_TASK, {}, title=tr("Fetch llama.cpp's converter")), fetches=True)
        else:
            self._start(JobSpec(EXPORT_TASK, self.form.arguments, title=self.windowTitle(), device=True))

    def cancel(self) -> None:
        """Stop the export; nothing half-written is left."""
        if self._job is not None:
            self._cancel.setEnabled(False)
            self._phase.setText(tr("cancelling…"))
            self._job.control.stop()

    def _start(self, spec: JobSpec, *, fetches: bool = False) -> None:
        self._turn_to(self._progress_page)
        self._cancel.setEnabled(True)
        before = [job.spec.title for job in self._jobs.device_jobs] if spec.device else []
        self._phase.setText(tr("waits for {titles}", titles=", ".join(before)) if before else tr("starting…"))
        self._progress.set_fraction(None)
        self._began = time.monotonic()
        self._job = self._jobs.start(spec, on_event=self._on_event, on_done=self._on_fetched if fetches else self._on_done)

    def _build(self) -> None:
        self._pages = QStackedWidget()
        self._pages.setObjectName("export_pages")
        self._progress_page = self._build_progress()
        for page in (self.form, self._progress_page, self.ended):
            self._pages.addWidget(page)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 14, 16, 14)
        layout.addWidget(self._pages)
        self.resize(self.sizeHint().width(), self.height())
        self._turn_to(self.form)

    def _build_progress(self) -> QWidget:
        page = QWidget()
        page.setObjectName("export_progress_page")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        self._phase = ElidedLabel("", "", "export_phase")
        self._progress = ProgressLine("export_progress")
        self._cancel = button(tr("Cancel"), "cancel_export_button")
        layout.addWidget(label(self.windowTitle(), "title", "export_title", wrap=True))
        layout.addWidget(self._phase)
        layout.addWidget(self._progress)
        layout.addStretch(1)
        layout.addWidget(to_the_right(self._cancel))
        return page

    def _connect(self) -> None:
        self.form.begin_asked.connect(self.begin)
        self.form.dismissed.connect(self.reject)
        self.form.resized.connect(lambda: self._turn_to(self._pages.currentWidget() or self.form))
        self._cancel.clicked.connect(self.cancel)
        self.ended.back_asked.connect(lambda: self._turn_to(self.form))
        self.ended.float32_asked.connect(self._on_float32)
        self.ended.closed.connect(self.accept)

    def _on_event(self, event: RunEvent) -> None:
        if isinstance(event, Phase) and not (self._job and self._job.control.stopping):
            self._phase.setText(event.message or event.name)
            self._progress.set_fraction(event.done / event.total if event.done is not None and event.total else None)

    def _on_fetched(self, last: LastEvent) -> None:
        self._job = None
        self.form.look_again()
        if isinstance(last, RunFinished):
            self.begin()
        else:
            self._end(last)

    def _on_done(self, last: LastEvent) -> None:
        self._job = None
        self._end(last)

    def _end(self, last: LastEvent) -> None:
        if isinstance(last, RunFinished):
            remember(self.form.form, self.subject.base_folder(), time.monotonic() - self._began)
            self.ended.show_result(last.result, str(last.result.get("dtype") or self.form.dtype))
            self._turn_to(self.ended)
        elif isinstance(last, RunFailed):
            self.ended.show_failure(last, self.form.destination)
            self._turn_to(self.ended)
        else:
            self._turn_to(self.form)

    def _on_float32(self) -> None:
        self.form.choose("merged", "float32")
        self._turn_to(self.form)

    def _turn_to(self, shown: QWidget) -> None:
        """Show a page and be as high as it needs; the others, which may be higher, do not count."""
        ignored, usual = QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred
        for page in (self.form, self._progress_page, self.ended):
            page.setSizePolicy(usual, usual if page is shown else ignored)
        self._pages.setCurrentWidget(shown)
        height = max(self.sizeHint().height(), shown.heightForWidth(self.width() - 2 * 16) + _MARGINS if shown.hasHeightForWidth() else 0)
        self.resize(self.width(), height)
