"""What the rows are to the model: how many tokens, how many of them trained, how long the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout

from lora_studio.gui.text import tr
from lora_studio.gui.units import format_count
from lora_studio.gui.widgets import Card, StatTile

if TYPE_CHECKING:
    from lora_studio.gui.workspace import Workspace

_NARROW = 560
_NONE = "–"


class TokensCard(Card):
    """Figures of the report."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(tr("Tokens"), name="tokens_card")
        self._workspace = workspace
        titles = {"total": tr("Tokens"), "trained": tr("Trained"), "p50": tr("Median row"), "p95": tr("95% of rows"),
                  "max": tr("Longest row")}
        self.tiles = {name: StatTile(title, name=f"tokens_{name}") for name, title in titles.items()}
        self._grid = QGridLayout()
        self._columns = 0
        self.body.addLayout(self._grid)
        self._arrange(5)
        workspace.model_changed.connect(self.refresh)
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

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Two rows of figures where one lacks room."""
        super().resizeEvent(event)
        self._arrange(3 if event.size().width() < _NARROW else 5)

    def _waits_for(self) -> str:
        check = self._workspace.data_check
        if self._workspace.data.error or not (check and check.rows):
            return tr("counted when there are rows")
        if not self._workspace.model.engine:
            return tr("counted when the engine is loaded")
        source = self._workspace.source
        return tr("counting…") if source and source.ready else tr("counted when the base model is ready")

    def _arrange(self, columns: int) -> None:
        if columns == self._columns:
            return
        self._columns = columns
        for number, tile in enumerate(self.tiles.values()):
            self._grid.addWidget(tile, number // columns, number % columns)
        for column in range(5):
            self._grid.setColumnStretch(column, 1 if column < columns else 0)
