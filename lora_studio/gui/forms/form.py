"""A set of field rows bound to the draft, or showing a run's config under lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from PySide6.QtCore import QObject, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.variable_lines import written_lines
from lora_studio.gui.forms.fields import FieldSpec
from lora_studio.gui.forms.row import FieldRow
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace


class Form(QObject):
    """Keeps rows equal to the config that is shown, and turns edits into edits of the draft.

    Signals:
        shown: Every row shows `config` now; the moment to bring hints up to date.
    """

    shown = Signal()

    def __init__(self, workspace: Workspace, parent: QObject) -> None:
        super().__init__(parent)
        self._workspace = workspace
        self._rows: dict[str, FieldRow] = {}
        self._run: RunConfig | None = None
        self._compared: RunConfig | None = None
        workspace.draft.config_changed.connect(self._on_config)

    @property
    def config(self) -> RunConfig:
        """The config that is shown: a run's under lock, else the draft."""
        return self._run or self._workspace.draft.config

    @property
    def locked(self) -> bool:
        """Whether a run's config is shown."""
        return self._run is not None

    @property
    def rows(self) -> dict[str, FieldRow]:
        """The rows by their dotted path."""
        return self._rows

    def row(self, path: str) -> FieldRow:
        """Make the row of a field and keep it; it shows the draft's value at once."""
        row = FieldRow(FieldSpec.of(path))
        self._rows[path] = row
        row.edited.connect(lambda value: self.edit({path: value}))
        row.refused.connect(lambda message: self._show_error(path, message))
        row.show_value(self.config.get(path))
        return row

    def edit(self, changes: Mapping[str, object], text: str = "", gesture: str = "") -> bool:
        """Edit the draft; faults are shown at their rows. Returns whether the draft took it."""
        first = next(iter(changes))
        spec = self._rows[first].spec if first in self._rows else FieldSpec.of(first)
        errors = self._workspace.draft.edit(changes, text or tr("Change {field}", field=spec.title), gesture)
        for path in changes:
            self._show_error(path, errors.get(path, ""))
        for path in errors.keys() - changes.keys():
            self._show_error(path, errors[path])
        return not errors

    def show_config(self, config: RunConfig | None) -> None:
        """Show a run's config under lock, or the draft again."""
        self._run = config
        for row in self._rows.values():
            row.set_locked(config is not None)
        self.refresh()

    def compare_with(self, config: RunConfig | None) -> None:
        """Say beside each row of the draft what a run's config has, where it is another value."""
        self._compared = config
        self._show_differences()

    def refresh(self) -> None:
        """Show every value anew."""
        config = self.config
        for path, row in self._rows.items():
            row.show_value(config.get(path))
        self._show_differences()
        self.shown.emit()

    def focus(self, path: str) -> bool:
        """Put the cursor into a field's editor; False where this form has no such field."""
        row = self._rows.get(path)
        if row is None:
            return False
        row.editor.setFocus()
        return True

    def _on_config(self, before: RunConfig, after: RunConfig) -> None:
        if self._run is not None:
            return
        for path, row in self._rows.items():
            if before.get(path) != after.get(path):
                row.show_value(after.get(path))
                self._workspace.draft.set_invalid(path, "")
        self._show_differences()
        self.shown.emit()

    def _show_error(self, path: str, message: str) -> None:
        if path in self._rows:
            self._rows[path].set_error(message)
        self._workspace.draft.set_invalid(path, message)

    def _show_differences(self) -> None:
        for path, row in self._rows.items():
            other = self._compared
            differs = other is not None and not self.locked and other.get(path) != self.config.get(path)
            row.set_was(tr("was {value}", value=shown_value(other.get(path))) if differs and other is not None else "")


def shown_value(value: object) -> str:
    """Write a value as a hint shows it."""
    match value:
        case bool():
            return tr("on") if value else tr("off")
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(str(part) for part in value) or tr("none")
        case dict():
            return ", ".join(written_lines(cast("dict[str, object]", value)).split("\n")) or tr("none")
        case None:
            return tr("none")
        case _:
            return str(value)
