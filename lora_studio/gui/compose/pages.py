"""The pages in the middle of the window: made once the panels have painted, since pyqtgraph takes its time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.export.export_format import ExportFormat
from lora_studio.gui.compose.error_toasts import ErrorToasts
from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.export.adapter_import import AdapterImport
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.main_window import MainWindow

if TYPE_CHECKING:
    from lora_studio.gui.data_page.page import DataPage
    from lora_studio.gui.runs_page.page import RunsPage
    from lora_studio.gui.train_page.page import TrainPage


class Pages(QObject):
    """Makes the pages, and brings one to the front.

    Signals:
        made: They are there, their plots made, and the run of last time is shown.
        ready_for_runs: Sent from the event loop after that: runs that went on can be looked for.

    Attributes:
        train: The Train page; this and the others only once they are made.
        runs: The Runs page.
        data: The Data page.
    """

    made = Signal()
    ready_for_runs = Signal()
    train: TrainPage
    runs: RunsPage
    data: DataPage

    def __init__(
        self,
        window: MainWindow,
        workspace: Workspace,
        jobs: JobCenter,
        run_view: ShownRun,
        starter: RunControl,
        queue: RunQueue,
        adapter_import: AdapterImport,
        dialogs: FileDialogs,
        toasts: ErrorToasts,
    ) -> None:
        super().__init__(window)
        self.setObjectName("pages")
        self._window = window
        self._workspace = workspace
        self._jobs = jobs
        self._run_view = run_view
        self._starter = starter
        self._queue = queue
        self._adapter_import = adapter_import
        self._dialogs = dialogs
        self._toasts = toasts

    def make(self) -> None:
        """Make the pages and their plots; pyqtgraph is imported here."""
        from lora_studio.gui.data_page.page import DataPage
        from lora_studio.gui.runs_page.page import RunsPage
        from lora_studio.gui.train_page.page import TrainPage

        shared = (self._workspace, self._jobs, self._run_view)
        self.train = TrainPage(*shared, self._starter, self._dialogs)
        self.runs = RunsPage(*shared, self._starter, self._queue, self._dialogs)
        self.data = DataPage(*shared, self._dialogs)
        self._window.remove_page_placeholder()
        for identity, title, page in (
            ("data", tr("Data"), self.data),
            ("train", tr("Train"), self.train),
            ("runs", tr("Runs"), self.runs),
        ):
            self._window.add_page(identity, title, page)
        self._connect()
        self.train.curves.make_plots()
        self._show_estimate()
        self._reopen_run()
        self.made.emit()
        QTimer.singleShot(0, self, self.ready_for_runs.emit)

    def export(self, kind: ExportFormat) -> None:
        """Ask on the Train page how the shown run's adapter is exported."""
        self.train.export(kind)

    def show_queue(self) -> None:
        """Show what waits for the device."""
        self._window.show_page("runs")
        self.runs.focus_queue()

    def _connect(self) -> None:
        self._adapter_import.export_asked.connect(self.train.export_adapter)
        self.runs.run_opened.connect(lambda: self._window.show_page("train"))
        self._starter.run_added.connect(lambda _path: self._window.show_page("train"))
        self._workspace.plan.changed.connect(self._show_estimate)

    def _show_estimate(self) -> None:
        plan = self._workspace.plan.plan
        self.train.curves.set_estimate(plan.memory.peak_bytes if plan else None)

    def _reopen_run(self) -> None:
        """Show the run of last time again, where it is still there."""
        remembered = Path(self._window.state.run)
        if self._window.state.run and self._run_view.config is None and (remembered / "run.yaml").is_file():
            self._toasts.show_errors(lambda: self._run_view.open(remembered))
