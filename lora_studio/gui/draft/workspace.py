"""The draft: one `RunConfig` that every widget shows and edits, with its undo stack, its files and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QUndoStack

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import config_to_yaml, field_errors, read_config, write_config
from lora_studio.gui.draft.carry_targets import ModelChange
from lora_studio.gui.draft.data_state import DataReader
from lora_studio.gui.draft.draft_files import DraftFiles, starter_config
from lora_studio.gui.draft.model_state import ModelReader
from lora_studio.gui.draft.plan_state import Planner
from lora_studio.gui.draft.readiness import ReadyItem, readiness_of
from lora_studio.gui.draft.undo import Draft, EditCommand
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleTree
    from lora_studio.core.targets import Resolution
    from lora_studio.data.check import DataCheck
    from lora_studio.gui.engine.job_center import JobCenter
    from lora_studio.models.facts import ModelFacts
    from lora_studio.models.sources import ModelSource
    from lora_studio.planning.plan import Plan

_MOST_UNDO_STEPS = 500


@dataclass(frozen=True)
class Notice:
    """Something to tell a person once, as a toast or banner: level is info, warning or error."""

    level: str
    text: str


class Workspace(QObject):
    """Holds the draft. No widget does: they show `config`, call `edit` and listen.

    Signals:
        config_changed: The draft is another one; carries the config before and after.
        model_changed: `source`, `facts`, `tree` or the model's progress changed.
        data_changed: `data_check` or the data's report changed.
        plan_changed: `resolution` or `plan` changed.
        readiness_changed: What blocks a start changed.
        saved_changed: The draft was written, or waits to be.
        files_changed: The draft's own file or the recent files changed.
        notice: A `Notice` to show.
        field_requested: A person asked to be taken to a field; carries its dotted path.
    """

    config_changed = Signal(object, object)
    model_changed = Signal()
    data_changed = Signal()
    plan_changed = Signal()
    readiness_changed = Signal()
    saved_changed = Signal()
    files_changed = Signal()
    notice = Signal(object)
    field_requested = Signal(str)

    def __init__(self, jobs: JobCenter, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("workspace")
        self.undo_stack = QUndoStack(self)
        self.undo_stack.setUndoLimit(_MOST_UNDO_STEPS)
        self.files = DraftFiles(lambda: self.config, lambda: self.path, self)
        config, path, warning = self.files.load()
        self._draft = Draft(config, path)
        self._invalid: dict[str, str] = {}
        self._readiness: list[ReadyItem] = []
        self.model = ModelReader(self, jobs)
        self.data = DataReader(self, jobs)
        self.planner = Planner(self)
        self._model_change = ModelChange(self)
        self._connect()
        self._readiness = readiness_of(self)
        if warning:
            QTimer.singleShot(0, self, lambda: self.tell("warning", warning))

    # --- the draft ---

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

    def change_model(self, name_or_path: str, revision: str | None = None) -> dict[str, str]:
        """Make another base model the draft's: targets that still match stay, the others are told; one undo step."""
        return self._model_change.choose(name_or_path, revision)

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

    def begin(self) -> None:
        """Let what needs the engine start by itself: unseen module trees, conversions, token counts. Call it once the window shows."""
        self.model.begin()

    def close(self) -> None:
        """Write what waits to be written."""
        self.files.flush()

    # --- what follows from the draft ---

    @property
    def source(self) -> ModelSource | None:
        """Where the base model is; None while it is looked for or where there is none."""
        return self.model.source

    @property
    def facts(self) -> ModelFacts | None:
        """What the base model's files say."""
        return self.model.facts

    @property
    def tree(self) -> ModuleTree | None:
        """The base model's modules; None until they are known."""
        return self.model.tree

    @property
    def data_check(self) -> DataCheck | None:
        """What the data files hold; None until they are read."""
        return self.data.check

    @property
    def resolution(self) -> Resolution | None:
        """Which modules the draft's adapter wraps; None without a tree."""
        return self.planner.resolution

    @property
    def plan(self) -> Plan | None:
        """Parameters, file size and memory of the draft; None until it can be told."""
        return self.planner.plan

    @property
    def readiness(self) -> list[ReadyItem]:
        """What a start needs: model, targets, data, memory, and settings where one does not parse."""
        return self._readiness

    @property
    def ready(self) -> bool:
        """Whether nothing blocks a start."""
        return bool(self._readiness) and all(item.ok for item in self._readiness)

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
        self._refresh_readiness()

    def request_field(self, path: str) -> None:
        """Take the person to a field."""
        self.field_requested.emit(path)

    def tell(self, level: str, text: str) -> None:
        """Show a notice."""
        self.notice.emit(Notice(level, text))

    def _connect(self) -> None:
        self.files.saved_changed.connect(self.saved_changed)
        self.model.changed.connect(self.model_changed)
        self.data.changed.connect(self.data_changed)
        self.planner.changed.connect(self.plan_changed)
        for changed in (self.model_changed, self.data_changed, self.plan_changed):
            changed.connect(self._refresh_readiness)

    def _apply(self, draft: Draft) -> None:
        before = self._draft
        self._draft = Draft(draft.config, before.path if draft.keeps_path else draft.path)
        self.files.changed()
        if self.path != before.path:
            self.files_changed.emit()
        if draft.config != before.config:
            self.config_changed.emit(before.config, draft.config)

    def _refresh_readiness(self) -> None:
        items = readiness_of(self)
        if items != self._readiness:
            self._readiness = items
            self.readiness_changed.emit()
