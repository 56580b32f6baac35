"""The files of the draft as a table: what is in each, and why it is read so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QBrush, QColor

from lora_studio.core.settings import DataSettings
from lora_studio.data.readers.read import kind_of
from lora_studio.gui.data_page.files.names import NamedFile
from lora_studio.gui.platform.formatting import format_bytes, format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors

Index = QModelIndex | QPersistentModelIndex
FILE, ROWS, BAD, READ_AS, ENCODING, USE = range(6)
_NUMBERS = (ROWS, BAD)


class FilesModel(QAbstractTableModel):
    """One row a file: name, sound rows, bad rows, format and why, encoding, what it is for."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._titles = (tr("File"), tr("Rows"), tr("Bad"), tr("Read as"), tr("Encoding"), tr("For"))
        self._files: Sequence[NamedFile] = ()
        self._cells: list[tuple[str, ...]] = []

    def show_files(self, files: Sequence[NamedFile], settings: DataSettings, waiting: str) -> None:
        """Show these; `waiting` stands where nothing is known of a file yet."""
        cells = [_cells(file, settings, waiting) for file in files]
        if cells == self._cells and list(files) == list(self._files):
            return
        self.beginResetModel()
        self._files, self._cells = tuple(files), cells
        self.endResetModel()

    def file(self, row: int) -> NamedFile:
        """Return what stands in a row."""
        return self._files[row]

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the files."""
        return 0 if parent.isValid() else len(self._files)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the columns."""
        return 0 if parent.isValid() else len(self._titles)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a column's title."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(section)
        return self._titles[section] if role == Qt.ItemDataRole.DisplayRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a cell; where something is wrong it says so in words and in colour."""
        file, column = self._files[index.row()], index.column()
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return self._cells[index.row()][column]
            case Qt.ItemDataRole.ToolTipRole:
                return _tip(file, self._cells[index.row()][column], column)
            case Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(column)
            case Qt.ItemDataRole.ForegroundRole if _is_wrong(file, column):
                return QBrush(QColor(colors().warning))
            case Qt.ItemDataRole.UserRole:
                return file
            case _:
                return None


def _cells(named: NamedFile, settings: DataSettings, waiting: str) -> tuple[str, ...]:
    use = tr("training") if named.split == "train" else tr("evaluation")
    file = named.file
    if file is None:
        return named.title, waiting, "", "", "", use
    read_as = " · ".join(part for part in (file.format, file.reason) if part)
    return (
        named.title,
        format_count(file.rows),
        format_count(file.bad_rows),
        read_as or tr("no row says how"),
        _encoding(named, settings),
        use,
    )


def _encoding(named: NamedFile, settings: DataSettings) -> str:
    file = named.file
    assert file is not None
    if kind_of(Path(file.where or file.path)) == ".parquet":
        return "–"
    return tr("{offer}, not {set}", offer=file.encoding, set=settings.encoding) if file.encoding else settings.encoding


def _is_wrong(named: NamedFile, column: int) -> bool:
    file = named.file
    if file is None:
        return False
    return (column == BAD and file.bad_rows > 0) or (column == ENCODING and bool(file.encoding)) or (column == READ_AS and not file.format)


def _tip(named: NamedFile, cell: str, column: int) -> str:
    if column != FILE:
        return cell
    return f"{named.file.path}\n{format_bytes(named.file.bytes)}" if named.file else named.name


def _alignment(column: int) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignRight if column in _NUMBERS else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter
