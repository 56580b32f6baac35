"""The draft on disk: saved by itself on every edit, and whatever files a person opened or saved it as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import config_to_yaml, read_config
from lora_studio.core.errors import InputError
from lora_studio.core.files import write_atomically
from lora_studio.core.paths import resources_folder, studio_paths

_MOST_RECENT = 10
_SAVE_AFTER_MS = 250


def starter_config() -> RunConfig:
    """Return the starter project's config, its paths absolute.

    Raises:
        InputError: The installation lacks its starter.
    """
    return read_config(resources_folder() / "starter" / "run.yaml")


class DraftFiles(QObject):
    """Keeps `settings/draft.yaml` equal to the draft, a moment after each edit, and remembers recent files.

    Attributes:
        saved: Whether what is on disk is the draft.
        recent: Files opened or saved, the latest first.
    """

    saved_changed = Signal()
    recent_changed = Signal()

    def __init__(self, config: Callable[[], RunConfig], path: Callable[[], Path | None], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._config = config
        self._path = path
        self._timer = QTimer(self, singleShot=True, interval=_SAVE_AFTER_MS)
        self._timer.timeout.connect(self.flush)
        self.saved = True
        self.error = ""
        self.recent: list[Path] = []

    @property
    def draft_path(self) -> Path:
        """Where the draft saves itself."""
        return studio_paths().settings / "draft.yaml"

    @property
    def state_path(self) -> Path:
        """Where the draft's file and the recent files are remembered."""
        return studio_paths().settings / "draft.json"

    def load(self) -> tuple[RunConfig, Path | None, str]:
        """Return the draft of last time, its file and a warning; on the very first start, the starter project.

        A draft that cannot be read is kept beside as `draft.broken.yaml`, never written over.
        """
        path = self._read_state()
        if self.draft_path.exists():
            try:
                return read_config(self.draft_path), path, ""
            except InputError as error:
                kept = self.draft_path.with_name("draft.broken.yaml")
                self.draft_path.replace(kept)
                return self._starter(f"{error} It is kept as {kept}; the starter project is loaded instead.")
        return self._starter("")

    def changed(self) -> None:
        """Note that the draft is another one: it is written when the event loop has a moment."""
        self.saved = False
        self.saved_changed.emit()
        self._timer.start()

    def flush(self) -> None:
        """Write the draft now, where it is not written yet; a disk that refuses is told by `error`."""
        self._timer.stop()
        if self.saved:
            return
        try:
            write_atomically(self.draft_path, config_to_yaml(self._config()))
            self._write_state()
        except OSError as error:
            self.error = f"Cannot save the draft to {self.draft_path}: {error.strerror}."
        else:
            self.error, self.saved = "", True
        self.saved_changed.emit()

    def remember(self, path: Path) -> None:
        """Put a file at the head of the recent ones."""
        self.recent = [path, *(entry for entry in self.recent if entry != path)][:_MOST_RECENT]
        self.saved = False
        self._timer.start()
        self.recent_changed.emit()

    def _starter(self, warning: str) -> tuple[RunConfig, Path | None, str]:
        try:
            return starter_config(), None, warning
        except InputError as error:
            return RunConfig(), None, warning or f"The starter project is missing from this installation: {error}"

    def _read_state(self) -> Path | None:
        try:
            state: object = json.loads(self.state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # a first start, or layout lost with nothing of a person's work in it
        if not isinstance(state, dict):
            return None
        recent = state.get("recent", [])
        self.recent = [Path(str(entry)) for entry in recent] if isinstance(recent, list) else []
        path = state.get("path")
        return Path(path) if isinstance(path, str) else None

    def _write_state(self) -> None:
        path = self._path()
        state = {"path": str(path) if path else None, "recent": [str(entry) for entry in self.recent]}
        write_atomically(self.state_path, json.dumps(state, indent=1))
