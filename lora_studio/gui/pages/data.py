"""The Data page: what the files hold, what is wrong with which row and its cure, and what the rows are to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from lora_studio.core.errors import InputError
from lora_studio.gui.data_page.columns_card import ColumnsCard
from lora_studio.gui.data_page.files_card import FilesCard
from lora_studio.gui.data_page.problems import BAD_ROWS, COLUMNS, Problem, problems_of
from lora_studio.gui.data_page.problems_view import ProblemsView
from lora_studio.gui.data_page.rows_card import RowsCard
from lora_studio.gui.data_page.tokens_card import TokensCard
from lora_studio.gui.drops import Kind, kind_of
from lora_studio.gui.job_center import JobCenter
from lora_studio.gui.pages.scrolling import scrolling
from lora_studio.gui.path_asker import PathAsker
from lora_studio.gui.run_view import RunView
from lora_studio.gui.text import tr
from lora_studio.gui.widgets import Banner

if TYPE_CHECKING:
    from lora_studio.gui.workspace import Workspace


class DataPage(QWidget):
    """Files, problems, columns, tokens and rows of the draft."""

    def __init__(self, workspace: Workspace, jobs: JobCenter, run_view: RunView, asker: PathAsker | None = None) -> None:
        super().__init__()
        self.setObjectName("data_page")
        self.setAcceptDrops(True)
        self._workspace = workspace
        self._asker = asker or PathAsker()
        self._build(jobs)
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show the draft's data as it is known now."""
        data = self._workspace.data
        self._show_error()
        self.files.refresh()
        self.columns.refresh()
        self.tokens.refresh()
        self.rows.refresh()
        self.problems.show_problems(problems_of(self._workspace.config, data.check, data.report))

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

    def _build(self, jobs: JobCenter) -> None:
        self._error = Banner(name="data_error")
        self.files = FilesCard(self._workspace, self._asker)
        self.problems = ProblemsView()
        self.columns = ColumnsCard(self._workspace)
        self.tokens = TokensCard(self._workspace)
        self.rows = RowsCard(self._workspace, jobs, self._asker)
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
        self._workspace.data_changed.connect(self.refresh)
        self._error.action_clicked.connect(self._on_error)
        self.files.columns_asked.connect(self.show_columns)
        self.problems.cured.connect(self._cure)

    def _cure(self, problem: Problem) -> None:
        match problem.leads_to:
            case "":
                self._workspace.edit(problem.changes, problem.action)
            case place if place == COLUMNS:
                self.show_columns()
            case place if place == BAD_ROWS:
                self.show_bad_rows()
            case place:
                raise ValueError(place)

    def _show_error(self) -> None:
        data = self._workspace.data
        self._error.setVisible(bool(data.error) or data.stopped)
        if data.error:
            self._error.show_message("error", f"{data.error} {data.hint}".strip(), tr("Go to the setting"))
        elif data.stopped:
            self._error.show_message("info", tr("Reading the rows was stopped."), tr("Read them"))

    def _on_error(self) -> None:
        if self._workspace.data.stopped:
            self._workspace.data.look()
        else:
            self._workspace.request_field(self._workspace.data.field)

    def _reveal(self, card: QWidget) -> None:
        """Scroll a card to the top, once it has its place."""
        QTimer.singleShot(0, card, lambda: self._area.verticalScrollBar().setValue(card.y()))

    @staticmethod
    def _dropped(event: QDropEvent) -> list[Path]:
        """Give the dropped files and folders, if all of them are data."""
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        try:
            return [path.resolve() for path in paths] if all(kind_of(path) is Kind.DATA for path in paths) else []
        except InputError:
            return []
