"""The lengths of all rows, with `max_length` as a line to move, and what each place of the line makes of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QGridLayout, QLabel, QPushButton, QWidget

from lora_studio.data.tokens.lengths import Cut, LengthTable
from lora_studio.gui.data_page.lengths.histogram import LengthHistogram
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import label, set_role

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

_NARROW = 480
_FIGURES = ("rows cut", "train nothing", "tokens trained", "packing fills")


class LengthsPanel(QWidget):
    """Histogram and live figures; moving the line edits `data.max_length`."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()
        self.setObjectName("lengths_panel")
        self._workspace = workspace
        self._folder = ""
        self.table: LengthTable | None = None
        self.histogram = LengthHistogram()
        self.figures: dict[str, QLabel] = {}
        self._build()
        self.histogram.moved.connect(self._on_moved)
        workspace.draft.config_changed.connect(self._show)

    def show_report(self, report: dict[str, Any] | None) -> None:
        """Show the lengths that a report counted; nothing without one."""
        folder = str(report.get("lengths") or "") if report else ""
        if folder != self._folder or (folder and self.table is None):
            self._folder = folder
            self.table = _table_in(folder)
        self.setVisible(self.table is not None)
        self._show()

    def _build(self) -> None:
        side = QWidget()
        side.setObjectName("lengths_figures")
        grid = QGridLayout(side)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(3)
        self._heading = label("", "title", "lengths_heading")
        grid.addWidget(self._heading, 0, 0, 1, 2)
        for row, name in enumerate(_FIGURES, 1):
            self.figures[name] = label("–", name=f"figure_{name.replace(' ', '_')}")
            self.figures[name].setAlignment(Qt.AlignmentFlag.AlignRight)
            grid.addWidget(label(tr(name), "note", f"figure_title_{row}"), row, 0)
            grid.addWidget(self.figures[name], row, 1)
        grid.setRowStretch(len(_FIGURES) + 1, 1)
        self._table_button = QPushButton(tr("Table…"))
        self._table_button.setObjectName("lengths_table_button")
        self._table_button.setProperty("role", "link")
        self._table_button.setToolTip(tr("The bars as a table that can be copied"))
        self._table_button.clicked.connect(self.open_table)
        grid.addWidget(self._table_button, len(_FIGURES) + 2, 0, 1, 2, Qt.AlignmentFlag.AlignRight)
        self._line = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._line.setContentsMargins(0, 0, 0, 0)
        self._line.setSpacing(14)
        self._line.addWidget(self.histogram, 1)
        self._line.addWidget(side)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the figures below the bars where there is no room beside them."""
        super().resizeEvent(event)
        narrow = event.size().width() < _NARROW
        self._line.setDirection(QBoxLayout.Direction.TopToBottom if narrow else QBoxLayout.Direction.LeftToRight)

    def brought_up_to_date(self, report: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return a report with what the draft's own `max_length` makes of the rows, which is counted anew only later."""
        if report is None or self.table is None:
            return report
        cut = self.table.at(self._workspace.draft.config.data.max_length)
        named = report.get("untrained", ()) if cut.untrained_rows == report["untrained_rows"] else ()
        return {**report, "truncated_rows": cut.cut_rows, "untrained_rows": cut.untrained_rows, "untrained": named}

    def open_table(self) -> None:
        """Show the bars as a table."""
        from lora_studio.gui.plots.pyramid import Series
        from lora_studio.gui.plots.table import PlotTableDialog, PlotTableModel

        rows = Series()
        bars = self.histogram.bars
        rows.append(np.array([low for low, _, _ in bars]), np.array([float(count) for _, _, count in bars]))
        PlotTableDialog(tr("Lengths of the rows"), PlotTableModel(tr("tokens from"), {tr("rows"): rows}), self).show()

    def _show(self) -> None:
        if self.table is None:
            return
        max_length = self._workspace.draft.config.data.max_length
        self.histogram.show_lengths(self.table.lengths, max_length)
        self._heading.setText(tr("At {length} tokens", length=format_count(max_length)))
        self._show_cut(self.table.at(max_length))

    def _show_cut(self, cut: Cut) -> None:
        share = cut.cut_rows / cut.rows if cut.rows else 0
        texts = (
            f"{format_count(cut.cut_rows)} ({share:.0%})",
            format_count(cut.untrained_rows),
            f"{cut.share_trained:.0%}",
            f"{cut.efficiency:.0%}",
        )
        for name, text in zip(_FIGURES, texts):
            self.figures[name].setText(text)
        for name, count in ((_FIGURES[0], cut.cut_rows), (_FIGURES[1], cut.untrained_rows)):
            set_role(self.figures[name], "warning" if count else "")

    def _on_moved(self, length: int, gesture: str) -> None:
        self._workspace.draft.edit({"data.max_length": length}, tr("Change max_length"), gesture)


def _table_in(folder: str) -> LengthTable | None:
    """Read the table; None where there is none, or the cache has dropped it."""
    try:
        return LengthTable.open(Path(folder)) if folder else None
    except (OSError, ValueError):
        return None
