"""Export… and Merge…: what, how large, where to; progress; then the certificate and what to do with the result."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSize, Qt, QTimer
from PySide6.QtGui import QGuiApplication, QShowEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from lora_studio.core.errors import StudioError
from lora_studio.core.events import LastEvent, Phase, RunEvent, RunFailed, RunFinished
from lora_studio.core.runs import RunFolder
from lora_studio.export.destination import check_destination, is_earlier_export
from lora_studio.export.request import BYTES_OF_DTYPE
from lora_studio.gui.export_text import (
    Certificate,
    ExportKind,
    ExportSource,
    adapter_bytes,
    certificate_in_words,
    loading_lines,
    merged_bytes,
    sources_of,
    suggested_folder,
)
from lora_studio.gui.job_center import JobCenter
from lora_studio.gui.path_asker import PathAsker
from lora_studio.gui.text import tr
from lora_studio.gui.units import format_bytes
from lora_studio.gui.widgets import Banner, ComboBox, ElidedLabel, ErrorLabel, LineEdit, ProgressLine, label
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.facts import ModelFacts, read_facts
from lora_studio.models.sources import find_model

_MARGINS = 28
EXPORT_TASK = "lora_studio.export.task:export"


class ExportDialog(QDialog):
    """Exports one run's adapter, or merges it into its base model. It blocks nothing and names its own run.

    Closed while it works, the export goes on; its end is told as a notification.

    Args:
        kind: "adapter" or "merged".
        folder: The run.
        jobs: Where the export is started.
        asker: Asks for the destination.
        parent: The window.
    """

    def __init__(self, kind: ExportKind, folder: RunFolder, jobs: JobCenter, asker: PathAsker, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("merge_dialog" if kind == "merged" else "export_dialog")
        self.setWindowTitle(tr("Merge {run}", run=folder.name) if kind == "merged" else tr("Export {run}", run=folder.name))
        self._kind: ExportKind = kind
        self._folder = folder
        self._jobs = jobs
        self._asker = asker
        self._sources = sources_of(folder)
        self._facts = _facts_of(folder)
        self._job: Job | None = None
        self._chose_place = False
        self._result: Path | None = None
        self._failure: RunFailed | None = None
        self._build()
        self._connect()
        self._suggest_place()

    @property
    def job(self) -> Job | None:
        """The export under way."""
        return self._job

    @property
    def source(self) -> ExportSource:
        """What is exported."""
        return self._sources[self._source.currentIndex()]

    @property
    def dtype(self) -> str:
        """How merged weights are written; "keep" for the base's own."""
        return str(self._dtype.currentData()) if self._kind == "merged" else "keep"

    @property
    def destination(self) -> Path:
        """The folder to make."""
        return Path(self._place.text().strip()).expanduser()

    def sizeHint(self) -> QSize:
        """Wide enough for a path."""
        return QSize(560, super().sizeHint().height())

    def showEvent(self, event: QShowEvent) -> None:
        """Fit to the page, now that fonts and styles are known."""
        super().showEvent(event)
        QTimer.singleShot(0, self, lambda: self._turn_to(self._pages.currentWidget() or self._form_page))

    def begin(self) -> None:
        """Start the export, unless its destination is none, or something stands there that may not be replaced."""
        if not self._may_take_place():
            return
        arguments = {
            "source": str(self.source.path), "kind": self._kind, "to": str(self.destination),
            "dtype": None if self.dtype == "keep" else self.dtype, "overwrite": self._replace.isChecked(),
        }
        spec = JobSpec(EXPORT_TASK, arguments, title=self.windowTitle(), device=True)
        self._turn_to(self._progress_page)
        self._cancel.setEnabled(True)
        before = [job.spec.title for job in self._jobs.device_jobs]
        self._phase.setText(tr("waits for {titles}", titles=", ".join(before)) if before else tr("starting…"))
        self._progress.set_fraction(None)
        self._job = self._jobs.start(spec, on_event=self._on_event, on_done=self._on_done)

    def _may_take_place(self) -> bool:
        """See that the destination is a place of its own; what is wrong is said below its field."""
        self._problem.set_error("")
        self._replace.setVisible(is_earlier_export(self.destination))
        if not self.destination.is_absolute():
            self._problem.set_error(tr("Give the whole path of a folder to make."))
            return False
        try:
            needed = (self._folder.path, self.source.path)
            check_destination(self.destination.resolve(), overwrite=self._replace.isChecked(), needed=needed)
        except StudioError as error:
            self._problem.set_error(error.message)
            return False
        return True

    def cancel(self) -> None:
        """Stop the export; nothing half-written is left."""
        if self._job is not None:
            self._cancel.setEnabled(False)
            self._phase.setText(tr("cancelling…"))
            self._job.control.stop()

    def _build(self) -> None:
        self._pages = QStackedWidget()
        self._pages.setObjectName("export_pages")
        self._form_page = self._build_form()
        self._progress_page = self._build_progress()
        self._result_page = self._build_result()
        for page in (self._form_page, self._progress_page, self._result_page):
            self._pages.addWidget(page)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 14, 16, 14)
        layout.addWidget(self._pages)
        self.resize(self.sizeHint().width(), self.height())
        self._turn_to(self._form_page)

    def _build_form(self) -> QWidget:
        config = self._folder.config
        page = QWidget()
        page.setObjectName("export_form")
        form = QFormLayout(page)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self._source = ComboBox("export_source", characters=24)
        self._source.addItems([source.title for source in self._sources])
        self._dtype = ComboBox("export_dtype", characters=24)
        for value, title in self._dtypes():
            self._dtype.addItem(title, value)
        self._size = label("", "", "export_size")
        self._place = LineEdit(name="export_place")
        self._browse = _button(tr("Browse…"), "browse_button")
        self._problem = ErrorLabel("export_problem")
        self._replace = QCheckBox(tr("Replace what is there"))
        self._replace.setObjectName("replace_existing")
        self._replace.hide()
        settings = tr("{run} · r {r} · α {alpha:g}", run=self._folder.name, r=config.adapter.r, alpha=config.adapter.lora_alpha)
        form.addRow(tr("Run"), ElidedLabel(settings, "", "export_run"))
        form.addRow(tr("Base model"), ElidedLabel(config.model.name_or_path, "", "export_base", Qt.TextElideMode.ElideMiddle))
        form.addRow(tr("Weights of"), self._source)
        if self._kind == "merged":
            form.addRow(tr("Written as"), self._dtype)
        form.addRow(tr("Size"), self._size)
        form.addRow(tr("To"), _in_row(self._place, self._browse))
        form.addRow("", self._problem)
        form.addRow("", self._replace)
        self._begin = _button(tr("Merge") if self._kind == "merged" else tr("Export"), "begin_button", "primary")
        self._begin.setDefault(True)
        self._dismiss = _button(tr("Cancel"), "dismiss_button")
        form.addRow(_to_the_right(self._dismiss, self._begin))
        return page

    def _build_progress(self) -> QWidget:
        page = QWidget()
        page.setObjectName("export_progress_page")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        self._phase = ElidedLabel("", "", "export_phase")
        self._progress = ProgressLine("export_progress")
        self._cancel = _button(tr("Cancel"), "cancel_export_button")
        layout.addWidget(label(self.windowTitle(), "title", "export_title", wrap=True))
        layout.addWidget(self._phase)
        layout.addWidget(self._progress)
        layout.addStretch(1)
        layout.addWidget(_to_the_right(self._cancel))
        return page

    def _build_result(self) -> QWidget:
        page = QWidget()
        page.setObjectName("export_result_page")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        self._verdict = Banner(name="export_verdict")
        self._where = label("", "note", "export_where", wrap=True)
        self._where.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._lines = QPlainTextEdit()
        self._lines.setObjectName("loading_lines")
        self._lines.setAccessibleName(tr("Loading lines"))
        self._lines.setProperty("role", "mono")
        self._lines.setReadOnly(True)
        self._lines.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._lines.setMinimumHeight(self._lines.fontMetrics().lineSpacing() * 6)
        self._open = _button(tr("Open folder"), "open_folder_button")
        self._copy = _button(tr("Copy loading lines"), "copy_lines_button")
        self._details = _button(tr("Copy details"), "copy_details_button")
        self._back = _button(tr("Back"), "back_button")
        self._close = _button(tr("Close"), "close_button", "primary")
        layout.addWidget(self._verdict)
        layout.addWidget(self._where)
        layout.addWidget(self._lines, 1)
        layout.addStretch()
        layout.addWidget(_to_the_right(self._open, self._copy, self._details, self._back, self._close))
        return page

    def _connect(self) -> None:
        self._source.currentIndexChanged.connect(self._suggest_place)
        self._dtype.currentIndexChanged.connect(self._suggest_place)
        self._place.textEdited.connect(self._on_place_edited)
        self._browse.clicked.connect(self._on_browse)
        self._begin.clicked.connect(self.begin)
        self._dismiss.clicked.connect(self.reject)
        self._cancel.clicked.connect(self.cancel)
        self._open.clicked.connect(self._on_open)
        self._copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._lines.toPlainText()))
        self._details.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._failure.details if self._failure else ""))
        self._back.clicked.connect(lambda: self._turn_to(self._form_page))
        self._close.clicked.connect(self.accept)

    def _dtypes(self) -> list[tuple[str, str]]:
        stored = self._facts.dtype if self._facts else ""
        keep = tr("as the base model ({dtype})", dtype=stored) if stored else tr("as the base model")
        if stored and stored not in BYTES_OF_DTYPE:
            keep = tr("float32, for the base model's {dtype}", dtype=stored)
        return [("keep", keep), ("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")]

    def _suggest_place(self) -> None:
        self._size.setText(self._size_text())
        if not self._chose_place:
            self._place.setText(str(suggested_folder(self._folder, self._kind, self.source, self.dtype)))
        self._forget_problem()

    def _size_text(self) -> str:
        if self._kind == "adapter":
            return format_bytes(adapter_bytes(self._folder, self.source))
        if self._facts is None or not self._facts.parameters:
            return tr("not known: the base model cannot be read")
        return tr("about {size}", size=format_bytes(merged_bytes(self._facts.parameters, self.dtype, self._facts.dtype)))

    def _on_place_edited(self) -> None:
        self._chose_place = True
        self._forget_problem()

    def _forget_problem(self) -> None:
        """Another destination has to be allowed anew."""
        self._problem.set_error("")
        self._replace.setChecked(False)
        self._replace.hide()

    def _on_browse(self) -> None:
        parent = self._asker.open_folder(self, tr("Make the folder in"), self.destination.parent)
        if parent is not None:
            self._chose_place = True
            self._place.setText(str(parent / f"{self._folder.name}-{self.destination.name}"))
            self._forget_problem()

    def _on_event(self, event: RunEvent) -> None:
        if isinstance(event, Phase) and not (self._job and self._job.control.stopping):
            self._phase.setText(event.message or event.name)
            self._progress.set_fraction(event.done / event.total if event.done is not None and event.total else None)

    def _on_done(self, last: LastEvent) -> None:
        self._job = None
        if isinstance(last, RunFinished):
            self._show_result(last)
        elif isinstance(last, RunFailed):
            self._show_failure(last)
        else:
            self._turn_to(self._form_page)

    def _show_result(self, last: RunFinished) -> None:
        certificate = Certificate.from_result(last.result)
        self._result = Path(str(last.result["path"]))
        written = str(last.result.get("dtype") or self.dtype)
        self._verdict.show_message("good" if certificate.passed else "error", certificate_in_words(certificate, written))
        self._where.setText(tr("{size} in {path}", size=format_bytes(float(last.result["bytes"])), path=self._result))
        self._lines.setPlainText(loading_lines(self._kind, self._result, self._folder.config))
        self._show_ended(exported=True)

    def _show_failure(self, last: RunFailed) -> None:
        self._verdict.show_message("error", f"{last.message} {last.hint}".strip())
        self._where.setText(tr("Nothing was written to {path}.", path=self.destination))
        self._lines.setPlainText("")
        self._failure = last
        self._show_ended(exported=False)

    def _show_ended(self, *, exported: bool) -> None:
        for widget in (self._open, self._copy, self._lines):
            widget.setVisible(exported)
        self._back.setVisible(not exported)
        self._details.setVisible(not exported and bool(self._failure and self._failure.details))
        self._turn_to(self._result_page)
        self.resize(self.width(), max(self.height(), self._result_page.heightForWidth(self.width()) + _MARGINS))

    def _turn_to(self, shown: QWidget) -> None:
        """Show a page and be as high as it needs; the others, which may be higher, do not count."""
        ignored, usual = QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred
        for page in (self._form_page, self._progress_page, self._result_page):
            page.setSizePolicy(usual, usual if page is shown else ignored)
        self._pages.setCurrentWidget(shown)
        self.resize(self.width(), self.sizeHint().height())

    def _on_open(self) -> None:
        if self._result is not None and not self._asker.show_folder(self._result):
            self._where.setText(tr("No file manager could be opened. The folder is {path}", path=self._result))


def _facts_of(folder: RunFolder) -> ModelFacts | None:
    """Give the base model's facts; None where it is not on this machine any more, which the export itself then says."""
    model = folder.config.model
    try:
        source = find_model(model.name_or_path, model.revision)
        at = source.path or source.file
        return read_facts(at) if at else None
    except (StudioError, OSError):
        return None


def _button(text: str, name: str, role: str = "") -> QPushButton:
    button = QPushButton(text)
    button.setObjectName(name)
    button.setAutoDefault(False)
    if role:
        button.setProperty("role", role)
    return button


def _in_row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return row


def _to_the_right(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 6, 0, 0)
    layout.addStretch(1)
    for widget in widgets:
        layout.addWidget(widget)
    return row
