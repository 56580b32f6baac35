"""The run's log, with a filter."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractItemView, QListView

from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_log import RunLogModel
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.widgets import Card, Pills


class LogCard(Card):
    """Lines of the shown run; it follows the end while the end is in view."""

    def __init__(self, run_view: ShownRun) -> None:
        super().__init__(tr("Log"), name="log_card")
        self._run_view = run_view
        self._model = RunLogModel(self)
        self._list = QListView()
        self._list.setObjectName("run_log")
        self._list.setAccessibleName(tr("Log of the run"))
        self._list.setProperty("role", "mono")
        self._list.setModel(self._model)
        self._list.setUniformItemSizes(True)
        self._list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self._list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.setMinimumHeight(self._list.fontMetrics().height() * 5)
        self.body.addWidget(self._list)
        run_view.changed.connect(self._show_run)
        run_view.updated.connect(self._sync)
        self._shown = run_view.history
        self._model.show_history(self._shown)
        self._add_filter()

    def _add_filter(self) -> None:
        kinds = [("", tr("all")), ("samples", tr("samples")), ("checkpoints", tr("checkpoints")), ("warnings", tr("warnings"))]
        pills = Pills(kinds, name="log_filter")
        pills.set_current("")
        pills.selected.connect(self._model.set_kind)
        self.add_header_widget(pills)

    def _show_run(self) -> None:
        if self._run_view.history is not self._shown:
            self._shown = self._run_view.history
            self._model.show_history(self._shown)
            self._list.scrollToBottom()

    def _sync(self) -> None:
        bar = self._list.verticalScrollBar()
        follows = bar.value() >= bar.maximum()
        self._model.sync()
        if follows:
            self._list.scrollToBottom()
