"""The last page of the Export dialog: the certificate, who can serve the result, the lines that load it, and what to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QGridLayout, QPlainTextEdit, QVBoxLayout, QWidget

from lora_studio.core.events import RunFailed
from lora_studio.export.card.loading import loading_lines
from lora_studio.export.destination import CERTIFICATE_PAGE
from lora_studio.export.export_format import ExportFormat
from lora_studio.gui.export.parts import button, to_the_right
from lora_studio.gui.export.subject import ExportSubject
from lora_studio.gui.export.text import ShownCertificate, certificate_in_words
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_bytes
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import Banner, Disclosure, label

_LINES = 5


class ResultPage(QWidget):
    """Says how an export ended.

    Args:
        subject: What was exported.
        asker: Shows folders.

    Signals:
        back_asked: To the form again.
        float32_asked: The same merge in float32, since rounding cost too much.
        closed: Enough seen.
    """

    back_asked = Signal()
    float32_asked = Signal()
    closed = Signal()

    def __init__(self, subject: ExportSubject, asker: FileDialogs) -> None:
        super().__init__()
        self.setObjectName("export_result_page")
        self._subject = subject
        self._asker = asker
        self._folder: Path | None = None
        self._details_text = ""
        self._build()
        self._connect()

    def show_result(self, result: Mapping[str, Any], written: str) -> None:
        """Show what was made."""
        certificate = ShownCertificate.from_result(result)
        self._folder = Path(str(result["path"]))
        self._verdict.show_message("good" if certificate.passed else "error", certificate_in_words(certificate, written))
        self._where.setText(tr("{size} in {path}", size=format_bytes(float(result["bytes"])), path=self._folder))
        files = sorted(file.name for file in self._folder.glob("*.gguf"))
        self._lines.setPlainText(
            loading_lines(
                cast(ExportFormat, result["kind"]),
                str(self._folder),
                self._subject.base,
                files[0] if files else "",
                self._subject.revision or "",
                str((result["certificate"].get("classes") or {}).get("auto", "")),
            )
        )
        self._show_programs(result.get("compatibility") or ())
        self._float32.setVisible(bool(result["certificate"].get("offers_float32")))
        self._show(exported=True)

    def show_failure(self, failure: RunFailed, destination: Path) -> None:
        """Show why nothing was made, or what was kept of it."""
        self._verdict.show_message("error", f"{failure.message} {failure.hint}".strip())
        self._where.setText(tr("Nothing was written to {path}.", path=destination))
        self._lines.setPlainText("")
        self._details_text = failure.details
        self._float32.hide()
        self._show_programs(())
        self._show(exported=False)

    def _build(self) -> None:
        layout = QVBoxLayout(self)
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
        self._lines.setMinimumHeight(self._lines.fontMetrics().lineSpacing() * (_LINES + 1))
        self._programs = QWidget()
        self._programs.setObjectName("export_programs")
        self._program_rows = QGridLayout(self._programs)
        self._program_rows.setContentsMargins(0, 2, 0, 2)
        self._program_rows.setColumnStretch(2, 1)
        self._served = Disclosure(tr("Where it can be served"), "served_disclosure")
        self._served.body.addWidget(self._programs)
        self._open = button(tr("Open folder"), "open_folder_button")
        self._page = button(tr("Open certificate"), "open_certificate_button")
        self._copy = button(tr("Copy loading lines"), "copy_lines_button")
        self._float32 = button(tr("Merge in float32…"), "float32_button")
        self._details = button(tr("Copy details"), "copy_details_button")
        self._back = button(tr("Back"), "back_button")
        self._close = button(tr("Close"), "close_button", "primary")
        layout.addWidget(self._verdict)
        layout.addWidget(self._where)
        layout.addWidget(self._served)
        layout.addWidget(self._lines, 1)
        layout.addStretch()
        layout.addWidget(to_the_right(self._float32, self._open, self._page, self._copy, self._details, self._back, self._close))

    def _connect(self) -> None:
        self._open.clicked.connect(self._on_open)
        self._page.clicked.connect(self._on_page)
        self._copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._lines.toPlainText()))
        self._details.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._details_text))
        self._float32.clicked.connect(self.float32_asked)
        self._back.clicked.connect(self.back_asked)
        self._close.clicked.connect(self.closed)

    def _show(self, *, exported: bool) -> None:
        for widget in (self._open, self._copy, self._lines):
            widget.setVisible(exported)
        self._page.setVisible(exported and self._folder is not None and (self._folder / CERTIFICATE_PAGE).is_file())
        self._back.setVisible(not exported)
        self._details.setVisible(not exported and bool(self._details_text))

    def _show_programs(self, programs: Any) -> None:
        while (item := self._program_rows.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.deleteLater()
        answers = {"yes": (tr("yes"), "good"), "no": (tr("no"), "warning"), "not measured": (tr("not measured"), "note")}
        for number, program in enumerate(programs):
            text, role = answers[program["answer"]]
            sentences = " ".join(f"{text.rstrip('.')}." for text in (program["reason"], program["remedy"]) if text)
            reason = label(sentences, "note", f"program_{number}_reason", wrap=True)
            self._program_rows.addWidget(label(program["program"], "", f"program_{number}"), number, 0, Qt.AlignmentFlag.AlignTop)
            answer = label(text, role, f"program_{number}_answer")
            self._program_rows.addWidget(answer, number, 1, Qt.AlignmentFlag.AlignTop)
            self._program_rows.addWidget(reason, number, 2)
        self._served.setVisible(bool(programs))

    def _on_open(self) -> None:
        if self._folder is not None and not self._asker.show_folder(self._folder):
            self._where.setText(tr("No file manager could be opened. The folder is {path}", path=self._folder))

    def _on_page(self) -> None:
        if self._folder is None:
            return
        page = self._folder / CERTIFICATE_PAGE
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(page))):
            self._where.setText(tr("No browser could be opened. The certificate is {path}", path=page))
