"""How a curve is drawn: its style, its pen, and the item that paints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPen, QTransform

from lora_studio.gui.plots.pyramid import Floats

Line = Literal["solid", "dash", "dot"]
_DASHES: dict[Line, list[float]] = {"solid": [], "dash": [5.0, 3.0], "dot": [1.5, 2.5]}
_FILL_ALPHA = 44


@dataclass(frozen=True)
class CurveStyle:
    """A curve's name and look. Line and marker tell curves apart where colour does not.

    Attributes:
        id: What code calls it.
        label: What the legend and the table call it.
        color: Name of a theme colour, such as `curve_blue`.
        line: `solid`, `dash` or `dot`.
        marker: Draw each point as a dot too: for few points.
        filled: Fill down to zero.
        strong: Draw it twice as thick.
        digits: Significant digits in the read-out.
    """

    id: str
    label: str
    color: str
    line: Line = "solid"
    marker: bool = False
    filled: bool = False
    strong: bool = False
    digits: int = 4


def pen_for(style: CurveStyle, color: QColor) -> QPen:
    """Return the pen of a curve: one pixel wide always, since wider ones take a hundred times as long."""
    pen = QPen(color)
    pen.setWidth(1)
    pen.setCosmetic(True)
    if _DASHES[style.line]:
        pen.setDashPattern(_DASHES[style.line])
    return pen


class CurveItem(pg.PlotCurveItem):
    """A curve of pyqtgraph that gets its thickness from being painted again a pixel further on."""

    def __init__(self, strong: bool) -> None:
        super().__init__(antialias=True, connect="finite", skipFiniteCheck=False)
        self._strong = strong
        self._fill: QColor | None = None
        self._filled_path: QPainterPath | None = None
        self.setSegmentedLineMode("off")

    def set_fill(self, color: QColor) -> None:
        """Fill the curve down to zero in a colour."""
        self._fill = color

    def set_points(self, x: Floats, y: Floats) -> None:
        """Draw other points, x not falling."""
        self.setData(x, y)
        finite = np.isfinite(y)
        self._filled_path = None
        if self._fill is not None and finite.any():
            x, y = x[finite], y[finite]
            self._filled_path = pg.arrayToQPath(np.append(x, (x[-1], x[0])), np.append(y, (0.0, 0.0)), connect="all")

    def paint(self, p: QPainter, opt: object, widget: object) -> None:
        """Paint the fill, without the smooth edges that would cost more than all else; then the curve, twice where it is strong."""
        if self._filled_path is not None and self._fill is not None:
            p.setRenderHint(QPainter.RenderHint.Antialiasing, False)
            p.fillPath(self._filled_path, self._fill)
        super().paint(p, opt, widget)
        if self._strong:
            p.save()
            p.setTransform(p.transform() * QTransform.fromTranslate(0, 0.9))
            super().paint(p, opt, widget)
            p.restore()


def dotted(color: QColor) -> QPen:
    """Return the pen of the crosshair and of levels."""
    pen = QPen(color)
    pen.setCosmetic(True)
    pen.setStyle(Qt.PenStyle.DotLine)
    return pen


def fill_color(color: QColor) -> QColor:
    """Return the colour a filled curve is filled with."""
    return QColor(color.red(), color.green(), color.blue(), _FILL_ALPHA)
