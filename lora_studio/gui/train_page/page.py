"""The Train page: the run bar, figures, curves, answers before and after, and the log; before a run, three ways in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QStackedWidget, QVBoxLayout, QWidget

from lora_studio.core.errors import StudioError
from lora_studio.core.events import RunFailed, RunFinished, RunStopped
from lora_studio.export.export_format import ExportFormat
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.export.dialog import ExportDialog
from lora_studio.gui.export.subject import ExportSubject
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_when
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.train_page.before_after import BeforeAfterCard
from lora_studio.gui.train_page.curves import CurvesArea
from lora_studio.gui.train_page.log_card import LogCard
from lora_studio.gui.train_page.run_bar import RunBar
from lora_studio.gui.train_page.scrolling import scrolling
from lora_studio.gui.train_page.start_cards import StartCards
from lora_studio.gui.train_page.tiles import TilesCard
from lora_studio.gui.widgets import Banner

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

_SPACING = 10


class TrainPage(QWidget):
    """Shows the run of the `ShownRun`, live or from disk, or the start cards while there is none."""

    def __init__(
        self,
        workspace: Workspace,
        jobs: JobCenter,
        run_view: ShownRun,
        starter: RunControl,
        asker: FileDialogs | None = None,
    ) -> None:
        super().__init__()
        self.setObjectName("train_page")
        self._workspace = workspace
        self._jobs = jobs
        self._run_view = run_view
        self._starter = starter
        self._asker = asker or FileDialogs()
        self._dialogs: list[ExportDialog] = []
        self._build()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show the run, or the way to one."""
        self._stack.setCurrentWidget(self._start_area if self._run_view.config is None else self._run_area)
        self._show_end()

    def export(self, kind: ExportFormat) -> ExportDialog | None:
        """Open the dialog that exports the shown run; None while there is nothing to export."""
        if self._run_view.folder is None or not self._run_view.has_weights:
            return None
        return self._open_dialog(kind, ExportSubject.of_run(self._run_view.folder))

    def export_adapter(self, folder: Path) -> ExportDialog | None:
        """Open the dialog that exports an adapter which is no run; None where it cannot be read, which is told."""
        try:
            return self._open_dialog("adapter", ExportSubject.of_folder(folder))
        except StudioError as error:
            self._workspace.draft.tell("error", str(error))
            return None

    def _open_dialog(self, kind: ExportFormat, subject: ExportSubject) -> ExportDialog:
        dialog = ExportDialog(kind, subject, self._jobs, self._asker, self.window())
        dialog.finished.connect(lambda _code: self._forget(dialog))
        self._dialogs.append(dialog)
        dialog.show()
        return dialog

    def _build(self) -> None:
        self.run_bar = RunBar(self._workspace, self._run_view, self._starter)
        self.banner = Banner(closable=True, name="run_banner")
        self._above = QVBoxLayout()
        self._above.setSpacing(_SPACING)
        self._above.addWidget(self.run_bar)
        self._above.addWidget(self.banner)
        self._start_area = scrolling(StartCards(self._workspace, self._asker), "start_area")
        self._run_area = scrolling(self._build_run(), "run_area")
        self._stack = QStackedWidget()
        self._stack.setObjectName("train_stack")
        self._stack.addWidget(self._start_area)
        self._stack.addWidget(self._run_area)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(_SPACING)
        layout.addLayout(self._above)
        layout.addWidget(self._stack, 1)

    def _build_run(self) -> QWidget:
        content = QWidget()
        content.setObjectName("run_content")
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(_SPACING)
        self.curves = CurvesArea(self._run_view)
        layout.addWidget(TilesCard(self._run_view))
        layout.addWidget(self.curves, 1)
        self._before_after = BeforeAfterCard(self._run_view)
        layout.addWidget(self._before_after)
        layout.addWidget(LogCard(self._run_view))
        return content

    def _connect(self) -> None:
        self._run_view.changed.connect(self.refresh)
        self.run_bar.export_requested.connect(lambda: self.export("adapter"))
        self.run_bar.merge_requested.connect(lambda: self.export("merged"))
        self.run_bar.resume_requested.connect(self._resume)
        self.banner.action_clicked.connect(self._on_cure)
        self._run_area.verticalScrollBar().rangeChanged.connect(self._keep_right_edges_in_line)

    def _keep_right_edges_in_line(self, _least: int, most: int) -> None:
        """End bar and banner where the cards end that scroll below them."""
        scroll_bar = self._run_area.verticalScrollBar()
        self._above.setContentsMargins(0, 0, scroll_bar.sizeHint().width() if most > 0 else 0, 0)

    def _show_end(self) -> None:
        """Say how the run ended, with the next step as a button."""
        state, last = self._run_view.state, self._run_view.history.last_event
        when = format_when(last.time) if last else ""
        name, step = self._run_view.config.name if self._run_view.config else "", self._run_view.history.step
        match last:
            case _ if self._run_view.is_live or state == "none":
                self.banner.hide()
                return
            case RunFinished():
                share = self._before_after.text
                text = tr("{name} finished, {when}.", name=name, when=when)
                self.banner.show_message("good", f"{text} {share}." if share else text, tr("Merge this run…"))
            case RunStopped():
                text = tr("{name} stopped at step {step}, {when}.", name=name, step=step, when=when)
                self.banner.show_message("warning", text, tr("Resume"))
            case RunFailed():
                cure = tr("Go to the setting") if last.field else tr("Resume")
                self.banner.show_message("error", f"{name}: {last.message} {last.hint}".strip(), cure)
            case _ if state == "new":
                self.banner.show_message("info", tr("{name} has not started yet.", name=name), tr("Start"))
            case _:
                self.banner.show_message("warning", tr("{name} was interrupted at step {step}.", name=name, step=step), tr("Resume"))
        self.banner.show()

    def _on_cure(self) -> None:
        failure = self._run_view.failure
        if self._run_view.state == "finished":
            self.export("merged")
        elif failure is not None and failure.field:
            self._workspace.draft.request_field(failure.field)
        else:
            self._resume()

    def _resume(self) -> None:
        path = self._run_view.path
        if path is None:
            return
        try:
            self._starter.resume_run(path)
        except (StudioError, OSError) as error:
            self._workspace.draft.tell("error", str(error))

    def _forget(self, dialog: ExportDialog) -> None:
        self._dialogs.remove(dialog)
        dialog.deleteLater()
