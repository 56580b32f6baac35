"""`CurvePlot`: a card with curves that grow while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QContextMenuEvent, QKeyEvent, QShowEvent
from PySide6.QtWidgets import QMenu

from lora_studio.gui.platform.text import tr
from lora_studio.gui.plots.canvas import Canvas
from lora_studio.gui.plots.curves import CurveStyle
from lora_studio.gui.plots.legend import Legend
from lora_studio.gui.plots.pyramid import Floats, Series
from lora_studio.gui.plots.table import PlotTableDialog, PlotTableModel
from lora_studio.gui.theme import colors, theme
from lora_studio.gui.widgets.card import Card

Numbers = Sequence[float] | Floats


class CurvePlot(Card):
    """Curves over a common x, drawn at most once for each turn of the event loop, and only while they can be seen.

    A million points draw as cheaply as ten thousand and keep every extreme. The pointer, or Left and Right, moves a
    crosshair that reads the curves out; dragging pans, Ctrl with the wheel zooms, a double click fits again; the menu or
    `T` opens the table of its data.
    """

    def __init__(self, title: str, x_label: str = "step", name: str = "") -> None:
        super().__init__(title, name=name)
        self._x_label = x_label
        self._styles: dict[str, CurveStyle] = {}
        self._series: dict[str, Series] = {}
        self._hidden: set[str] = set()
        self._crosshair: float | None = None
        self._dirty = False
        self.note.hide()
        self.legend = Legend()
        self.add_header_widget(self.legend)
        self.header.setStretchFactor(self.legend, 1)
        self.header.setAlignment(self.title, Qt.AlignmentFlag.AlignTop)
        self.legend.hide()
        self.canvas = Canvas(f"{self.objectName()}_canvas")
        self.body.addWidget(self.canvas, 1)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self.refresh)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self._connect()

    def add_curve(self, style: CurveStyle, in_legend: bool = True) -> None:
        """Add an empty curve; curves added later lie above."""
        self._styles[style.id] = style
        self._series[style.id] = Series()
        self.canvas.add_curve(style)
        if in_legend:
            self.legend.add(style)
            self.legend.show()

    @property
    def curves(self) -> dict[str, Series]:
        """The points of each curve by its id."""
        return dict(self._series)

    def set_series(self, curve: str, x: Numbers, y: Numbers) -> None:
        """Replace a curve's points.

        Raises:
            KeyError: No curve has this id.
            ValueError: The columns differ in length, or x falls.
        """
        self._series[curve].clear()
        self.append(curve, x, y)

    def append(self, curve: str, x: Numbers, y: Numbers) -> None:
        """Add points right of those a curve has; the plot is drawn when the event loop comes round.

        Raises:
            KeyError: No curve has this id.
            ValueError: The columns differ in length, or x falls.
        """
        self._series[curve].append(np.asarray(x, np.float64), np.asarray(y, np.float64))
        self._mark()

    def clear(self) -> None:
        """Empty all curves and fit again."""
        for series in self._series.values():
            series.clear()
        self._crosshair = None
        self.canvas.fit()
        self._mark()

    def set_level(self, curve: str, y: float | None) -> None:
        """Draw a curve as a level line across the plot, such as an estimate; None takes it away."""
        self.canvas.set_level(self._styles[curve], y)
        self._mark()

    def refresh(self) -> None:
        """Draw now what has changed; a plot that cannot be seen waits until it can."""
        if not self._dirty or not self.isVisible():
            return
        self._dirty = False
        shown = {curve: series for curve, series in self._series.items() if curve not in self._hidden}
        self.canvas.draw(shown)
        self._show_crosshair()
        self._describe()

    def show_crosshair_at(self, x: float | None) -> None:
        """Read the curves out at an x; None puts the crosshair away."""
        self._crosshair = x
        self._show_crosshair()

    def read_out(self, x: float) -> str:
        """Return the text of the read-out at an x: a line for it, and one for each curve that shows and has a point near."""
        lines: list[str] = []
        anchor = self._anchor(x)
        for curve, series in self._series.items():
            position = series.nearest(anchor)
            if curve not in self._hidden and position is not None and np.isfinite(series.y[position]):
                style = self._styles[curve]
                lines.append(f"{style.label} {series.y[position]:.{style.digits}g}")
        return "\n".join([f"{self._x_label} {anchor:.6g}", *lines]) if lines else ""

    def open_table(self) -> PlotTableDialog:
        """Open the table of the data."""
        columns = {self._styles[curve].label: series for curve, series in self._series.items()}
        dialog = PlotTableDialog(self.title.text(), PlotTableModel(self._x_label, columns), self.window())
        dialog.show()
        return dialog

    def showEvent(self, event: QShowEvent) -> None:
        """Draw what came in while the plot was hidden."""
        super().showEvent(event)
        if self._dirty:
            self._soon.start()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left, Right, Home and End move the crosshair; T opens the table; 0 fits."""
        match Qt.Key(event.key()):
            case Qt.Key.Key_Left | Qt.Key.Key_Right | Qt.Key.Key_Home | Qt.Key.Key_End as key:
                self._move_crosshair(key)
            case Qt.Key.Key_T:
                self.open_table()
            case Qt.Key.Key_0:
                self._fit()
            case _:
                super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Offer the table and fitting."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction(tr("Table of its data…"), self.open_table)
        menu.addAction(tr("Fit to the data"), self._fit)
        menu.popup(event.globalPos())

    def _connect(self) -> None:
        self.canvas.hovered.connect(self.show_crosshair_at)
        self.canvas.view_changed.connect(self._mark)
        self.legend.toggled.connect(self._toggle)
        theme().changed.connect(self._recolor)
        self._recolor()

    def _mark(self) -> None:
        self._dirty = True
        if self.isVisible() and not self._soon.isActive():
            self._soon.start()

    def _recolor(self) -> None:
        self.canvas.set_colors(colors())
        self._mark()

    def _toggle(self, curve: str, shown: bool) -> None:
        self._hidden ^= {curve} if shown == (curve in self._hidden) else set()
        self._mark()

    def _fit(self) -> None:
        self.canvas.fit()
        self._mark()

    def _anchor(self, x: float) -> float:
        """The x of the nearest point of the curve with the most points: that the crosshair snaps to."""
        densest = max(self._series.values(), key=len, default=None)
        position = densest.nearest(x) if densest is not None else None
        return x if densest is None or position is None else float(densest.x[position])

    def _show_crosshair(self) -> None:
        text = "" if self._crosshair is None else self.read_out(self._crosshair)
        self.canvas.show_crosshair(None if self._crosshair is None or not text else self._anchor(self._crosshair), text)

    def _move_crosshair(self, key: Qt.Key) -> None:
        densest = max(self._series.values(), key=len, default=None)
        if densest is None or not len(densest):
            return
        here = densest.nearest(self._crosshair) if self._crosshair is not None else None
        last = len(densest) - 1
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(key, 0)
        position = {Qt.Key.Key_Home: 0, Qt.Key.Key_End: last}.get(key, last if here is None else min(max(here + step, 0), last))
        self.show_crosshair_at(float(densest.x[position]))
        self.setAccessibleDescription(self.read_out(float(densest.x[position])).replace("\n", ", "))

    def _describe(self) -> None:
        last = {self._styles[curve]: series.y[-1] for curve, series in self._series.items() if len(series)}
        parts = [f"{style.label} {y:.{style.digits}g}" for style, y in last.items()]
        self.setAccessibleName(f"{self.title.text()}: {', '.join(parts)}" if parts else tr("{title}: no data yet", title=self.title.text()))
