"""What all panels of settings share: a card with a form in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lora_studio.core.config import RunConfig, field_info, field_paths
from lora_studio.gui.forms import FieldRow, Form
from lora_studio.gui.widgets import Card, Disclosure

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter


class Panel(Card):
    """A card whose fields edit the draft, or show a run's config under lock.

    Attributes:
        form: Its fields.
    """

    def __init__(self, title: str, name: str, workspace: Workspace, jobs: JobCenter) -> None:
        super().__init__(title, name=name)
        self._workspace = workspace
        self._jobs = jobs
        self.form = Form(workspace, self)
        self._more: Disclosure | None = None
        workspace.draft.field_requested.connect(self.focus_field)

    def show_config(self, config: RunConfig | None) -> None:
        """Show a run's config under lock, or the draft again."""
        self.form.show_config(config)

    def compare_with(self, config: RunConfig | None) -> None:
        """Say beside each field of the draft what this run has, where it is another value."""
        self.form.compare_with(config)

    def focus_field(self, path: str) -> bool:
        """Put the cursor into a field, opening what hides it; False where this panel has no such field."""
        row = self.form.rows.get(path)
        if row is None:
            return False
        if self._more is not None and self._more.isAncestorOf(row):
            self._more.set_open(True)
        return self.form.focus(path)

    def _add_row(self, path: str) -> FieldRow:
        row = self.form.row(path)
        self.body.addWidget(row)
        return row

    def _add_more(self, title: str, paths: Iterable[str], name: str) -> None:
        """Add rows behind a line that opens."""
        self._more = Disclosure(title, name=name)
        for path in paths:
            self._more.body.addWidget(self.form.row(path))
        self.body.addWidget(self._more)


def more_paths(section: str) -> list[str]:
    """Name the fields of a section that are meant to stand behind a disclosure."""
    return [path for path in field_paths() if path.startswith(f"{section}.") and (field_info(path).json_schema_extra or {}).get("more")]
