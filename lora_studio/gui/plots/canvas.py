"""The drawing area of a plot: pyqtgraph's view with our axes, colours, zoom and crosshair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFont, QMouseEvent, QResizeEvent, QWheelEvent
from PySide6.QtWidgets import QGraphicsGridLayout, QLabel, QSizePolicy

from lora_studio.gui.plots.curves import CurveItem, CurveStyle, dotted, fill_color, pen_for
from lora_studio.gui.plots.pyramid import Series
from lora_studio.gui.theme import DARK, Colors, theme

_MARKER_LIMIT = 400
_COLUMNS_PER_PIXEL = 0.5
_HEADROOM = 0.06


class ReadOut(QLabel):
    """The box beside the crosshair."""


class Canvas(pg.GraphicsView):
    """Axes, grid, curves and a crosshair. It shows what `draw` gives it and says when the view has changed.

    Signals:
        hovered: The pointer is over an x (float), or has left (None).
        view_changed: A person panned or zoomed, or the size changed: the curves want thinning anew.
    """

    hovered = Signal(object)
    view_changed = Signal()

    def __init__(self, name: str) -> None:
        super().__init__(useOpenGL=False)
        self.setObjectName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(120, 80)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setMouseTracking(True)
        self._box = pg.ViewBox(enableMenu=False)
        self._axes = {side: pg.AxisItem(side) for side in ("left", "bottom")}
        self._colors = DARK
        self._styles: dict[str, CurveStyle] = {}
        self._items: dict[str, CurveItem] = {}
        self._markers: dict[str, pg.ScatterPlotItem] = {}
        self._levels: dict[str, tuple[CurveStyle, float, pg.InfiniteLine]] = {}
        self._zoom: tuple[float, float] | None = None
        self._drag_from: tuple[QPointF, tuple[float, float]] | None = None
        self._span = (0.0, 1.0)
        self._build_axes()
        self._line = pg.InfiniteLine(angle=90, movable=False)
        self._line.setVisible(False)
        self._box.addItem(self._line, ignoreBounds=True)
        self._read_out = ReadOut(self)
        self._read_out.setObjectName("read_out")
        self._read_out.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._read_out.hide()

    @property
    def read_out_text(self) -> str:
        """What the box beside the crosshair says; empty while it is hidden."""
        return "" if self._read_out.isHidden() else self._read_out.text()

    @property
    def x_range(self) -> tuple[float, float]:
        """The x at the left and right edge."""
        return self._zoom or self._span

    def add_curve(self, style: CurveStyle) -> None:
        """Add an empty curve above those there."""
        item = CurveItem(style.strong)
        self._styles[style.id], self._items[style.id] = style, item
        self._box.addItem(item, ignoreBounds=True)
        if style.marker:
            marker = pg.ScatterPlotItem(size=7, pxMode=True)
            self._markers[style.id] = marker
            self._box.addItem(marker, ignoreBounds=True)
        self._paint_curve(style)

    def set_level(self, style: CurveStyle, y: float | None) -> None:
        """Draw a level line, or take it away."""
        if style.id in self._levels:
            self._box.removeItem(self._levels.pop(style.id)[2])
        if y is not None and math.isfinite(y):
            line = pg.InfiniteLine(pos=y, angle=0, movable=False, pen=dotted(QColor(getattr(self._colors, style.color))))
            self._levels[style.id] = (style, y, line)
            self._box.addItem(line, ignoreBounds=True)

    def set_colors(self, colors: Colors) -> None:
        """Take a theme's colours and text size."""
        self._colors = colors
        self.setBackground(QColor(colors.surface))
        font = QFont(self.font())
        font.setPointSizeF(theme().scale * 8.5)
        for axis in self._axes.values():
            axis.setPen(QColor(colors.border))
            axis.setTextPen(QColor(colors.muted))
            axis.setTickFont(font)
        self._line.setPen(dotted(QColor(colors.muted)))
        for style in self._styles.values():
            self._paint_curve(style)
        for style, _, line in self._levels.values():
            line.setPen(dotted(QColor(getattr(colors, style.color))))

    def draw(self, shown: Mapping[str, Series]) -> None:
        """Draw these curves, thinned to the pixels there are; others are hidden."""
        self._span = _span_of(shown)
        left, right = self.x_range
        columns = max(int(self._box.width() * _COLUMNS_PER_PIXEL), 50)
        bounds: list[tuple[float, float]] = []
        for curve, item in self._items.items():
            series = shown.get(curve)
            item.setVisible(series is not None)
            if curve in self._markers:
                self._markers[curve].setVisible(series is not None)
            if series is not None:
                x, y = series.thinned(left, right, columns)
                item.set_points(x, y)
                finite = y[np.isfinite(y)]  # holds the extremes of all that lies in view
                bounds += [(float(finite.min()), float(finite.max()))] if len(finite) else []
                if curve in self._markers:
                    self._markers[curve].setData(*((x, y) if len(x) <= _MARKER_LIMIT else ([], [])))
        filled = any(self._styles[curve].filled and len(series) for curve, series in shown.items())
        self._set_range(bounds, filled, left, right)

    def fit(self) -> None:
        """Show all x again."""
        self._zoom = None

    def show_crosshair(self, x: float | None, text: str) -> None:
        """Show the crosshair at an x with its box, or put both away."""
        self._line.setVisible(x is not None)
        self._read_out.setVisible(x is not None)
        if x is None:
            return
        self._line.setPos(x)
        self._read_out.setText(text)
        self._read_out.adjustSize()
        self._place_read_out(x)

    def mouseMoveEvent(self, ev: QMouseEvent) -> None:
        """Pan while dragging, else read out."""
        if self._drag_from is not None:
            start, (left, right) = self._drag_from
            shift = (ev.position().x() - start.x()) * (right - left) / max(self._box.width(), 1)
            self._zoom_to(left - shift, right - shift)
        else:
            self.hovered.emit(self._x_at(ev.position()))

    def mousePressEvent(self, ev: QMouseEvent) -> None:
        """Begin to pan."""
        if ev.button() == Qt.MouseButton.LeftButton:
            self._drag_from = (ev.position(), self.x_range)

    def mouseReleaseEvent(self, ev: QMouseEvent) -> None:
        """End panning."""
        self._drag_from = None

    def mouseDoubleClickEvent(self, ev: QMouseEvent) -> None:
        """Fit again."""
        self.fit()
        self.view_changed.emit()

    def wheelEvent(self, ev: QWheelEvent) -> None:
        """Zoom about the pointer with Ctrl; without it the page scrolls."""
        if not ev.modifiers() & Qt.KeyboardModifier.ControlModifier:
            ev.ignore()
            return
        left, right = self.x_range
        middle = self._x_at(ev.position())
        factor = 0.8 ** (ev.angleDelta().y() / 120)
        self._zoom_to(middle - (middle - left) * factor, middle + (right - middle) * factor)
        ev.accept()

    def leaveEvent(self, ev: QEvent) -> None:
        """Put the crosshair away."""
        self.hovered.emit(None)

    def resizeEvent(self, ev: QResizeEvent) -> None:
        """Thin anew for the new width."""
        super().resizeEvent(ev)
        if hasattr(self, "_read_out"):  # pyqtgraph sends one from its constructor
            self.view_changed.emit()

    def _build_axes(self) -> None:
        self._box.setMouseEnabled(False, False)
        self._box.disableAutoRange()
        self._box.setDefaultPadding(0)
        for axis in self._axes.values():
            axis.enableAutoSIPrefix(False)
            axis.setStyle(tickLength=0, tickTextOffset=6, autoExpandTextSpace=True, maxTickLevel=0, hideOverlappingLabels=False)
            axis.linkToView(self._box)
        # Half of pyqtgraph's PlotItem is menus and buttons that are not wanted here; they double the time it takes to make one.
        frame = pg.GraphicsWidget()
        grid = QGraphicsGridLayout(frame)
        grid.setContentsMargins(0, 4, 9, 0)  # on the right, half of the last number on the axis
        grid.setSpacing(0)
        grid.addItem(self._axes["left"], 0, 0)
        grid.addItem(self._box, 0, 1)
        grid.addItem(self._axes["bottom"], 1, 1)
        self.setCentralItem(frame)

    def _paint_curve(self, style: CurveStyle) -> None:
        color = QColor(getattr(self._colors, style.color))
        item = self._items[style.id]
        item.setPen(pen_for(style, color))
        if style.filled:
            item.set_fill(fill_color(color))
        if style.id in self._markers:
            self._markers[style.id].setPen(None)
            self._markers[style.id].setBrush(color)

    def _set_range(self, bounds: Sequence[tuple[float, float]], filled: bool, left: float, right: float) -> None:
        low = min((bound[0] for bound in bounds), default=0.0)
        high = max((bound[1] for bound in bounds), default=1.0)
        for _, level, _ in self._levels.values():
            low, high = min(low, level), max(high, level)
        low = min(low, 0.0) if filled else low
        room = (high - low) * _HEADROOM or abs(high) * 0.1 or 1.0
        self._box.setRange(QRectF(left, low - (0 if filled else room), right - left, high - low + room * (1 if filled else 2)), padding=0)

    def _zoom_to(self, left: float, right: float) -> None:
        if right - left > 1e-9:
            self._zoom = (left, right)
            self.view_changed.emit()

    def _x_at(self, position: QPointF) -> float:
        return float(self._box.mapSceneToView(self.mapToScene(position.toPoint())).x())

    def _place_read_out(self, x: float) -> None:
        at = self.mapFromScene(self._box.mapViewToScene(QPointF(x, 0))).x()
        width = self._read_out.width()
        left = at + 10 if at + 10 + width < self.width() else at - 10 - width
        self._read_out.move(max(left, 0), 8)


def _span_of(shown: Mapping[str, Series]) -> tuple[float, float]:
    filled = [series.x for series in shown.values() if len(series)]
    left = min((float(x[0]) for x in filled), default=0.0)
    right = max((left + 1.0, *(float(x[-1]) for x in filled)))
    # Growing to round numbers keeps the axis still for many steps: painting it is what a tick would spend most on.
    grain = 10 ** math.floor(math.log10(max(right - left, 1e-9))) / 10
    left = 0.0 if 0 <= left <= right * 0.1 else left
    return left, max(math.ceil(right / grain) * grain, left + grain)
