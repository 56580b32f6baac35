"""What can be done with runs: start one, steer the one that is shown, say where the next lives, export what it made."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QObject

from lora_studio.gui.compose.error_toasts import ErrorToasts
from lora_studio.gui.compose.pages import Pages
from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.engine.job_center import HostName
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.actions import Command
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.widgets import NumberEdit


class RunActions(QObject):
    """Commands on runs."""

    def __init__(
        self, window: MainWindow, workspace: Workspace, run_view: ShownRun, starter: RunControl, pages: Pages, toasts: ErrorToasts
    ) -> None:
        super().__init__(window)
        self.setObjectName("run_actions")
        self._window = window
        self._workspace = workspace
        self._run_view = run_view
        self._starter = starter
        self._pages = pages
        self._toasts = toasts

    def commands(self) -> Mapping[str, Command]:
        """Return what each action does, by its id."""
        view = self._run_view
        return {
            "start": Command(self.start, text=lambda: self._starter.start_state.text),
            "pause": Command(self._pause, enabled=lambda: view.is_live),
            "stop": Command(self._starter.stop, enabled=lambda: view.is_live),
            "checkpoint_now": Command(self._checkpoint_now, enabled=lambda: view.is_live),
            "sample_now": Command(self._sample_now, enabled=self._answers),
            "queue": Command(self._pages.show_queue),
            "export": Command(lambda: self._pages.export("adapter"), enabled=lambda: view.has_weights),
            "merge": Command(lambda: self._pages.export("merged"), enabled=lambda: view.has_weights),
            "host_thread": self._choice("thread"),
            "host_process": self._choice("process"),
        }

    def start(self) -> None:
        """Start a run of the draft; where something is missing, go to its field."""
        focused = self._window.focusWidget()
        if isinstance(focused, NumberEdit) and not focused.commit():
            return
        if self._starter.start_state.enabled:
            self._toasts.show_errors(self._starter.start_run)
        else:
            self._workspace.draft.request_field(next((item.field for item in self._workspace.readiness.items if not item.ok), ""))

    def _choice(self, host: HostName) -> Command:
        return Command(lambda: self._choose_host(host), checked=lambda: self._starter.host == host)

    def _choose_host(self, host: HostName) -> None:
        self._starter.set_host(host)
        self._window.actions_.refresh()  # one of the two was on, and a press on it took its mark away

    def _answers(self) -> bool:
        config = self._run_view.config
        return self._run_view.is_live and config is not None and config.training.sample_rows > 0

    def _pause(self) -> None:
        (self._starter.go_on if self._run_view.is_pause_asked else self._starter.pause)()

    def _checkpoint_now(self) -> None:
        self._starter.checkpoint_now()
        self._window.toasts.show("info", tr("{run} saves a checkpoint after the step under way.", run=self._run_view.name))

    def _sample_now(self) -> None:
        self._starter.sample_now()
        self._window.toasts.show("info", tr("{run} answers its held-out prompts after the step under way.", run=self._run_view.name))
