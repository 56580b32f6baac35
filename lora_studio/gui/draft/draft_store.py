"""The draft: one `RunConfig` that every widget shows and edits, with its undo stack and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QUndoStack

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import config_to_yaml, field_errors, read_config, write_config
from lora_studio.gui.draft.draft_files import DraftFiles, starter_config
from lora_studio.gui.draft.undo import Draft, EditCommand
from lora_studio.gui.platform.text import tr

_MOST_UNDO_STEPS = 500


@dataclass(frozen=True)
class Announcement:
    """Something to tell a person once, as a toast or banner: level is info, warning or error."""

    level: str
    text: str


class DraftStore(QObject):
    """Holds the draft. No widget does: they show `config`, call `edit` and listen.

    Signals:
        config_changed: The draft is another one; carries the config before and after.
        invalid_changed: A field's widget holds what the draft cannot take, or does so no more.
        saved_changed: The draft was written, or waits to be.
        files_changed: The draft's own file or the recent files changed.
        notice: A `Announcement` to show.
        field_requested: A person asked to be taken to a field; carries its dotted path.
    """

    config_changed = Signal(object, object)
    invalid_changed = Signal()
    saved_changed = Signal()
    files_changed = Signal()
    notice = Signal(object)
    field_requested = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("draft")
        self.undo_stack = QUndoStack(self)
        self.undo_stack.setUndoLimit(_MOST_UNDO_STEPS)
        self.files = DraftFiles(lambda: self.config, lambda: self.path, self)
        config, path, warning = self.files.load()
        self._draft = Draft(config, path)
        self._invalid: dict[str, str] = {}
        self.files.saved_changed.connect(self.saved_changed)
        if warning:
            QTimer.singleShot(0, self, lambda: self.tell("warning", warning))

    @property
    def config(self) -> RunConfig:
        """The draft."""
        return self._draft.config

    @property
    def path(self) -> Path | None:
        """The file the draft was opened from or saved as."""
        return self._draft.path

    def edit(self, changes: Mapping[str, object], text: str, gesture: str = "") -> dict[str, str]:
        """Change `{dotted path: value}` of the draft, all or nothing, as one undo step.

        Args:
            changes: New values by their dotted path.
            text: What the step is called in the Edit menu.
            gesture: Consecutive edits with the same non-empty gesture are one undo step.

        Returns:
            What is wrong by field; empty when the draft has changed. A draft that would not change is left alone.
        """
        try:
            after = self.config.replace(changes)
        except ValidationError as error:
            return field_errors(error)
        for path in changes:
            self.set_invalid(path, "")
        if after != self.config:
            before = Draft(self.config, keeps_path=True)
            self.undo_stack.push(EditCommand(text, before, Draft(after, keeps_path=True), self._apply, gesture))
        return {}

    def take_over(self, config: RunConfig, text: str, path: Path | None = None) -> None:
        """Make another config the draft, as one undo step: New, Open, a run's config, an edited YAML."""
        self._invalid.clear()
        self.undo_stack.push(EditCommand(text, self._draft, Draft(config, path), self._apply))

    def new(self) -> None:
        """Start afresh from the default settings."""
        self.take_over(RunConfig(), tr("New"))

    def open_starter(self) -> None:
        """Make the starter project the draft."""
        self.take_over(starter_config(), tr("Open the starter"))

    def new_from_run(self, config: RunConfig) -> None:
        """Make a run's config the draft; the draft before comes back by undo."""
        self.take_over(config, tr("New run from {name}", name=config.name))

    @property
    def yaml(self) -> str:
        """The draft as YAML."""
        return config_to_yaml(self.config)

    # --- files ---

    def open(self, path: Path) -> None:
        """Make a config file the draft.

        Raises:
            InputError: It cannot be read; the message names the line and the field.
        """
        config = read_config(path)
        self.take_over(config, tr("Open {name}", name=path.name), path.resolve())
        self.files.remember(path.resolve())
        self.files_changed.emit()

    def save(self) -> bool:
        """Write the draft to its file; False where it has none yet: ask for one and `save_as`."""
        if self.path is None:
            return False
        self.save_as(self.path)
        return True

    def save_as(self, path: Path) -> None:
        """Write the draft to a file, which becomes its own.

        Raises:
            OSError: The file cannot be written.
        """
        write_config(path, self.config)
        self._draft = Draft(self.config, path.resolve())
        self.files.remember(path.resolve())
        self.files_changed.emit()

    @property
    def saved(self) -> bool:
        """Whether the draft is safe on disk."""
        return self.files.saved

    @property
    def recent(self) -> list[Path]:
        """Config files opened or saved, the latest first."""
        return self.files.recent

    def close(self) -> None:
        """Write what waits to be written."""
        self.files.flush()

    # --- fields ---

    @property
    def invalid(self) -> Mapping[str, str]:
        """Fields whose widget holds something the draft could not take, and why."""
        return self._invalid

    def set_invalid(self, path: str, message: str) -> None:
        """Note that a field's widget holds what the draft cannot take; an empty message takes the note away."""
        if message == self._invalid.get(path, ""):
            return
        if message:
            self._invalid[path] = message
        else:
            del self._invalid[path]
        self.invalid_changed.emit()

    def request_field(self, path: str) -> None:
        """Take the person to a field."""
        self.field_requested.emit(path)

    def tell(self, level: str, text: str) -> None:
        """Show a notice."""
        self.notice.emit(Announcement(level, text))

    def _apply(self, draft: Draft) -> None:
        before = self._draft
        self._draft = Draft(draft.config, before.path if draft.keeps_path else draft.path)
        self.files.changed()
        if self.path != before.path:
            self.files_changed.emit()
        if draft.config != before.config:
            self.config_changed.emit(before.config, draft.config)
