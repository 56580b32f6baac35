"""The selected row: its text, or the line of a bad one with the spot at fault, or its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtGui import QColor, QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QStackedWidget, QTextEdit, QVBoxLayout, QWidget

from lora_studio.data.rows.row import BadRow, Row
from lora_studio.gui.data_page.issues.bad_line import BadLines, spot_of
from lora_studio.gui.data_page.lens.lens_pane import LensPane
from lora_studio.gui.data_page.row_models import row_as_text
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, theme
from lora_studio.gui.widgets import Pills

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace


class RowDetail(QWidget):
    """Shows one row as text or as tokens; which of the two stays as the person left it."""

    def __init__(self, workspace: Workspace, jobs: JobCenter) -> None:
        super().__init__()
        self.setObjectName("row_detail_pane")
        self._workspace = workspace
        self._lines = BadLines(jobs, self)
        self._spot: tuple[int, int] | None = None
        self.lens = LensPane(workspace, jobs)
        self._build()
        theme().changed.connect(self._mark_spot)

    def show_row(self, row: Row | BadRow) -> None:
        """Show a row of the table."""
        self._lines.stop()
        if isinstance(row, BadRow):
            self.show_bad_row(row)
            return
        self._set_text(row_as_text(row))
        self.lens.show_row(row)

    def show_bad_row(self, row: BadRow) -> None:
        """Show a bad row: where it is, why it is bad, and the line itself."""
        self.lens.show_row(None)
        check, encoding = self._workspace.data.check, self._workspace.draft.config.data.encoding
        self._lines.read(row, check, encoding, lambda line: self._show_line(row, line))
        self._turn_to("text")

    def clear(self) -> None:
        """Show no row."""
        self._lines.stop()
        self._set_text("")
        self.lens.show_row(None)

    def focus(self) -> None:
        """Put the keyboard where the row is read."""
        (self.text if self.pills.current == "text" else self.lens.view).setFocus()

    def _build(self) -> None:
        self.pills = Pills([("text", tr("Text")), ("tokens", tr("Tokens"))], name="detail_switch")
        self.text = QPlainTextEdit()
        self.text.setObjectName("row_detail")
        self.text.setAccessibleName(tr("The selected row"))
        self.text.setProperty("role", "mono")
        self.text.setReadOnly(True)
        self.text.setTabChangesFocus(True)
        self.text.setPlaceholderText(tr("Select a row to read all of it."))
        self._stack = QStackedWidget()
        self._stack.setObjectName("detail_stack")
        self._stack.addWidget(self.text)
        self._stack.addWidget(self.lens)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.pills)
        layout.addWidget(self._stack, 1)
        self.pills.selected.connect(self._turn_to)
        self._turn_to("text")

    def _turn_to(self, which: str) -> None:
        self.pills.set_current(which)
        self._stack.setCurrentWidget(self.lens if which == "tokens" else self.text)
        self.lens.set_wanted(which == "tokens")

    def _show_line(self, row: BadRow, line: str) -> None:
        head = f"{Path(row.file).name}:{row.line}: {row.reason}\n\n"
        spot = spot_of(row.reason, line, self._workspace.draft.config.data.columns)
        self._set_text(head + line, (spot[0] + len(head), spot[1]) if spot else None)

    def _set_text(self, text: str, spot: tuple[int, int] | None = None) -> None:
        self.text.setPlainText(text)
        self._spot = spot
        self._mark_spot()

    def _mark_spot(self) -> None:
        """Shade and underline the spot at fault, and scroll to it."""
        if self._spot is None:
            self.text.setExtraSelections([])
            return
        cursor = QTextCursor(self.text.document())
        cursor.setPosition(self._spot[0])
        self.text.setTextCursor(cursor)
        cursor.setPosition(self._spot[0] + self._spot[1], QTextCursor.MoveMode.KeepAnchor)
        selection = QTextEdit.ExtraSelection()
        selection.cursor = cursor  # pyright: ignore[reportAttributeAccessIssue]
        selection.format.setBackground(QColor(colors().bad))  # pyright: ignore[reportAttributeAccessIssue]
        selection.format.setForeground(QColor(colors().surface))  # pyright: ignore[reportAttributeAccessIssue]
        selection.format.setFontUnderline(True)  # pyright: ignore[reportAttributeAccessIssue]
        self.text.setExtraSelections([selection])
        self.text.ensureCursorVisible()
