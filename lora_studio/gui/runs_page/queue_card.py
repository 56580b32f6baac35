"""The card of what waits for the device: in its order, to be moved and taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt, Signal
from PySide6.QtGui import QAction, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QHBoxLayout, QHeaderView, QPushButton, QTableView

from lora_studio.core.errors import StudioError
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_queue import QueueEntry, RunQueue
from lora_studio.gui.runs_page.runs_model import Index
from lora_studio.gui.train_page.run_bar import settings_text
from lora_studio.gui.widgets import Card
from lora_studio.jobs.job import Job

_MOST_ROWS = 4
_LEAST_WIDTHS = {"place": 620, "base": 520}
_NAMES = ("run", "settings", "base", "place", "waits")


class QueueModel(QAbstractTableModel):
    """One row a job that waits."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._titles = (tr("Run"), tr("Settings"), tr("Base model"), tr("Lives in"), tr("Waits for"))
        self._entries: list[QueueEntry] = []
        self._texts: list[tuple[str, ...]] = []

    @property
    def entries(self) -> Sequence[QueueEntry]:
        """What is shown, the next one first."""
        return self._entries

    def set_entries(self, entries: Sequence[QueueEntry]) -> None:
        """Show these."""
        self.beginResetModel()
        self._entries = list(entries)
        self._texts = [_texts(entry) for entry in entries]
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the jobs."""
        return 0 if parent.isValid() else len(self._entries)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the columns."""
        return 0 if parent.isValid() else len(_NAMES)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a column's title, or a row's place in the queue."""
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        return self._titles[section] if orientation == Qt.Orientation.Horizontal else str(section + 1)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a cell's text; all of a row as its tooltip."""
        texts = self._texts[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return texts[index.column()]
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleDescriptionRole):
            reported = [f"{title}: {text}" for title, text in zip(self._titles, texts, strict=True) if text]
            return "\n".join(reported) if role == Qt.ItemDataRole.ToolTipRole else ", ".join(reported)
        return None


class QueueCard(Card):
    """A table, and buttons for its selected row; hidden while nothing waits.

    Signals:
        problem: Something could not be done (its message).
    """

    problem = Signal(str)

    def __init__(self, queue: RunQueue) -> None:
        super().__init__(tr("Queue"), name="queue_card")
        self._queue = queue
        self._model = QueueModel(self)
        self.table = self._build_table()
        self.body.addWidget(self.table)
        self.body.addLayout(self._build_buttons())
        queue.changed.connect(self.refresh)
        self.table.selectionModel().selectionChanged.connect(self._show_buttons)
        self.refresh()

    @property
    def selected(self) -> Job | None:
        """The job of the selected row."""
        rows = self.table.selectionModel().selectedRows()
        return self._model.entries[rows[0].row()].job if rows else None

    def refresh(self) -> None:
        """Show the queue as it is now; the selection follows its job."""
        chosen, row = self.selected, self.table.currentIndex().row()
        entries = self._queue.entries
        self._model.set_entries(entries)
        self.setVisible(bool(entries))
        self.set_note(tr("1 waits") if len(entries) == 1 else tr("{count} wait", count=len(entries)))
        positions = [position for position, entry in enumerate(entries) if entry.job is chosen]
        if entries:
            self.table.selectRow(positions[0] if positions else min(max(row, 0), len(entries) - 1))
        self._fit()
        self._show_buttons()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Leave columns out where it is narrow; their texts are in the row's tooltip."""
        super().resizeEvent(event)
        for name, least in _LEAST_WIDTHS.items():
            self.table.setColumnHidden(_NAMES.index(name), event.size().width() < least)
        self._fit()

    def move_up(self) -> None:
        """Let the selected job come earlier."""
        self._move(-1)

    def move_down(self) -> None:
        """Let the selected job come later."""
        self._move(1)

    def remove(self) -> None:
        """Take the selected job out."""
        job = self.selected
        if job is not None:
            try:
                self._queue.remove(job)
            except (StudioError, OSError) as error:
                self.problem.emit(str(error))

    def _move(self, by: int) -> None:
        job = self.selected
        if job is not None:
            self._queue.move(job, by)

    def _build_table(self) -> QTableView:
        table = QTableView()
        table.setObjectName("queue_table")
        table.setAccessibleName(tr("Queue"))
        table.setModel(self._model)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setTabKeyNavigation(False)
        table.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for name in ("run", "base", "waits"):
            header.setSectionResizeMode(_NAMES.index(name), QHeaderView.ResizeMode.Stretch)
        return table

    def _build_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(6)
        wishes = (
            ("up", tr("Move up"), self.move_up, "Alt+Up"),
            ("down", tr("Move down"), self.move_down, "Alt+Down"),
            ("remove", tr("Remove"), self.remove, "Del"),
        )
        self._wishes = {name: self._add_wish(row, name, text, work, keys) for name, text, work, keys in wishes}
        row.addStretch(1)
        return row

    def _add_wish(self, row: QHBoxLayout, name: str, text: str, work: Callable[[], None], keys: str) -> tuple[QPushButton, QAction]:
        """Make a button and the action with its keys; both do the same."""
        action = QAction(text, self.table)
        action.setShortcut(QKeySequence(keys))
        action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        action.triggered.connect(work)
        self.table.addAction(action)
        button = QPushButton(text)
        button.setObjectName(f"queue_{name}_button")
        button.setToolTip(action.shortcut().toString(QKeySequence.SequenceFormat.NativeText))
        button.clicked.connect(work)
        row.addWidget(button)
        return button, action

    def _show_buttons(self, *_selection: object) -> None:
        rows = self.table.selectionModel().selectedRows()
        position = rows[0].row() if rows else -1
        able = {"up": position > 0, "down": 0 <= position < len(self._model.entries) - 1, "remove": position >= 0}
        for name, parts in self._wishes.items():
            for part in parts:
                part.setEnabled(able[name])

    def _fit(self) -> None:
        """Be as high as the rows, up to a few: the rest scrolls."""
        rows = min(len(self._model.entries), _MOST_ROWS)
        frame = 2 * self.table.frameWidth() + 2
        self.table.setFixedHeight(
            self.table.horizontalHeader().sizeHint().height() + rows * self.table.verticalHeader().defaultSectionSize() + frame
        )


def _texts(entry: QueueEntry) -> tuple[str, ...]:
    config, spec = entry.config, entry.job.spec
    where = tr("own process") if spec.survives else tr("this window")
    settings = settings_text(config) if config is not None else ""
    base = config.model.name_or_path.rstrip("/").rpartition("/")[2] if config is not None else ""
    return spec.title, settings, base, where, entry.waits_for
