"""What the rows are to the model: token counts, what is cut, what trains nothing, each with its cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QVBoxLayout

from lora_studio.gui.text import tr
from lora_studio.gui.units import format_count
from lora_studio.gui.widgets import Banner, Card, StatTile

if TYPE_CHECKING:
    from lora_studio.gui.workspace import Workspace

_NARROW = 560
_NONE = "–"
_ROUND_TO = 64


@dataclass(frozen=True)
class Hint:
    """Something about the data a person may want to change, and the edit that does it."""

    level: str
    text: str
    action: str
    changes: dict[str, object]


def hints_of(report: dict[str, Any], max_length: int) -> list[Hint]:
    """Give what stands out in a `data --json` report."""
    found: list[Hint] = []
    longest = int(report["tokens"]["max"])
    if report["truncated_rows"] and longest > max_length:
        wanted = -(-longest // _ROUND_TO) * _ROUND_TO
        found.append(Hint("warning", tr("{count} rows are cut at max_length {length}; the longest has {longest} tokens.",
                                        count=report["truncated_rows"], length=max_length, longest=format_count(longest)),
                          tr("Set max_length to {length}", length=wanted), {"data.max_length": wanted}))
    elif longest and longest * 2 <= max_length:
        wanted = -(-longest // _ROUND_TO) * _ROUND_TO
        found.append(Hint("info", tr("No row is longer than {longest} tokens: a max_length of {wanted} cuts none, and memory is estimated "
                                     "closer.", longest=format_count(longest), wanted=wanted),
                          tr("Set max_length to {length}", length=wanted), {"data.max_length": wanted}))
    if report["untrained_rows"]:
        found.append(Hint("warning", tr("{count} rows train nothing: they are cut before their answer, or none of their turns is trained.",
                                        count=report["untrained_rows"]), "", {}))
    if report["bad_rows"]:
        found.append(_bad_rows_hint(len(report["bad_rows"])))
    return found


def _bad_rows_hint(count: int) -> Hint:
    return Hint("warning", tr("{count} bad rows stop a run.", count=count), tr("Skip bad rows"), {"data.on_bad_rows": "skip"})


class TokensCard(Card):
    """Figures of the report, and its hints as banners."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(tr("Tokens"), name="tokens_card")
        self._workspace = workspace
        titles = {"total": tr("Tokens"), "trained": tr("Trained"), "p50": tr("Median row"), "p95": tr("95% of rows"),
                  "max": tr("Longest row")}
        self.tiles = {name: StatTile(title, name=f"tokens_{name}") for name, title in titles.items()}
        self._grid = QGridLayout()
        self._columns = 0
        self._banners = QVBoxLayout()
        self._shown: list[Hint] | None = None
        self.body.addLayout(self._grid)
        self.body.addLayout(self._banners)
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
        self._show_hints(hints_of(report, self._workspace.config.data.max_length) if report else self._early_hints())

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

    def _early_hints(self) -> list[Hint]:
        """Bad rows are known before tokens are."""
        check = self._workspace.data_check
        if not check or not check.bad_rows or self._workspace.config.data.on_bad_rows == "skip":
            return []
        return [_bad_rows_hint(check.bad_count)]

    def _show_hints(self, hints: list[Hint]) -> None:
        if self._workspace.config.data.on_bad_rows == "skip":
            hints = [hint for hint in hints if "data.on_bad_rows" not in hint.changes]
        if hints == self._shown:
            return
        self._shown = hints
        while (entry := self._banners.takeAt(0)) is not None:
            widget = entry.widget()
            if widget is not None:
                widget.deleteLater()
        for number, hint in enumerate(hints):
            banner = Banner(hint.level, hint.text, hint.action, name=f"data_hint_{number}")
            banner.action_clicked.connect(lambda chosen=hint: self._workspace.edit(chosen.changes, chosen.action))
            self._banners.addWidget(banner)

    def _arrange(self, columns: int) -> None:
        if columns == self._columns:
            return
        self._columns = columns
        for number, tile in enumerate(self.tiles.values()):
            self._grid.addWidget(tile, number // columns, number % columns)
        for column in range(5):
            self._grid.setColumnStretch(column, 1 if column < columns else 0)
