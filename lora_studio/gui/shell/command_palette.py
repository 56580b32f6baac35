"""Ctrl+K: every action by typing part of its name."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtGui import QAction, QKeyEvent, QKeySequence
from PySide6.QtWidgets import QFrame, QLineEdit, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from lora_studio.gui.platform.text import tr

_WIDTH, _HEIGHT, _TOP = 460, 360, 70
_ACTION = Qt.ItemDataRole.UserRole


def matches(query: str, title: str) -> bool:
    """Return whether the letters of a query occur in a title in their order, whatever lies between."""
    letters = iter(title.lower())
    return all(letter in letters for letter in query.lower() if not letter.isspace())


class CommandPalette(QFrame):
    """A box over the window: type, choose with the arrows, Enter does it, Escape leaves."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.setObjectName("command_palette")
        self._window = window
        self._actions: list[QAction] = []
        self.query = QLineEdit()
        self.query.setObjectName("palette_query")
        self.query.setPlaceholderText(tr("Type a command"))
        self.query.setAccessibleName(tr("Command"))
        self.list = QListWidget()
        self.list.setObjectName("palette_list")
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self.query)
        layout.addWidget(self.list)
        self.query.textChanged.connect(self._filter)
        self.query.installEventFilter(self)
        self.list.itemActivated.connect(self._run)
        self.list.itemClicked.connect(self._run)
        self.hide()

    def open(self, actions: Sequence[QAction]) -> None:
        """Show those of the actions that can be used now."""
        self._actions = [action for action in actions if action.isEnabled()]
        width, height = min(_WIDTH, self._window.width() - 40), min(_HEIGHT, self._window.height() - _TOP - 40)
        self.setGeometry((self._window.width() - width) // 2, _TOP, width, height)
        self.query.clear()
        self._filter("")
        self.show()
        self.raise_()
        self.query.setFocus()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Arrows, Enter and Escape while typing; losing the focus closes."""
        if event.type() == QEvent.Type.FocusOut:
            self.hide()
        if event.type() != QEvent.Type.KeyPress or not isinstance(event, QKeyEvent):
            return False
        match Qt.Key(event.key()):
            case Qt.Key.Key_Escape:
                self._leave()
            case Qt.Key.Key_Return | Qt.Key.Key_Enter:
                self._run(self.list.currentItem())
            case Qt.Key.Key_Up | Qt.Key.Key_Down as key:
                row = self.list.currentRow() + (1 if key == Qt.Key.Key_Down else -1)
                self.list.setCurrentRow(max(0, min(row, self.list.count() - 1)))
            case _:
                return False
        return True

    def _filter(self, query: str) -> None:
        self.list.clear()
        matching = [action for action in self._actions if matches(query, action.text())]
        matching.sort(key=lambda action: query.lower() not in action.text().lower())
        for action in matching:
            keys = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
            item = QListWidgetItem(f"{action.text()}    {keys}".rstrip())
            item.setData(_ACTION, action)
            self.list.addItem(item)
        self.list.setCurrentRow(0)

    def _run(self, item: QListWidgetItem | None) -> None:
        self._leave()
        if item is not None:
            action: QAction = item.data(_ACTION)
            action.trigger()

    def _leave(self) -> None:
        self.hide()
        self._window.setFocus()
