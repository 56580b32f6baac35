"""Rows of the data files as tables: sound rows read a few at a time, and the bad ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from PySide6.QtCore import QAbstractListModel, QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from lora_studio.core.errors import InputError
from lora_studio.data.check import FileReader
from lora_studio.data.rows import BadRow, Row
from lora_studio.gui.text import tr
from lora_studio.gui.units import one_line

Index = QModelIndex | QPersistentModelIndex
MOST_ROWS = 500
_BLOCK = 50
_CELL = 160
_LARGEST_ARRAY = 50_000_000  # bytes: a JSON array is read whole


class RowsModel(QAbstractTableModel):
    """The first few hundred sound rows: place, what is asked, what is answered."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._titles = (tr("Row"), tr("Asked"), tr("Answer"))
        self._source: Iterator[Row | BadRow] = iter(())
        self._rows: list[Row] = []
        self._cells: list[tuple[str, str, str]] = []
        self._over = True

    def set_files(self, paths: Sequence[str], row_format: str) -> None:
        """Show the rows of these files, read as `row_format` ("auto" looks at their keys)."""
        self.beginResetModel()
        readers = [FileReader(path, row_format) for path in paths if _may_be_read(path)]
        self._source = chain.from_iterable(_sound(reader) for reader in readers)
        self._rows, self._cells, self._over = [], [], False
        self._take(self._read())
        self.endResetModel()

    def row(self, number: int) -> Row:
        """Give a row by its place in the table."""
        return self._rows[number]

    def canFetchMore(self, parent: Index) -> bool:
        """Whether there may be rows not read yet."""
        return not parent.isValid() and not self._over

    def fetchMore(self, parent: Index) -> None:
        """Read the next few rows."""
        fresh = [] if parent.isValid() else self._read()
        if fresh:
            self.beginInsertRows(QModelIndex(), len(self._rows), len(self._rows) + len(fresh) - 1)
            self._take(fresh)
            self.endInsertRows()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the rows read so far."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the columns."""
        return 0 if parent.isValid() else len(self._titles)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Give a column's title."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        return self._titles[section] if role == Qt.ItemDataRole.DisplayRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Give a cell's text, or its whole row as user data."""
        if role == Qt.ItemDataRole.DisplayRole:
            return self._cells[index.row()][index.column()]
        return self._rows[index.row()] if role == Qt.ItemDataRole.UserRole else None

    def _read(self) -> list[Row]:
        room = min(_BLOCK, MOST_ROWS - len(self._rows))
        fresh = [row for row in islice(self._source, room) if isinstance(row, Row)]
        self._over = len(fresh) < room or room == 0
        return fresh

    def _take(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        self._cells += [_cells(row) for row in rows]


class BadRowsModel(QAbstractListModel):
    """Rows that cannot be used, as file:line · reason."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: Sequence[BadRow] = ()

    def set_rows(self, rows: Sequence[BadRow]) -> None:
        """Show these."""
        self.beginResetModel()
        self._rows = rows
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the bad rows."""
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Give a row's place and fault, its whole path as tooltip, itself as user data."""
        row = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{Path(row.file).name}:{row.line} · {row.reason}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return str(row)
        return row if role == Qt.ItemDataRole.UserRole else None


def row_as_text(row: Row) -> str:
    """Give a whole row to read: each turn under its role, or the plain text."""
    if row.format == "text":
        return row.text
    return "\n\n".join(f"[{message.role}]{'' if message.trained else tr(' (not trained)')}\n{message.content}" for message in row.messages)


def raw_lines(path: str, line: int, most: int = 20_000) -> str:
    """Give what stands in a file at a line, counted from 1, at most `most` characters; why not, where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            raw = next(islice(file, line - 1, line), b"")
    except OSError as error:
        return tr("Cannot read {path}: {reason}.", path=path, reason=error.strerror)
    text = raw.decode("utf-8", "replace").rstrip("\r\n")
    return text if len(text) <= most else text[:most] + "…"


def _sound(reader: FileReader) -> Iterator[Row]:
    """Give a file's sound rows; a fault of the file as a whole ends it, and is told by the check."""
    try:
        yield from (row for row in reader.rows() if isinstance(row, Row))
    except InputError:
        return


def _may_be_read(path: str) -> bool:
    file = Path(path)
    return file.suffix.lower() != ".json" or not file.is_file() or file.stat().st_size <= _LARGEST_ARRAY


def _cells(row: Row) -> tuple[str, str, str]:
    place = f"{Path(row.file).name}:{row.line}"
    if row.format == "text":
        return place, "", one_line(row.text[: 4 * _CELL], _CELL)
    asked = next((message.content for message in reversed(row.messages[:-1]) if message.role == "user"), "")
    return place, one_line(asked[: 4 * _CELL], _CELL), one_line(row.messages[-1].content[: 4 * _CELL], _CELL)
