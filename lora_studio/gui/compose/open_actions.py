"""Opening: what is dropped on the window, named on the command line, chosen in a dialog, or was opened lately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QMenu

from lora_studio.core.errors import InputError
from lora_studio.gui.compose.error_toasts import ErrorToasts
from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.export.adapter_import import AdapterImport
from lora_studio.gui.platform.file_dialogs import CONFIG_FILTER, FileDialogs
from lora_studio.gui.platform.path_kinds import PathKind, is_model_name, kind_of
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.actions import Command
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.shell.yaml_view import YamlDialog


class OpenActions(QObject):
    """Commands that open something, and the list of what was opened lately."""

    def __init__(
        self,
        window: MainWindow,
        workspace: Workspace,
        run_view: ShownRun,
        starter: RunControl,
        adapter_import: AdapterImport,
        dialogs: FileDialogs,
        toasts: ErrorToasts,
    ) -> None:
        super().__init__(window)
        self.setObjectName("open_actions")
        self._window = window
        self._workspace = workspace
        self._run_view = run_view
        self._starter = starter
        self._adapter_import = adapter_import
        self._dialogs = dialogs
        self._toasts = toasts
        self._recent = QMenu(tr("Open recent"), window)
        self._recent.setObjectName("menu_recent")
        window.actions_.insert_menu("File", self._recent, before="open_starter")
        window.dropped.connect(self.open_paths)
        workspace.draft.files_changed.connect(self._fill_recent)
        self._fill_recent()

    def commands(self) -> Mapping[str, Command]:
        """Return what each action does, by its id."""
        return {
            "open": Command(self._ask_config),
            "open_run": Command(self._ask_run),
            "import_adapter": Command(self._adapter_import.ask),
            "export_adapter": Command(self._adapter_import.ask_export),
        }

    def open_paths(self, paths: Sequence[str]) -> None:
        """Open what was dropped or named: a config, a run, a model, or rows; an adapter on its own is imported."""
        rows: list[str] = []
        for entry in paths:
            self._toasts.show_errors(lambda entry=entry: self._open_named(entry, rows))
        if rows:
            errors = self._workspace.draft.edit({"data.train": tuple(rows)}, tr("Open data"))
            for message in errors.values():
                self._workspace.draft.tell("error", message)
            self._window.show_page("data")

    def show_run(self, path: Path) -> None:
        """Show a run on the Train page."""
        self._run_view.open(path)
        self._window.show_page("train")

    def _open_named(self, entry: str, rows: list[str]) -> None:
        path = Path(entry).expanduser()
        if path.exists() or not is_model_name(entry):
            self._open(path, rows)
        else:
            self._change_model(entry)

    def _change_model(self, name_or_path: str) -> None:
        errors = self._workspace.model.choose(name_or_path)
        if errors:
            raise InputError(next(iter(errors.values())))

    def _open(self, path: Path, rows: list[str]) -> None:
        match kind_of(path):
            case PathKind.CONFIG:
                self._open_config(path)
            case PathKind.RUN:
                self.show_run(path if (path / "run.yaml").is_file() else path.parent)
            case PathKind.MODEL:
                self._change_model(str(path.resolve()))
            case PathKind.DATA:
                rows.append(str(path.resolve()))
            case PathKind.ADAPTER:
                self._adapter_import.start(path.resolve())

    def _open_config(self, path: Path) -> None:
        """Make a file the draft; one that cannot be read opens in the editor, at the line."""
        try:
            self._workspace.draft.open(path)
        except InputError as error:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise error from None
            YamlDialog(self._workspace, self._window, text, path).show()

    def _ask_config(self) -> None:
        path = self._dialogs.open_file(self._window, tr("Open a config"), Path.cwd(), [CONFIG_FILTER])
        if path is not None:
            self._toasts.show_errors(lambda: self._open_config(path))

    def _ask_run(self) -> None:
        path = self._dialogs.open_folder(self._window, tr("Open a run's folder"), self._starter.store.root)
        if path is not None:
            self.open_paths([str(path)])

    def _fill_recent(self) -> None:
        self._recent.clear()
        for path in self._workspace.draft.recent:
            self._recent.addAction(str(path), lambda chosen=path: self._toasts.show_errors(lambda: self._open_config(chosen)))
        self._recent.setEnabled(bool(self._workspace.draft.recent))
