"""The first rows as they stand in a file, under their own keys; a key can be dragged by its header."""

from __future__ import annotations

import json

from PySide6.QtCore import QAbstractTableModel, QMimeData, QModelIndex, QObject, QPersistentModelIndex, QPoint, Qt
from PySide6.QtGui import QDrag, QMouseEvent, QShowEvent
from PySide6.QtWidgets import QAbstractItemView, QApplication, QHeaderView, QTableView

from lora_studio.gui.data_page.files.preview import RawRows
from lora_studio.gui.platform.formatting import one_line
from lora_studio.gui.platform.text import tr

Index = QModelIndex | QPersistentModelIndex
COLUMN_MIME = "application/x-lora-studio-column"
_CELL = 200
_SHOWN_ROWS = 3


class RawModel(QAbstractTableModel):
    """Records as a table: a column a key."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._raw = RawRows()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, as the columns show them."""
        return self._raw.keys

    def show_rows(self, raw: RawRows) -> None:
        """Show these records."""
        if raw != self._raw:
            self.beginResetModel()
            self._raw = raw
            self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the records."""
        return 0 if parent.isValid() else len(self._raw.rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the keys."""
        return 0 if parent.isValid() else len(self._raw.keys)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a key."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._raw.keys[section]
            case Qt.ItemDataRole.ToolTipRole:
                return tr("Drag {key} onto a key below.", key=self._raw.keys[section])
            case Qt.ItemDataRole.TextAlignmentRole:
                return Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
            case _:
                return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a value on one line, all of it as the tooltip."""
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        value = self._raw.rows[index.row()].get(self._raw.keys[index.column()])
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return one_line(text[: 4 * _CELL], _CELL if role == Qt.ItemDataRole.DisplayRole else 3 * _CELL)


class RawTable(QTableView):
    """A few records; a header can be dragged to where its key is to go."""

    def __init__(self, name: str = "raw_table") -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(tr("The first rows as they stand in the file"))
        self.raw = RawModel(self)
        self.setModel(self.raw)
        self.setHorizontalHeader(_DraggedHeader())
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()

    def showEvent(self, event: QShowEvent) -> None:
        """Be as high as rows are in the style it is shown in."""
        super().showEvent(event)
        self.fit()

    def fit(self) -> None:
        """Be as high as a few rows."""
        self.setFixedHeight(self.horizontalHeader().sizeHint().height() + _SHOWN_ROWS * self.verticalHeader().defaultSectionSize() + 14)


class _DraggedHeader(QHeaderView):
    """Column titles that can be dragged away as text."""

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setObjectName("raw_header")
        self.setSectionsClickable(True)
        self.setHighlightSections(False)
        self.setDefaultSectionSize(170)
        self.setStretchLastSection(True)
        self._pressed: QPoint | None = None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Remember where a drag may begin."""
        self._pressed = event.position().toPoint()
        super().mousePressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Begin a drag once the pointer has gone far enough; near a column's edge its width is changed as ever."""
        resizing = self.cursor().shape() == Qt.CursorShape.SplitHCursor
        if self._pressed is None or resizing or not event.buttons() & Qt.MouseButton.LeftButton:
            super().mouseMoveEvent(event)
            return
        if (event.position().toPoint() - self._pressed).manhattanLength() >= QApplication.startDragDistance():
            section = self.logicalIndexAt(self._pressed)
            self._pressed = None
            if section >= 0:
                self._drag(str(self.model().headerData(section, Qt.Orientation.Horizontal)))

    def _drag(self, key: str) -> None:
        mime = QMimeData()
        mime.setData(COLUMN_MIME, key.encode())
        mime.setText(key)
        drag = QDrag(self)
        drag.setMimeData(mime)
        drag.exec(Qt.DropAction.CopyAction)
