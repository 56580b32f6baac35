"""What can be done with the draft: save it, edit it as text, take edits back, hand it to a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PySide6.QtCore import QObject
from PySide6.QtGui import QGuiApplication

from lora_studio.core.world import launch_command
from lora_studio.gui.compose.error_toasts import ErrorToasts
from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.platform.file_dialogs import CONFIG_FILTER, FileDialogs
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.actions import Command
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.shell.yaml_view import YamlDialog


class DraftActions(QObject):
    """Commands on the draft."""

    def __init__(self, window: MainWindow, workspace: Workspace, run_view: ShownRun, dialogs: FileDialogs, toasts: ErrorToasts) -> None:
        super().__init__(window)
        self.setObjectName("draft_actions")
        self._window = window
        self._workspace = workspace
        self._draft = workspace.draft
        self._run_view = run_view
        self._dialogs = dialogs
        self._toasts = toasts

    def commands(self) -> Mapping[str, Command]:
        """Return what each action does, by its id."""
        stack = self._draft.undo_stack
        return {
            "new": Command(self._draft.new),
            "open_starter": Command(self._draft.open_starter),
            "save": Command(self._save),
            "save_as": Command(self._save_as),
            "yaml": Command(lambda: YamlDialog(self._workspace, self._window).show()),
            "copy_command": Command(self._copy_command),
            "undo": Command(stack.undo, enabled=stack.canUndo),
            "redo": Command(stack.redo, enabled=stack.canRedo),
            "reset_to_run": Command(self.reset_to_run, enabled=lambda: self._run_view.config is not None),
        }

    def reset_to_run(self) -> None:
        """Make the shown run's settings the draft's; one undo step."""
        if self._run_view.config is not None:
            self._draft.take_over(self._run_view.config, tr("Reset to {name}", name=self._run_view.name), self._draft.path)

    def _save(self) -> None:
        self._toasts.show_errors(lambda: self._draft.save() or self._save_as())

    def _save_as(self) -> None:
        suggestion = self._draft.path or Path.cwd() / f"{self._draft.config.name}.yaml"
        path = self._dialogs.save_file(self._window, tr("Save the draft"), suggestion, [CONFIG_FILTER])
        if path is not None:
            self._toasts.show_errors(lambda: self._draft.save_as(path if path.suffix else path.with_suffix(".yaml")))

    def _copy_command(self) -> None:
        self._draft.files.flush()
        path = self._draft.files.draft_path  # its own file may be older than the draft
        QGuiApplication.clipboard().setText(launch_command(path, self._draft.config.training.num_processes))
        self._window.toasts.show("good", tr("Copied: the command that trains this draft."))
