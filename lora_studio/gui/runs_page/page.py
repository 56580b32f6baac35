"""The Runs page: what waits for the device; every run on this machine, to open, go on with, start from, show or delete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, QSortFilterProxyModel, Qt, Signal
from PySide6.QtGui import QAction, QKeySequence, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QAbstractItemView, QHBoxLayout, QHeaderView, QPushButton, QTableView, QVBoxLayout, QWidget

from lora_studio.core.errors import StudioError
from lora_studio.core.runs import RunFolder, RunSummary
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.runs_page.queue_card import QueueCard
from lora_studio.gui.runs_page.runs_model import SORT_ROLE, RunsModel
from lora_studio.gui.widgets import Card, LineEdit, label

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

_SPACING = 10
_LEAST_WIDTHS = {"base": 700, "duration": 780, "alpha": 620, "loss": 560}
_RESUMABLE = frozenset({"new", "stopped", "failed", "interrupted"})


class RunsPage(QWidget):
    """The queue while something waits, a table that sorts and filters, and buttons for the selected run.

    Signals:
        run_opened: A run is shown now: go to the Train page.
    """

    run_opened = Signal()

    def __init__(
        self,
        workspace: Workspace,
        jobs: JobCenter,
        run_view: ShownRun,
        starter: RunControl,
        queue: RunQueue,
        asker: FileDialogs | None = None,
    ) -> None:
        super().__init__()
        self.setObjectName("runs_page")
        self._workspace = workspace
        self._jobs = jobs
        self._run_view = run_view
        self._starter = starter
        self._queue = queue
        self._asker = asker or FileDialogs()
        self._build()
        self._connect()

    @property
    def selected(self) -> RunSummary | None:
        """The run of the selected row."""
        rows = self.table.selectionModel().selectedRows()
        return rows[0].data(Qt.ItemDataRole.UserRole) if rows else None

    def refresh(self) -> None:
        """Read the list again."""
        store = self._starter.store
        root = store.root.resolve()
        self._model.set_runs(store.list(), {Path(folder).name for folder in self._queue.run_folders if Path(folder).parent == root})
        count = len(self._model.runs)
        self._card.set_note(tr("1 run") if count == 1 else tr("{count} runs", count=count))
        self._empty.setVisible(count == 0)
        self.table.setVisible(count > 0)
        if self.selected is None and self._proxy.rowCount():
            self.table.selectRow(0)
        self._show_buttons()

    def showEvent(self, event: QShowEvent) -> None:
        """Read the list again when the page comes up."""
        super().showEvent(event)
        self.refresh()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Leave out what a run can do without where the table is narrow; opening the run still tells it."""
        super().resizeEvent(event)
        for name, least in _LEAST_WIDTHS.items():
            self.table.setColumnHidden(self._model.column(name), event.size().width() < least)

    def focus_queue(self) -> None:
        """Put the keyboard into the queue, or into the list of runs while nothing waits."""
        (self.queue_card.table if self.queue_card.isVisible() else self.table).setFocus(Qt.FocusReason.ShortcutFocusReason)

    def open_selected(self) -> None:
        """Show the selected run: its curves and config, from disk."""
        run = self.selected
        if run is not None and self._show_errors(lambda: self._run_view.open(run.path)):
            self.run_opened.emit()

    def new_from_selected(self) -> None:
        """Make the selected run's config the draft; undo brings the draft before back."""
        run = self.selected
        if run is not None:
            self._show_errors(lambda: self._workspace.draft.new_from_run(RunFolder.open(run.path).config))

    def resume_selected(self) -> None:
        """Go on with the selected run."""
        run = self.selected
        if run is not None and self._show_errors(lambda: self._starter.resume_run(run.path)):
            self.run_opened.emit()

    def reveal_selected(self) -> None:
        """Show the selected run's folder in the file manager."""
        run = self.selected
        if run is not None and not self._asker.show_folder(run.path):
            self._workspace.draft.tell("info", str(run.path))

    def delete_selected(self) -> None:
        """Delete the selected run, after a question."""
        run = self.selected
        if run is None:
            return
        text = tr("{folder}\n\nIts adapter, checkpoints, exports and curves are removed from disk. This cannot be undone.", folder=run.path)
        if self._asker.confirm(self, tr("Delete {name}?", name=run.path.name), text, tr("Delete")):
            self._show_errors(lambda: self._delete(run.path))
            self.refresh()

    def _delete(self, path: Path) -> None:
        RunFolder.open(path).delete()
        if self._run_view.path == path:
            self._run_view.close()

    def _build(self) -> None:
        self._model = RunsModel(self)
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSourceModel(self._model)
        self._proxy.setSortRole(SORT_ROLE)
        self._proxy.setFilterKeyColumn(-1)
        self._proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.queue_card = QueueCard(self._queue)
        self._card = Card(tr("Runs"), name="runs_card")
        self._filter = LineEdit(name="runs_filter")
        self._filter.setPlaceholderText(tr("Filter runs"))
        self._filter.setClearButtonEnabled(True)
        self._filter.setMaximumWidth(240)
        self._card.add_header_widget(self._filter)
        self.table = self._build_table()
        self._empty = label(tr("No runs yet. Start makes the first one."), "note", "no_runs", wrap=True)
        self._card.body.addWidget(self._empty)
        self._card.body.addWidget(self.table, 1)
        self._card.body.addLayout(self._build_buttons())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(_SPACING)
        layout.addWidget(self.queue_card)
        layout.addWidget(self._card, 1)

    def _build_table(self) -> QTableView:
        table = QTableView()
        table.setObjectName("runs_table")
        table.setAccessibleName(tr("Runs"))
        table.setModel(self._proxy)
        table.setSortingEnabled(True)
        table.sortByColumn(self._model.column("when"), Qt.SortOrder.DescendingOrder)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setTabKeyNavigation(False)
        table.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
        table.verticalHeader().hide()
        table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for name in ("name", "base"):
            header.setSectionResizeMode(self._model.column(name), QHeaderView.ResizeMode.Stretch)
        return table

    def _build_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(6)
        wishes = (
            ("open", tr("Open"), self.open_selected, ""),
            ("resume", tr("Resume"), self.resume_selected, ""),
            ("new_from", tr("New run from this"), self.new_from_selected, ""),
            ("reveal", tr("Show folder"), self.reveal_selected, ""),
            ("delete", tr("Delete…"), self.delete_selected, "Del"),
        )
        self._buttons: dict[str, QPushButton] = {}
        self._actions: dict[str, QAction] = {}
        for name, text, work, keys in wishes:
            button = QPushButton(text)
            button.setObjectName(f"run_{name}_button")
            button.clicked.connect(work)
            action = QAction(text, self.table)
            action.setShortcut(QKeySequence(keys))
            action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
            action.triggered.connect(work)
            self.table.addAction(action)
            row.addWidget(button)
            self._buttons[name], self._actions[name] = button, action
        row.addStretch(1)
        return row

    def _connect(self) -> None:
        self._filter.textChanged.connect(self._proxy.setFilterFixedString)
        self.table.activated.connect(self._on_activated)
        self.table.selectionModel().selectionChanged.connect(self._show_buttons)
        self._proxy.modelReset.connect(self._show_buttons)
        self._jobs.jobs_changed.connect(self._on_jobs_changed)
        self._queue.changed.connect(self._on_jobs_changed)
        self.queue_card.problem.connect(lambda message: self._workspace.draft.tell("error", message))

    def _on_activated(self, _index: QModelIndex) -> None:
        self.open_selected()

    def _on_jobs_changed(self) -> None:
        if self.isVisible():
            self.refresh()

    def _show_buttons(self, *_selection: object) -> None:
        run = self.selected
        at_rest = run is not None and run.state != "running" and self._jobs.run_job(run.path) is None
        for name in self._buttons:
            able = run is not None
            if run is not None and name in ("resume", "delete"):
                able = at_rest and (name == "delete" or run.state in _RESUMABLE)
            self._buttons[name].setEnabled(able)
            self._actions[name].setEnabled(able)
        text = tr("Start") if run is not None and run.state == "new" else tr("Resume")
        self._buttons["resume"].setText(text)
        self._actions["resume"].setText(text)

    def _show_errors(self, action: Callable[[], object]) -> bool:
        """Do something that may fail for a reason a person can act on; say whether it went well."""
        try:
            action()
        except (StudioError, OSError) as error:
            self._workspace.draft.tell("error", str(error))
            return False
        return True
