"""The end of a window: what it leaves on disk, and what it joins."""

from __future__ import annotations

from PySide6.QtCore import QObject

from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.main_window import MainWindow


class Shutdown(QObject):
    """Ends what is behind a window, once."""

    def __init__(
        self, window: MainWindow, workspace: Workspace, jobs: JobCenter, run_view: ShownRun, starter: RunControl, queue: RunQueue
    ) -> None:
        super().__init__(window)
        self.setObjectName("shutdown")
        self._window = window
        self._workspace = workspace
        self._jobs = jobs
        self._run_view = run_view
        self._starter = starter
        self._queue = queue
        self._closed = False

    def close(self) -> None:
        """Save the draft and the window's look, stop and join what runs."""
        if self._closed:
            return
        self._closed = True
        self._workspace.draft.close()
        state = self._window.remember()
        state.run = str(self._run_view.path or "")
        state.queue, state.host = self._queue.run_folders, self._starter.host
        try:
            state.save()
        finally:
            self._jobs.close()
