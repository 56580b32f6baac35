"""The Data page: what the files hold, what they are to the model, and what is wrong with which row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QListView,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from lora_studio.data.check import DataFile
from lora_studio.gui.job_center import JobCenter
from lora_studio.gui.pages.data_tokens import TokensCard
from lora_studio.gui.pages.row_models import BadRowsModel, RowsModel, raw_lines, row_as_text
from lora_studio.gui.pages.scrolling import scrolling
from lora_studio.gui.path_asker import PathAsker
from lora_studio.gui.run_view import RunView
from lora_studio.gui.text import tr
from lora_studio.gui.units import format_bytes, format_count
from lora_studio.gui.widgets import Banner, Card, Pills, label

if TYPE_CHECKING:
    from lora_studio.gui.workspace import Workspace

ROW_FILTER = "Rows (*.jsonl *.ndjson *.json *.csv *.tsv *.parquet *.txt *.md *.gz *.zst)"
_NARROW = 760
_LEAST_ROWS_HEIGHT = 260


class DataPage(QWidget):
    """Files, tokens, rows and bad rows of the draft."""

    def __init__(self, workspace: Workspace, jobs: JobCenter, run_view: RunView, asker: PathAsker | None = None) -> None:
        super().__init__()
        self.setObjectName("data_page")
        self._workspace = workspace
        self._asker = asker or PathAsker()
        self._shown: object = None
        self._build()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show the draft's data as it is known now."""
        self._show_error()
        self._show_files()
        self._show_rows()
        self._tokens.refresh()

    def show_bad_rows(self) -> None:
        """Turn to the rows that cannot be used."""
        self._turn_to("bad")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the whole row below the table where there is no room beside it."""
        super().resizeEvent(event)
        narrow = event.size().width() < _NARROW
        self._splitter.setOrientation(Qt.Orientation.Vertical if narrow else Qt.Orientation.Horizontal)

    def _build(self) -> None:
        self._error = Banner(name="data_error")
        self._files = Card(tr("Files"), name="files_card")
        self._file_list = QVBoxLayout()
        self._file_list.setSpacing(4)
        self._files.body.addLayout(self._file_list)
        self._choose = QPushButton(tr("Choose files…"))
        self._choose.setObjectName("choose_data_button")
        self._files.add_header_widget(self._choose)
        self._tokens = TokensCard(self._workspace)
        self._rows_card = self._build_rows()
        content = QWidget()
        content.setObjectName("data_content")
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        for widget in (self._error, self._files, self._tokens):
            layout.addWidget(widget)
        layout.addWidget(self._rows_card, 1)
        page = QVBoxLayout(self)
        page.setContentsMargins(0, 0, 0, 0)
        page.addWidget(scrolling(content, "data_area"))

    def _build_rows(self) -> Card:
        card = Card(tr("Rows"), name="rows_card")
        self._pills = Pills([("rows", tr("Rows")), ("bad", tr("Bad rows"))], name="rows_switch")
        card.add_header_widget(self._pills)
        self.rows = RowsModel(self)
        self.bad_rows = BadRowsModel(self)
        self._table = self._build_table()
        self._bad_list = QListView()
        self._bad_list.setObjectName("bad_rows_list")
        self._bad_list.setAccessibleName(tr("Bad rows"))
        self._bad_list.setModel(self.bad_rows)
        self._bad_list.setUniformItemSizes(True)
        self._bad_list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._lists = QStackedWidget()
        self._lists.setObjectName("rows_stack")
        self._lists.addWidget(self._table)
        self._lists.addWidget(self._bad_list)
        self._detail = QPlainTextEdit()
        self._detail.setObjectName("row_detail")
        self._detail.setAccessibleName(tr("The selected row"))
        self._detail.setProperty("role", "mono")
        self._detail.setReadOnly(True)
        self._detail.setPlaceholderText(tr("Select a row to read all of it."))
        self._splitter = QSplitter(Qt.Orientation.Horizontal)
        self._splitter.setObjectName("rows_splitter")
        self._splitter.setChildrenCollapsible(False)
        self._splitter.addWidget(self._lists)
        self._splitter.addWidget(self._detail)
        self._splitter.setStretchFactor(0, 3)
        self._splitter.setStretchFactor(1, 2)
        self._splitter.setMinimumHeight(_LEAST_ROWS_HEIGHT)
        card.body.addWidget(self._splitter, 1)
        return card

    def _build_table(self) -> QTableView:
        table = QTableView()
        table.setObjectName("rows_table")
        table.setAccessibleName(tr("Rows of the data"))
        table.setModel(self.rows)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setTabKeyNavigation(False)
        table.verticalHeader().hide()
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        return table

    def _connect(self) -> None:
        self._workspace.data_changed.connect(self.refresh)
        self._choose.clicked.connect(self._choose_files)
        self._pills.selected.connect(self._turn_to)
        self._error.action_clicked.connect(lambda: self._workspace.request_field(self._workspace.data.field))
        self._table.selectionModel().currentChanged.connect(self._show_row)
        self._bad_list.selectionModel().currentChanged.connect(self._show_bad_row)

    def _choose_files(self) -> None:
        first = next(iter(self._workspace.config.data.train), "")
        start = Path(first).parent if first else Path.home()
        files = self._asker.open_files(self, tr("Data"), start, [ROW_FILTER])
        if files:
            self._workspace.edit({"data.train": tuple(map(str, files))}, tr("Data"))

    def _show_error(self) -> None:
        data = self._workspace.data
        self._error.setVisible(bool(data.error))
        if data.error:
            self._error.show_message("error", f"{data.error} {data.hint}".strip(), tr("Go to the setting"))

    def _show_files(self) -> None:
        check = self._workspace.data_check
        while (entry := self._file_list.takeAt(0)) is not None:
            widget = entry.widget()
            if widget is not None:
                widget.deleteLater()
        for number, file in enumerate(check.files if check else ()):
            self._file_list.addWidget(_file_line(file, number))
        bad = check.bad_count if check else 0
        told = tr("{rows} rows · {bad} bad", rows=format_count(check.rows), bad=bad) if check else ""
        self._files.set_note(told or (tr("reading…") if self._workspace.data.reading else ""))

    def _show_rows(self) -> None:
        check, settings = self._workspace.data_check, self._workspace.config.data
        wanted = (check, settings.format, settings.columns, settings.encoding)
        if wanted == self._shown:
            return
        self._shown = wanted
        self.rows.set_check(check, settings)
        self.bad_rows.set_rows(check.bad_rows if check else ())
        bad = self.bad_rows.rowCount()
        self._pills.button("bad").setText(tr("Bad rows: {count}", count=bad))
        self._pills.button("bad").setEnabled(bad > 0)
        self._detail.clear()
        self._turn_to("bad" if check and bad and not check.rows else "rows")

    def _turn_to(self, which: str) -> None:
        self._pills.set_current(which)
        self._lists.setCurrentWidget(self._bad_list if which == "bad" else self._table)

    def _show_row(self, index: QModelIndex, _previous: QModelIndex) -> None:
        if index.isValid():
            self._detail.setPlainText(row_as_text(self.rows.row(index.row())))

    def _show_bad_row(self, index: QModelIndex, _previous: QModelIndex) -> None:
        if index.isValid():
            row = index.data(Qt.ItemDataRole.UserRole)
            check = self._workspace.data_check
            where = next((file.where for file in check.files if file.path == row.file), row.file) if check else row.file
            self._detail.setPlainText(f"{row}\n\n{raw_lines(where, row.line, self._workspace.config.data.encoding)}")


def _file_line(file: DataFile, number: int) -> QLabel:
    parts = [Path(file.path).name, tr("held out") if file.split == "eval" else "", file.format,
             tr("{rows} rows", rows=format_count(file.rows)), tr("{bad} bad", bad=file.bad_rows), format_bytes(file.bytes), file.reason]
    line = label(" · ".join(part for part in parts if part), "note", f"data_file_{number}", wrap=True)
    line.setToolTip(file.path)
    return line
