"""Choosing a chat template, or writing one, with the selected row rendered beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QTimer
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from lora_studio.core.events import LastEvent, RunFailed, RunFinished
from lora_studio.data.rows.row import Row
from lora_studio.data.templates.task import RENDER_TASK
from lora_studio.data.templates.template_source import shipped_template, shipped_templates
from lora_studio.gui.data_page.answer_choice import AnswerChoice
from lora_studio.gui.data_page.lens.lens_colors import chip_styles
from lora_studio.gui.engine.latest_job import LatestJob
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors
from lora_studio.gui.widgets import ComboBox, ErrorLabel, label
from lora_studio.jobs.spec import JobSpec

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter

_RENDER_AFTER_MS = 300
_OWN, _WRITTEN = "", "written"


def template_choices() -> list[tuple[str, str]]:
    """Return what a combo box offers: data and title."""
    shipped = [(name, tr("{name} (ships with the studio)", name=name)) for name in shipped_templates()]
    return [(_OWN, tr("The base model's own")), *shipped, (_WRITTEN, tr("Written here"))]


class TemplateDialog(QDialog):
    """Edits `data.chat_template`; *Use it* makes it the draft's, as one undo step.

    Args:
        workspace: The draft.
        jobs: Renders.
        row: What to render; None where no row is sound.
    """

    def __init__(self, workspace: Workspace, jobs: JobCenter, row: Row | None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("template_dialog")
        self.setWindowTitle(tr("Chat template"))
        self.resize(920, 560)
        self._workspace = workspace
        self._row = row
        self._job = LatestJob(jobs)
        self._filling = False
        self._parts: list[dict[str, Any]] = []
        self._timer = QTimer(self, singleShot=True, interval=_RENDER_AFTER_MS)
        self._build()
        self._connect()
        self._show_setting()

    @property
    def setting(self) -> str | None:
        """What `data.chat_template` becomes."""
        choice = str(self.choice.currentData())
        if choice == _WRITTEN:
            return self.editor.toPlainText()
        return choice or None

    def use(self) -> None:
        """Make it the draft's and close; what the draft does not take is said."""
        errors = self._workspace.draft.edit({"data.chat_template": self.setting}, tr("Choose the chat template"))
        self._error.set_error("; ".join(errors.values()))
        if not errors:
            self.accept()

    def done(self, result: int) -> None:
        """Stop rendering."""
        self._timer.stop()
        self._job.drop()
        super().done(result)

    def _build(self) -> None:
        self.choice = ComboBox("template_choice", characters=24)
        self.choice.setAccessibleName(tr("Chat template"))
        for data, title in template_choices():
            self.choice.addItem(title, data)
        self.answer = AnswerChoice("template_answer")
        self.editor = self._text_area("template_editor", tr("The template, in Jinja"))
        self.rendered = self._text_area("template_rendered", tr("The selected row, rendered"))
        self.rendered.setReadOnly(True)
        self._error = ErrorLabel("template_error")
        self._note = label("", "note", "template_note", wrap=True)
        splitter = QSplitter()
        splitter.setObjectName("template_splitter")
        splitter.setChildrenCollapsible(False)
        splitter.setHandleWidth(10)
        splitter.addWidget(self.editor)
        splitter.addWidget(self.rendered)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self._use = QPushButton(tr("Use it"))
        self._use.setObjectName("template_use")
        self._use.setProperty("role", "primary")
        buttons.addButton(self._use, QDialogButtonBox.ButtonRole.AcceptRole)
        buttons.rejected.connect(self.reject)
        line = QHBoxLayout()
        line.addWidget(self.choice, 2)
        line.addWidget(self.answer, 1)
        layout = QVBoxLayout(self)
        layout.addLayout(line)
        layout.addWidget(splitter, 1)
        layout.addWidget(self._note)
        layout.addWidget(self._error)
        layout.addWidget(buttons)

    def _text_area(self, name: str, title: str) -> QPlainTextEdit:
        area = QPlainTextEdit()
        area.setObjectName(name)
        area.setAccessibleName(title)
        area.setPlaceholderText(title)
        area.setProperty("role", "mono")
        area.setTabChangesFocus(True)
        return area

    def _connect(self) -> None:
        self.choice.activated.connect(lambda _index: self._on_choice())
        self.editor.textChanged.connect(self._on_typed)
        self._timer.timeout.connect(self._render)
        self._use.clicked.connect(self.use)
        self.answer.currentIndexChanged.connect(lambda _index: self._show_part())
        self._workspace.model.changed.connect(self._timer.start)

    def _show_setting(self) -> None:
        setting = self._workspace.draft.config.data.chat_template or _OWN
        index = self.choice.findData(setting)
        self.choice.setCurrentIndex(index if index >= 0 else self.choice.findData(_WRITTEN))
        if index < 0:
            self._fill(setting)
        self._on_choice()

    def _on_choice(self) -> None:
        """Show the chosen template; the model's own is read with the row."""
        choice = str(self.choice.currentData())
        if choice in shipped_templates():
            self._fill(shipped_template(choice))
        elif choice == _OWN:
            self._fill("")
        self._timer.start()

    def _on_typed(self) -> None:
        if not self._filling:
            self.choice.setCurrentIndex(self.choice.findData(_WRITTEN))
            self._timer.start()

    def _fill(self, text: str) -> None:
        self._filling = True
        self.editor.setPlainText(text)
        self._filling = False

    def _render(self) -> None:
        model = self._workspace.model
        waits = self._waits_for()
        self._note.setText(waits or tr("rendering…"))
        if waits or self._row is None or model.source is None:
            return
        config = self._workspace.draft.config.replace({"data.chat_template": self.setting})
        arguments: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "model_folder": str(model.source.path),
            "row": self._row.to_json(),
        }
        self._job.start(JobSpec(RENDER_TASK, arguments, title=tr("Render a row")), self._on_rendered)

    def _waits_for(self) -> str:
        model = self._workspace.model
        if self._row is None:
            return tr("There is no sound row to render.")
        if not model.engine:
            return tr("The row is rendered when the engine is loaded.")
        return "" if model.source and model.source.ready else tr("The row is rendered when the base model is ready.")

    def _on_rendered(self, last: LastEvent) -> None:
        if isinstance(last, RunFinished):
            self._show_result(last.result)
        elif isinstance(last, RunFailed):
            self._show_failure(f"{last.message} {last.hint}".strip())
        else:
            self._show_failure(tr("The rendering was stopped. Choose the template again to see the row."))

    def _show_failure(self, reason: str) -> None:
        self._show_result({"template": "", "parts": [], "error": reason})

    def _show_result(self, result: dict[str, Any]) -> None:
        if self.choice.currentData() == _OWN:
            self._fill(result["template"])
        self._parts = result["parts"] or [{"rendered": "", "spans": [], "error": result["error"]}]
        self.answer.offer(len(self._parts), self.answer.chosen)
        self._show_part()

    def _show_part(self) -> None:
        """Show the row that training makes of the chosen answer, or the row itself."""
        row, part = self._row, self._parts[self.answer.chosen]
        assert row is not None
        self._error.set_error(part["error"])
        self.rendered.setPlainText(part["rendered"])
        self.rendered.setExtraSelections([self._trained(start, end) for start, end in part["spans"]])
        text = tr("{place}: what is underlined is trained.", place=f"{row.file.rpartition('/')[2]}:{row.line}")
        self._note.setText("" if part["error"] else text)

    def _trained(self, start: int, end: int) -> QTextEdit.ExtraSelection:
        style = chip_styles(colors())["trained"]
        form = QTextCharFormat()
        form.setBackground(QColor(style.fill))
        form.setUnderlineColor(QColor(style.mark))
        form.setUnderlineStyle(QTextCharFormat.UnderlineStyle.SingleUnderline)
        cursor = QTextCursor(self.rendered.document())
        cursor.setPosition(start)
        cursor.setPosition(min(end, self.rendered.document().characterCount() - 1), QTextCursor.MoveMode.KeepAnchor)
        selection = QTextEdit.ExtraSelection()
        selection.cursor = cursor  # pyright: ignore[reportAttributeAccessIssue]
        selection.format = form  # pyright: ignore[reportAttributeAccessIssue]
        return selection
