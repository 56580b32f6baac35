"""The line to search with: what is looked for, how many rows hold it so far, the next and the one before."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QHBoxLayout, QToolButton, QWidget

from lora_studio.gui.data_page.rows.search import RowSearch
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets import ElidedLabel, LineEdit

_PAUSE_MS = 200  # of typing, before the search begins


class SearchBar(QWidget):
    """Asks for a text; Enter goes to the next row that holds it, Shift+Enter to the one before, Escape ends.

    Signals:
        asked: Another text is looked for; carries it.
        next_asked: The next match is wanted.
        previous_asked: The match before is wanted.
        closed: The search is over.
    """

    asked = Signal(str)
    next_asked = Signal()
    previous_asked = Signal()
    closed = Signal()

    def __init__(self, search: RowSearch) -> None:
        super().__init__()
        self.setObjectName("search_bar")
        self._search = search
        self._asked = ""
        self._timer = QTimer(self, singleShot=True, interval=_PAUSE_MS)
        self._build()
        self.edit.textEdited.connect(lambda _text: self._timer.start())
        self._timer.timeout.connect(self._ask)
        search.changed.connect(self.refresh)
        theme().changed.connect(self._draw_icons)
        self._draw_icons()
        self.hide()

    def open(self) -> None:
        """Show the line, with what was looked for last selected."""
        self.show()
        self.edit.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.edit.selectAll()
        if self.edit.text():
            self._ask()

    def close_search(self) -> None:
        """End the search and put the line away, where it is open."""
        if self.isHidden():
            return
        self._timer.stop()
        self._search.stop()
        self._asked = ""
        self.hide()
        self.closed.emit()

    def refresh(self) -> None:
        """Say how many rows were found so far."""
        count = format_count(len(self._search.matches))
        if self._search.error:
            self._told.setText(self._search.error)
        elif self._search.running:
            self._told.setText(tr("{count} so far…", count=count))
        else:
            self._told.setText(tr("{count} found", count=count) if self._asked else "")
        for button in (self._next, self._previous):
            button.setEnabled(bool(self._search.matches))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter, Shift+Enter and Escape."""
        match event.key():
            case Qt.Key.Key_Escape:
                self.close_search()
            case Qt.Key.Key_Return | Qt.Key.Key_Enter if self.edit.text() != self._asked:
                self._ask()
            case Qt.Key.Key_Return | Qt.Key.Key_Enter:
                back = event.modifiers() & Qt.KeyboardModifier.ShiftModifier
                (self.previous_asked if back else self.next_asked).emit()
            case _:
                super().keyPressEvent(event)

    def _ask(self) -> None:
        self._timer.stop()
        self._asked = self.edit.text()
        self.asked.emit(self._asked)

    def _build(self) -> None:
        self.edit = LineEdit(name="rows_search")
        self.edit.setPlaceholderText(tr("Find in all rows"))
        self.edit.setAccessibleName(tr("Find in all rows"))
        self.edit.setClearButtonEnabled(True)
        self._told = ElidedLabel("", "note", "search_count")
        self._previous = self._button("search_previous", tr("Match before (Shift+Enter)"))
        self._next = self._button("search_next", tr("Next match (Enter)"))
        self._close = self._button("search_close", tr("End the search (Escape)"))
        self._next.clicked.connect(self.next_asked)
        self._previous.clicked.connect(self.previous_asked)
        self._close.clicked.connect(self.close_search)
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(6)
        line.addWidget(self.edit, 1)
        for widget in (self._told, self._previous, self._next, self._close):
            line.addWidget(widget)

    def _button(self, name: str, tip: str) -> QToolButton:
        button = QToolButton()
        button.setObjectName(name)
        button.setToolTip(tip)
        button.setAccessibleName(tip)
        return button

    def _draw_icons(self) -> None:
        for button, name in ((self._previous, "chevron-up"), (self._next, "chevron-down"), (self._close, "close")):
            button.setIcon(icon(name, colors().muted, colors().disabled))
