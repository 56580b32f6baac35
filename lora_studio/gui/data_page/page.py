"""The Data page: what the files hold, what is wrong with which row and its cure, and what the rows are to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from lora_studio.core.errors import InputError
from lora_studio.gui.data_page.files.columns_card import ColumnsCard
from lora_studio.gui.data_page.files.files_card import FilesCard
from lora_studio.gui.data_page.issues.problems import BAD_ROWS, COLUMNS, TEMPLATE, Problem, problem_of_error, problems_of, template_problem
from lora_studio.gui.data_page.issues.problems_view import ProblemsView
from lora_studio.gui.data_page.lengths.tokens_card import TokensCard
from lora_studio.gui.data_page.rows.rows_card import RowsCard
from lora_studio.gui.data_page.template_dialog import TemplateDialog
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.path_kinds import PathKind, kind_of
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.train_page.scrolling import scrolling
from lora_studio.gui.widgets import Banner

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace


class DataPage(QWidget):
    """Files, problems, columns, tokens and rows of the draft."""

    def __init__(self, workspace: Workspace, jobs: JobCenter, run_view: ShownRun, asker: FileDialogs | None = None) -> None:
        super().__init__()
        self.setObjectName("data_page")
        self.setAcceptDrops(True)
        self._workspace = workspace
        self._jobs = jobs
        self._asker = asker or FileDialogs()
        self._fault: Problem | None = None
        self._build()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show the draft's data as it is known now."""
        self._show_error()
        self.files.refresh()
        self.columns.refresh()
        self.tokens.refresh()
        self.rows.refresh()
        self._show_problems()

    def choose_template(self) -> TemplateDialog:
        """Open the dialog of chat templates, with the selected row or else the first sound one."""
        dialog = TemplateDialog(self._workspace, self._jobs, self.rows.sample_row(), self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()
        return dialog

    def show_bad_rows(self) -> None:
        """Turn to the rows that cannot be used."""
        self.rows.turn_to("bad")
        self._reveal(self.rows)
        self.rows.bad.list.setFocus()

    def show_columns(self) -> None:
        """Open the mapping of columns to keys."""
        self.columns.asked_for = True
        self.columns.refresh()
        self._reveal(self.columns)
        next(iter(self.columns.combos.values())).setFocus()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take files and folders of rows; anything else goes on to the window."""
        if event.mimeData().hasUrls() and self._dropped(event):
            event.acceptProposedAction()
        else:
            event.ignore()

    def dropEvent(self, event: QDropEvent) -> None:
        """Add what was dropped to the data."""
        event.acceptProposedAction()
        self.files.add([str(path) for path in self._dropped(event)])

    def _build(self) -> None:
        self._error = Banner(name="data_error")
        self.files = FilesCard(self._workspace, self._asker)
        self.problems = ProblemsView()
        self.columns = ColumnsCard(self._workspace)
        self.tokens = TokensCard(self._workspace)
        self.rows = RowsCard(self._workspace, self._jobs, self._asker)
        content = QWidget()
        content.setObjectName("data_content")
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        for widget in (self._error, self.files, self.problems, self.columns, self.tokens):
            layout.addWidget(widget)
        layout.addWidget(self.rows, 1)
        page = QVBoxLayout(self)
        page.setContentsMargins(0, 0, 0, 0)
        self._area: QScrollArea = scrolling(content, "data_area")
        page.addWidget(self._area)

    def _connect(self) -> None:
        self._workspace.data.changed.connect(self.refresh)
        self._workspace.model.changed.connect(self._show_problems)
        self.tokens.template_asked.connect(self.choose_template)
        self._error.action_clicked.connect(self._on_error)
        self._error.other_clicked.connect(self._on_other)
        self.files.columns_asked.connect(self.show_columns)
        self.problems.cured.connect(self._cure)

    def _cure(self, problem: Problem) -> None:
        match problem.leads_to:
            case "":
                self._workspace.draft.edit(problem.changes, problem.action)
            case place if place == COLUMNS:
                self.show_columns()
            case place if place == BAD_ROWS:
                self.show_bad_rows()
            case place if place == TEMPLATE:
                self.choose_template()
            case _:
                self._workspace.draft.request_field(self._workspace.data.field)

    def _show_problems(self) -> None:
        workspace = self._workspace
        report = self.tokens.lengths.brought_up_to_date(workspace.data.report)
        problems = problems_of(workspace.draft.config, workspace.data.check, report)
        if self._fault is None:  # it names the same
            problems = [*template_problem(workspace.draft.config, workspace.data.check, workspace.model.facts), *problems]
        self.problems.show_problems(problems)

    def _show_error(self) -> None:
        data = self._workspace.data
        self._error.setVisible(bool(data.error) or data.stopped)
        self._fault = problem_of_error(data.error, data.hint, data.field, self._workspace.draft.config) if data.error else None
        if self._fault is not None:
            other = self._fault.other
            self._error.show_message("error", self._fault.text, self._fault.action, other.action if other else "")
        elif data.stopped:
            self._error.show_message("info", tr("Reading the rows was stopped."), tr("Read them"))

    def _on_error(self) -> None:
        if self._fault is not None:
            self._cure(self._fault)
        else:
            self._workspace.data.look()

    def _on_other(self) -> None:
        if self._fault is not None and self._fault.other is not None:
            self._cure(self._fault.other)

    def _reveal(self, card: QWidget) -> None:
        """Scroll a card to the top, once it has its place."""
        QTimer.singleShot(0, card, lambda: self._area.verticalScrollBar().setValue(card.y()))

    @staticmethod
    def _dropped(event: QDropEvent) -> list[Path]:
        """Return the dropped files and folders, if all of them are data."""
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        try:
            return [path.resolve() for path in paths] if all(kind_of(path) is PathKind.DATA for path in paths) else []
        except InputError:
            return []
