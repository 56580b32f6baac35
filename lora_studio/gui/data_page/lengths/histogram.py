"""How long the rows are: bars, with `max_length` as a line that a hand or the arrow keys move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors

_BARS = 60
_LEAST, _MOST = 2, 1 << 22  # what data.max_length may be
_STEP, _LARGE_STEP = 8, 64  # tokens an arrow key moves the line by
_GRASP = 7  # pixels around the line in which it is taken hold of
_FOOT, _HEAD = 20, 22  # pixels below and above the bars


class LengthHistogram(QWidget):
    """Bars of row lengths; what is right of the line is cut and hatched.

    Signals:
        moved: A person moved the line; carries the length and a name that all moves of one drag share.
    """

    moved = Signal(int, str)

    def __init__(self, name: str = "length_histogram") -> None:
        super().__init__()
        self.setObjectName(name)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._lengths: NDArray[np.int64] = np.empty(0, np.int64)
        self._max_length = _LEAST
        self._edges: NDArray[np.float64] = np.linspace(0, 1, _BARS + 1)
        self._counts: NDArray[np.int64] = np.zeros(_BARS, np.int64)
        self._gesture = 0
        self._dragged = False
        self._describe()

    @property
    def bars(self) -> list[tuple[float, float, int]]:
        """From which length below which each bar counts, and how many rows; the last bar counts all that are longer, too."""
        return [(float(low), float(high), int(count)) for low, high, count in zip(self._edges, self._edges[1:], self._counts)]

    def show_lengths(self, lengths: NDArray[np.int64], max_length: int) -> None:
        """Show rows of these lengths and the line at `max_length`; while it is dragged the scale stands still."""
        same = lengths is self._lengths
        if same and max_length == self._max_length:
            return
        self._lengths, self._max_length = lengths, max_length
        if not self._dragged:
            self._count()
        self._describe()
        self.update()

    def x_of(self, length: float) -> float:
        """Return where a length stands, in pixels."""
        return self._plot.left() + self._plot.width() * min(length / self._edges[-1], 1.0)

    def length_at(self, x: float) -> int:
        """Return the length at a place, within what `max_length` may be."""
        share = (x - self._plot.left()) / max(self._plot.width(), 1)
        return int(min(max(round(share * self._edges[-1]), _LEAST), _MOST))

    def sizeHint(self) -> QSize:
        """Wide and low."""
        return QSize(320, 8 * self.fontMetrics().height())

    def minimumSizeHint(self) -> QSize:
        """Room for the bars and their scale."""
        return QSize(140, 6 * self.fontMetrics().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw bars, scale and line."""
        painter = QPainter(self)
        self._paint_bars(painter)
        self._paint_scale(painter)
        if self._lengths.size:
            self._paint_line(painter)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take hold of the line; a press elsewhere brings it there."""
        if event.button() == Qt.MouseButton.LeftButton and self._lengths.size:
            self._dragged = True
            self._gesture += 1
            if abs(event.position().x() - self.x_of(self._max_length)) > _GRASP:
                self._move(self.length_at(event.position().x()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag the line; show that it can be."""
        if self._dragged:
            self._move(self.length_at(event.position().x()))
        near = abs(event.position().x() - self.x_of(self._max_length)) <= _GRASP
        self.setCursor(Qt.CursorShape.SplitHCursor if near or self._dragged else Qt.CursorShape.ArrowCursor)
        self._show_tip(event.position().x())

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Let go; key presses from here on are another undo step."""
        if self._dragged:
            self._dragged = False
            self._gesture += 1
            self._count()
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and Right move the line, with Shift further; Home and End bring it to the shortest and the longest row."""
        step = _LARGE_STEP if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else _STEP
        wanted = {
            Qt.Key.Key_Left: self._max_length - step,
            Qt.Key.Key_Right: self._max_length + step,
            Qt.Key.Key_Home: int(self._lengths.min(initial=_MOST)),
            Qt.Key.Key_End: int(self._lengths.max(initial=0)),
        }.get(Qt.Key(event.key()))
        if wanted is None or not self._lengths.size:
            super().keyPressEvent(event)
        else:
            self._move(min(max(wanted, _LEAST), _MOST))

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Key presses from here on are an undo step of their own."""
        self._gesture += 1
        super().focusInEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        """Ask for room when the text size changes."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange:
            self.updateGeometry()

    def _move(self, length: int) -> None:
        if length != self._max_length:
            self.moved.emit(length, f"max_length line {id(self)} {self._gesture}")

    def _count(self) -> None:
        """Choose the scale: most rows and the line, but not a single row far beyond them."""
        if not self._lengths.size:
            self._counts = np.zeros(_BARS, np.int64)
            return
        longest = int(self._lengths.max())
        wanted = max(1.4 * float(np.percentile(self._lengths, 99)), 1.2 * min(self._max_length, longest), 16.0)
        top = max(min(wanted, 1.05 * longest), 1.1 * min(self._max_length, 4 * longest))
        self._edges = np.linspace(0, max(top, 4.0), _BARS + 1)
        self._counts, _ = np.histogram(np.minimum(self._lengths, self._edges[-1]), bins=self._edges)

    @property
    def _plot(self) -> QRect:
        return self.rect().adjusted(4, _HEAD, -4, -_FOOT)

    def _paint_bars(self, painter: QPainter) -> None:
        plot, most = self._plot, max(int(self._counts.max(initial=1)), 1)
        fill, cut = QColor(colors().curve_blue), QColor(colors().warning)
        for low, high, count in self.bars:
            if count:
                height = max(plot.height() * count / most, 1.0)
                bar = QRectF(self.x_of(low), plot.bottom() + 1 - height, max(self.x_of(high) - self.x_of(low) - 1, 1.0), height)
                if low >= self._max_length:
                    painter.fillRect(bar, QBrush(cut, Qt.BrushStyle.BDiagPattern))
                    painter.setPen(cut)
                    painter.drawRect(bar.adjusted(0, 0, -1, -1))
                else:
                    painter.fillRect(bar, fill)

    def _paint_scale(self, painter: QPainter) -> None:
        plot = self._plot
        painter.setPen(QColor(colors().border))
        painter.drawLine(plot.left(), plot.bottom() + 1, plot.right(), plot.bottom() + 1)
        painter.setPen(QColor(colors().muted))
        top = self._edges[-1]
        foot = QRect(plot.left(), plot.bottom() + 3, plot.width(), _FOOT)
        painter.drawText(foot, int(Qt.AlignmentFlag.AlignLeft), "0")
        if self._lengths.size:
            beyond = "+" if self._lengths.max() > top else ""
            painter.drawText(foot, int(Qt.AlignmentFlag.AlignRight), tr("{length} tokens", length=f"{format_count(int(top))}{beyond}"))
            painter.drawText(foot, int(Qt.AlignmentFlag.AlignHCenter), format_count(int(top) // 2))

    def _paint_line(self, painter: QPainter) -> None:
        plot, x = self._plot, self.x_of(self._max_length)
        focused = self.hasFocus() or self._dragged
        painter.setPen(QPen(QColor(colors().accent), 3 if focused else 2))
        painter.drawLine(QPointF(x, plot.top() - 4), QPointF(x, plot.bottom() + 1))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colors().accent))
        painter.drawPolygon(QPolygonF([QPointF(x - 5, plot.top() - 6), QPointF(x + 5, plot.top() - 6), QPointF(x, plot.top() + 2)]))
        text = f"max_length {format_count(self._max_length)}"
        width = self.fontMetrics().horizontalAdvance(text) + 4
        left = min(max(x - width / 2, plot.left()), plot.right() - width)
        painter.setPen(QColor(colors().text))
        painter.drawText(QRectF(left, 0, width, _HEAD - 6), int(Qt.AlignmentFlag.AlignCenter), text)

    def _show_tip(self, x: float) -> None:
        number = int(np.searchsorted(self._edges, self.length_at(x), side="right")) - 1
        if self._lengths.size and 0 <= number < _BARS:
            low, high, count = self.bars[number]
            self.setToolTip(
                tr(
                    "{low} to {high} tokens: {count} rows",
                    low=format_count(int(np.ceil(low))),
                    high=format_count(int(np.ceil(high)) - 1),
                    count=format_count(count),
                )
            )

    def _describe(self) -> None:
        rows, cut = self._lengths.size, int((self._lengths > self._max_length).sum())
        self.setAccessibleName(
            tr(
                "Lengths of {rows} rows; max_length {length} cuts {cut}. Arrow keys move it.",
                rows=format_count(rows),
                length=format_count(self._max_length),
                cut=format_count(cut),
            )
        )
