"""What the rows are to the model: how many tokens, how many of them trained, how long the rows, in which chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QPushButton

from lora_studio.gui.data_page.lengths.lengths_panel import LengthsPanel
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import Card, ElidedLabel, StatTile, TileGrid

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

_NARROW = 560
_NONE = "–"


class TokensCard(Card):
    """Figures of the report, the lengths, and the chat template.

    Signals:
        template_asked: A person wants to choose another chat template.
    """

    template_asked = Signal()

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(tr("Tokens"), name="tokens_card")
        self._workspace = workspace
        titles = {
            "total": tr("Tokens"),
            "trained": tr("Trained"),
            "p50": tr("Median row"),
            "p95": tr("95% of rows"),
            "max": tr("Longest row"),
        }
        self.tiles = {name: StatTile(title, name=f"tokens_{name}") for name, title in titles.items()}
        self._grid = TileGrid(list(self.tiles.values()))
        self.lengths = LengthsPanel(workspace)
        self.body.addLayout(self._grid)
        self.body.addWidget(self.lengths)
        self.body.addLayout(self._build_template())
        workspace.model.changed.connect(self.refresh)
        workspace.draft.config_changed.connect(self._show_template)
        self.refresh()

    def refresh(self) -> None:
        """Show the report, or what it waits for."""
        report = self._workspace.data.report
        tokens = report["tokens"] if report else None
        for name, tile in self.tiles.items():
            tile.set_value(_NONE if tokens is None else format_count(tokens[name]))
        if tokens and tokens["total"]:
            self.tiles["trained"].set_value(f"{tokens['trained'] / tokens['total']:.0%}")
        self.set_note("" if report else self._waits_for())
        self.lengths.show_report(report)
        self._show_template()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Two rows of figures where one lacks room."""
        super().resizeEvent(event)
        self._grid.arrange(3 if event.size().width() < _NARROW else 5)

    def _build_template(self) -> QHBoxLayout:
        self._template = ElidedLabel("", "note", "template_told")
        self._change = QPushButton(tr("Change…"))
        self._change.setObjectName("change_template_button")
        self._change.setToolTip(tr("Choose another chat template, or write one"))
        self._change.clicked.connect(self.template_asked)
        line = QHBoxLayout()
        line.addWidget(self._template, 1)
        line.addWidget(self._change)
        return line

    def _show_template(self) -> None:
        self._template.setText(tr("Chat template: {which}", which=self._template_name()))

    def _template_name(self) -> str:
        setting, facts = self._workspace.draft.config.data.chat_template, self._workspace.model.facts
        if setting is not None and setting.strip():
            return tr("written in the settings") if "{" in setting else setting.strip()
        return tr("the base model's own") if facts is None or facts.has_chat_template else tr("none: the base model has none")

    def _waits_for(self) -> str:
        check = self._workspace.data.check
        if self._workspace.data.error or not (check and check.rows):
            return tr("counted when there are rows")
        if not self._workspace.model.engine:
            return tr("counted when the engine is loaded")
        source = self._workspace.model.source
        return tr("counting…") if source and source.ready else tr("counted when the base model is ready")
