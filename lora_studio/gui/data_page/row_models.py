"""Rows of the data files as tables: all of them, read as they come into view, and the bad ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QAbstractListModel, QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import DataCheck, readers_of
from lora_studio.data.readers.read import raw_text
from lora_studio.data.readers.row_index import RowIndex
from lora_studio.data.rows.row import BadRow, Message, Row
from lora_studio.gui.platform.formatting import one_line
from lora_studio.gui.platform.text import tr

Index = QModelIndex | QPersistentModelIndex
_GROWTH = 10_000  # rows: found in some ten milliseconds
_BAD_GROWTH = 1000
_CELLS_KEPT = 2048
_CELL = 160


class RowsModel(QAbstractTableModel):
    """Every row of the data by its number: place, what is asked, what is answered, or why it cannot be used."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._titles = (tr("Row"), tr("Asked"), tr("Answer"))
        self._index: RowIndex | None = None
        self._count = 0
        self._cells: OrderedDict[int, tuple[str, str, str]] = OrderedDict()

    def set_check(self, check: DataCheck | None, settings: DataSettings) -> None:
        """Show the rows of checked files."""
        self.beginResetModel()
        self._index = RowIndex(settings, readers_of(check, settings)) if check else None
        self._cells.clear()
        self._count = self._index.grow(_GROWTH) if self._index is not None else 0
        self.endResetModel()

    @property
    def index_of_rows(self) -> RowIndex | None:
        """The rows by their numbers, for a search; None while there are none."""
        return self._index

    def row(self, number: int) -> Row | BadRow:
        """Return a row by its place in the table; one that can no longer be read is bad."""
        assert self._index is not None
        try:
            return self._index.row(number)
        except (InputError, IndexError) as error:
            return BadRow("", number, str(error))

    def show_up_to(self, number: int) -> None:
        """Make the table reach a row, such as one that a search has found."""
        while self._count <= number and self.canFetchMore(QModelIndex()):
            self.fetchMore(QModelIndex())

    def canFetchMore(self, parent: Index) -> bool:
        """Whether there may be rows not found yet."""
        return not parent.isValid() and self._index is not None and (len(self._index) > self._count or not self._index.complete)

    def fetchMore(self, parent: Index) -> None:
        """Find the next rows, without reading what they hold."""
        if parent.isValid() or self._index is None:
            return
        if len(self._index) == self._count:
            self._index.grow(_GROWTH)
        if len(self._index) > self._count:
            self.beginInsertRows(QModelIndex(), self._count, len(self._index) - 1)
            self._count = len(self._index)
            self.endInsertRows()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the rows found so far."""
        return 0 if parent.isValid() else self._count

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the columns."""
        return 0 if parent.isValid() else len(self._titles)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a column's title."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        return self._titles[section] if role == Qt.ItemDataRole.DisplayRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a cell's text, or its whole row as user data."""
        if role == Qt.ItemDataRole.DisplayRole:
            return self._cells_of(index.row())[index.column()]
        return self.row(index.row()) if role == Qt.ItemDataRole.UserRole else None

    def _cells_of(self, number: int) -> tuple[str, str, str]:
        cells = self._cells.get(number)
        if cells is None:
            cells = self._cells[number] = _cells(self.row(number))
            while len(self._cells) > _CELLS_KEPT:
                self._cells.popitem(last=False)
        return cells


class BadRowsModel(QAbstractListModel):
    """Rows that cannot be used, as file:line · reason; handed to the view a few at a time."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: Sequence[BadRow] = ()
        self._count = 0

    def set_rows(self, rows: Sequence[BadRow]) -> None:
        """Show these."""
        self.beginResetModel()
        self._rows = rows
        self._count = min(len(rows), _BAD_GROWTH)
        self.endResetModel()

    def canFetchMore(self, parent: Index) -> bool:
        """Whether there are rows the view has not been told of."""
        return not parent.isValid() and self._count < len(self._rows)

    def fetchMore(self, parent: Index) -> None:
        """Tell the view of some more rows."""
        more = min(_BAD_GROWTH, len(self._rows) - self._count)
        if not parent.isValid() and more > 0:
            self.beginInsertRows(QModelIndex(), self._count, self._count + more - 1)
            self._count += more
            self.endInsertRows()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the bad rows the view knows of."""
        return 0 if parent.isValid() else self._count

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a row's place and fault, its whole path as tooltip, itself as user data."""
        row = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{Path(row.file).name}:{row.line} · {row.reason}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return str(row)
        return row if role == Qt.ItemDataRole.UserRole else None


def row_as_text(row: Row | BadRow) -> str:
    """Return a whole row to read: each turn under its role, or the plain text; why it is bad, if it is."""
    if isinstance(row, BadRow):
        return str(row)
    if row.format == "text":
        return row.text
    turns = [_turn_as_text(message) for message in row.messages]
    return "\n\n".join([*turns, *(tr("[rejected]\n{content}", content=message.content) for message in row.rejected)])


def _turn_as_text(message: Message) -> str:
    head = f"[{message.role}]{'' if message.trained else tr(' (not trained)')}"
    calls = [f"→ {call['function']['name']} {call['function']['arguments']}" for call in message.extra.get("tool_calls", ())]
    return "\n".join([head, *([message.content] if message.content else []), *calls])


def raw_lines(path: str, line: int, encoding: str = "utf-8") -> str:
    """Return what stands in a file at a line, counted from 1; why not, where it cannot be read."""
    try:
        return raw_text(Path(path), line, encoding)
    except InputError as error:
        return error.message


def _cells(row: Row | BadRow) -> tuple[str, str, str]:
    where = f"{Path(row.file).name}:{row.line}"
    if isinstance(row, BadRow):
        return where, "", tr("bad: {reason}", reason=row.reason)
    if row.format == "text":
        return where, "", one_line(row.text[: 4 * _CELL], _CELL)
    asked = next((message.content for message in reversed(row.messages[:-1]) if message.role == "user"), "")
    return where, one_line(asked[: 4 * _CELL], _CELL), one_line(row.messages[-1].content[: 4 * _CELL], _CELL)
