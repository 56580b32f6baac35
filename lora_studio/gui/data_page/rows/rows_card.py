"""All rows of the data and the bad ones, a search over them, and the selected row beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QKeyEvent, QKeySequence, QResizeEvent, QShortcut
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QSplitter, QStackedWidget, QTableView, QVBoxLayout, QWidget

from lora_studio.data.rows.row import Row
from lora_studio.gui.data_page.issues.bad_rows_view import BadRowsView
from lora_studio.gui.data_page.row_models import RowsModel
from lora_studio.gui.data_page.rows.row_detail import RowDetail
from lora_studio.gui.data_page.rows.search import RowSearch
from lora_studio.gui.data_page.rows.search_bar import SearchBar
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import Card, Pills

if TYPE_CHECKING:
    from lora_studio.data.check import DataCheck
    from lora_studio.gui.draft.workspace import Workspace

_NARROW = 760
_LOOKED_AT = 50  # rows, for one that is sound
_HEIGHTS = {Qt.Orientation.Horizontal: 320, Qt.Orientation.Vertical: 460}


class RowsTable(QTableView):
    """The table of rows; Enter goes on to the row itself."""

    def __init__(self, model: RowsModel) -> None:
        super().__init__()
        self.setObjectName("rows_table")
        self.setAccessibleName(tr("Rows of the data"))
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter activates on every platform."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.currentIndex().isValid():
            self.activated.emit(self.currentIndex())
        else:
            super().keyPressEvent(event)


class RowsCard(Card):
    """Rows, bad rows, search and detail."""

    def __init__(self, workspace: Workspace, jobs: JobCenter, asker: FileDialogs) -> None:
        super().__init__(tr("Rows"), name="rows_card")
        self._workspace = workspace
        self._shown: object = None
        self._judged: DataCheck | None = None
        self.rows = RowsModel(self)
        self.table = RowsTable(self.rows)
        self.bad = BadRowsView(workspace, asker)
        self.detail = RowDetail(workspace, jobs)
        self.search = RowSearch(self)
        self.search_bar = SearchBar(self.search)
        self._build()
        self._connect()

    def refresh(self) -> None:
        """Show the rows of the draft's data, unless they are shown already."""
        check, settings = self._workspace.data.check, self._workspace.draft.config.data
        judged = self._workspace.data.judged
        self._show_bad(judged)
        wanted = (check, settings.format, settings.columns, settings.encoding)
        if wanted == self._shown:
            return
        self._shown = wanted
        self.search_bar.close_search()
        self.rows.set_check(check, settings)
        self.detail.clear()
        self.turn_to("bad" if check and check.bad_count and not check.rows else "rows")

    def _show_bad(self, judged: DataCheck | None) -> None:
        """List the bad rows, unless they are listed already: what the chat template refuses is known later than the others."""
        if judged == self._judged:
            return
        self._judged = judged
        self.bad.show_check(judged)
        bad = judged.bad_count if judged else 0
        self._pills.button("bad").setText(tr("Bad rows: {count}", count=format_count(bad)))
        self._pills.button("bad").setEnabled(bad > 0)
        if not bad:
            self.turn_to("rows")

    def turn_to(self, which: str) -> None:
        """Show all rows, or the bad ones."""
        self._pills.set_current(which)
        self._lists.setCurrentWidget(self.bad if which == "bad" else self.table)

    def sample_row(self) -> Row | None:
        """Return the selected row, or else the first sound one among the first."""
        numbers = [self._row, *range(min(self.rows.rowCount(), _LOOKED_AT))]
        detected = (self.rows.row(number) for number in numbers if number >= 0)
        return next((row for row in detected if isinstance(row, Row)), None)

    def open_search(self) -> None:
        """Open the search."""
        self.turn_to("rows")
        self.search_bar.open()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the selected row below the table where there is no room beside it."""
        super().resizeEvent(event)
        side = Qt.Orientation.Vertical if event.size().width() < _NARROW else Qt.Orientation.Horizontal
        self._splitter.setOrientation(side)
        self._splitter.setMinimumHeight(_HEIGHTS[side])

    def _build(self) -> None:
        self._pills = Pills([("rows", tr("Rows")), ("bad", tr("Bad rows"))], name="rows_switch")
        self.add_header_widget(self._pills)
        self._lists = QStackedWidget()
        self._lists.setObjectName("rows_stack")
        self._lists.addWidget(self.table)
        self._lists.addWidget(self.bad)
        left = QWidget()
        left.setObjectName("rows_side")
        layout = QVBoxLayout(left)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.search_bar)
        layout.addWidget(self._lists, 1)
        self._splitter = QSplitter(Qt.Orientation.Horizontal)
        self._splitter.setObjectName("rows_splitter")
        self._splitter.setChildrenCollapsible(False)
        self._splitter.setHandleWidth(10)
        self._splitter.addWidget(left)
        self._splitter.addWidget(self.detail)
        self._splitter.setStretchFactor(0, 1)
        self._splitter.setStretchFactor(1, 1)
        self.body.addWidget(self._splitter, 1)

    def _connect(self) -> None:
        self._pills.selected.connect(self.turn_to)
        self.table.selectionModel().currentChanged.connect(self._on_row)
        self.table.activated.connect(lambda _index: self.detail.focus())
        self.bad.selected.connect(self.detail.show_bad_row)
        self.bad.list.activated.connect(lambda _index: self.detail.focus())
        self.search_bar.asked.connect(lambda text: self.search.begin(self.rows.index_of_rows, text, max(self._row, 0)))
        self.search_bar.next_asked.connect(lambda: self.search.next_after(self._row))
        self.search_bar.previous_asked.connect(lambda: self.search.previous_before(self._row))
        self.search_bar.closed.connect(self.table.setFocus)
        self.search.arrived.connect(self._go_to)
        find = QShortcut(QKeySequence(QKeySequence.StandardKey.Find), self, context=Qt.ShortcutContext.WindowShortcut)
        find.setObjectName("find_shortcut")
        find.activated.connect(self.open_search)

    @property
    def _row(self) -> int:
        return self.table.currentIndex().row()

    def _go_to(self, number: int) -> None:
        self.rows.show_up_to(number)
        index = self.rows.index(number, 0)
        self.table.setCurrentIndex(index)
        self.table.scrollTo(index, QAbstractItemView.ScrollHint.PositionAtCenter)

    def _on_row(self, index: QModelIndex, _previous: QModelIndex) -> None:
        if index.isValid():
            self.detail.show_row(self.rows.row(index.row()))
