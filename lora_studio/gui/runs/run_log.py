"""The run's log as a list model: lines are added at its end, a filter picks kinds."""

from __future__ import annotations

from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from lora_studio.core.history import LogLine, RunHistory
from lora_studio.gui.platform.formatting import format_time

Index = QModelIndex | QPersistentModelIndex


class RunLogModel(QAbstractListModel):
    """Shows a history's log; `sync` takes over what was added since."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._history = RunHistory()
        self._kind = ""
        self._taken = 0
        self._lines: list[LogLine] = []

    def show_history(self, history: RunHistory) -> None:
        """Show another run's log from its start."""
        self._history = history
        self._refill()

    def set_kind(self, kind: str) -> None:
        """Show lines of one kind; empty shows all."""
        if kind != self._kind:
            self._kind = kind
            self._refill()

    def sync(self) -> None:
        """Append the lines that came since the last look."""
        fresh = [line for line in self._history.log[self._taken :] if self._shows(line)]
        self._taken = len(self._history.log)
        if fresh:
            first = len(self._lines)
            self.beginInsertRows(QModelIndex(), first, first + len(fresh) - 1)
            self._lines += fresh
            self.endInsertRows()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the lines shown."""
        return 0 if parent.isValid() else len(self._lines)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a line's text; whole as tooltip, itself as user data."""
        line = self._lines[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{format_time(line.time)}  {line.text}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return line.text
        return line if role == Qt.ItemDataRole.UserRole else None

    def _shows(self, line: LogLine) -> bool:
        return not self._kind or line.kind == self._kind

    def _refill(self) -> None:
        self.beginResetModel()
        self._lines = [line for line in self._history.log if self._shows(line)]
        self._taken = len(self._history.log)
        self.endResetModel()
