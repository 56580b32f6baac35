"""Importing an adapter from the window: the job, asking for the base model where it is not known, and what is told at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from lora_studio.core.events import LastEvent, RunFailed, RunFinished
from lora_studio.core.paths import studio_paths
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.engine.notifications import Notification, Notifications
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.text import tr
from lora_studio.jobs.spec import JobSpec

IMPORT_TASK = "lora_studio.export.imports.importer:import_task"
_FILTER = "adapter_config.json *.zip *.tar *.tar.gz *.tgz"
_BASE_FIELD = "base"
_TEXT_FIELD = "text_only"


class AdapterImport(QObject):
    """Starts imports, and tells how they ended.

    Args:
        window: In front of which a person is asked.
        jobs: Where imports run.
        notifications: Where their ends are told.
        asker: Asks for files and folders.
        parent: Owner.

    Signals:
        imported: An adapter is kept now; carries `ImportedAdapter.to_json()`.
        export_asked: An imported adapter is to be exported; carries its folder.
    """

    imported = Signal(dict)
    export_asked = Signal(Path)

    def __init__(
        self, window: QWidget, jobs: JobCenter, notifications: Notifications, asker: FileDialogs, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("adapter_import")
        self._window = window
        self._jobs = jobs
        self._notifications = notifications
        self._asker = asker

    def ask(self) -> None:
        """Ask for an archive, or for the config in an adapter's folder, and import that."""
        filters = [tr("Adapters ({names})", names=_FILTER)]
        chosen = self._asker.open_file(self._window, tr("Import an adapter"), Path.home(), filters)
        if chosen is not None:
            self.start(chosen.parent if chosen.name == "adapter_config.json" else chosen)

    def start(self, path: Path, base: str | None = None, *, text_only: bool = False) -> None:
        """Import the adapter in a folder or an archive, for the base model it names or for `base`; of one for images, the text part."""
        arguments = {"path": str(path), "base": base, "name": None, "text_only": text_only}
        spec = JobSpec(IMPORT_TASK, arguments, title=tr("Import {name}", name=path.name))
        self._jobs.start(spec, on_done=lambda last: self._on_done(path, base, last))

    def _on_done(self, path: Path, base: str | None, last: LastEvent) -> None:
        if isinstance(last, RunFinished):
            self._tell(last.result)
            self.imported.emit(last.result)
        elif isinstance(last, RunFailed) and not last.details:  # one that was not foreseen is told with its traceback, as any job's
            self._tell_failure(path, base, last)

    def _tell(self, result: dict[str, Any]) -> None:
        matches = [finding for finding in result["findings"] if finding["level"] != "note"]
        base = Path(result["base"]).name
        text = tr("{name} is imported, for {base}. It can be exported, or merged into that.", name=result["name"], base=base)
        reported = " ".join([text, *(f"{finding['message']} {finding['hint']}".strip() for finding in matches)])
        folder = Path(result["path"])
        self._notifications.add(
            Notification(
                "warning" if matches else "good", reported, action_text=tr("Export…"), action=lambda: self.export_asked.emit(folder)
            )
        )

    def ask_export(self) -> None:
        """Ask for an adapter's folder, and have it exported."""
        adapters = studio_paths().adapters
        chosen = self._asker.open_folder(self._window, tr("Export an adapter"), adapters if adapters.is_dir() else Path.home())
        if chosen is not None:
            self.export_asked.emit(chosen)

    def _tell_failure(self, path: Path, base: str | None, failure: RunFailed) -> None:
        if failure.field == _BASE_FIELD:
            self._notifications.add(
                Notification(
                    "error", f"{path.name}: {failure.message}", action_text=tr("Choose base…"), action=lambda: self._ask_base(path)
                )
            )
        elif failure.field == _TEXT_FIELD:
            self._notifications.add(
                Notification(
                    "error",
                    f"{path.name}: {failure.message}",
                    action_text=tr("Import the text part"),
                    action=lambda: self.start(path, base, text_only=True),
                )
            )
        else:
            self._notifications.add(Notification("error", f"{path.name}: {failure.message} {failure.hint}".strip()))

    def _ask_base(self, path: Path) -> None:
        folder = self._asker.open_folder(self._window, tr("The base model of {name}", name=path.name), Path.home())
        if folder is not None:
            self.start(path, str(folder))
