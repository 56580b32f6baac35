"""Bars: how far a task is, and what a sum is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QPainter, QPainterPath, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from lora_studio.gui.theme import colors


class ProgressLine(QWidget):
    """A thin line, filled as far as a task is; with no known end only its beginning is filled."""

    def __init__(self, name: str = "progress_line") -> None:
        super().__init__()
        self.setObjectName(name)
        self._fraction: float | None = 0.0
        self.setFixedHeight(6)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.set_fraction(0.0)

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None where the end is not known."""
        return self._fraction

    def set_fraction(self, fraction: float | None) -> None:
        """Show how far it is, from 0 to 1; None where the end is not known."""
        self._fraction = None if fraction is None else min(max(fraction, 0.0), 1.0)
        self.setAccessibleName("" if self._fraction is None else f"{self._fraction:.0%}")
        self.update()

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        return QSize(120, 6)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw track and fill."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        area = QRectF(self.rect())
        radius = area.height() / 2
        painter.setBrush(QColor(colors().field))
        painter.drawRoundedRect(area, radius, radius)
        if self._fraction == 0:
            return
        painter.setBrush(QColor(colors().accent))
        if self._fraction is None:
            painter.setOpacity(0.45)
        share = 1.0 if self._fraction is None else self._fraction
        painter.drawRoundedRect(QRectF(0, 0, max(area.width() * share, area.height()), area.height()), radius, radius)


@dataclass(frozen=True)
class Segment:
    """One part of a `SegmentBar`.

    Attributes:
        label: What it is.
        value: How much, in the unit of the bar's capacity.
        color: Name of a colour of the theme, such as `curve_blue`.
    """

    label: str
    value: float
    color: str


class SegmentBar(QWidget):
    """Parts of a sum side by side within a capacity; what exceeds it is hatched red."""

    def __init__(self, name: str = "segment_bar") -> None:
        super().__init__()
        self.setObjectName(name)
        self._segments: tuple[Segment, ...] = ()
        self._capacity: float | None = None
        self.setFixedHeight(14)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The parts shown."""
        return self._segments

    def set_segments(self, segments: Sequence[Segment], capacity: float | None = None) -> None:
        """Show parts within a capacity; without one they fill the bar."""
        self._segments = tuple(segments)
        self._capacity = capacity
        self.setAccessibleDescription(", ".join(f"{part.label} {part.value:.4g}" for part in self._segments))
        self.update()

    def event(self, event: QEvent) -> bool:
        """Name the part under the pointer."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            part = next((part for part, left, right in self.spans() if left <= event.pos().x() < right), None)
            QToolTip.showText(event.globalPos(), "" if part is None else part.label, self)
            return True
        return super().event(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw track, parts and, where they exceed the capacity, the excess."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        clip = QPainterPath()
        clip.addRoundedRect(QRectF(self.rect()), 3, 3)
        painter.setClipPath(clip)
        painter.fillRect(self.rect(), QColor(colors().field))
        for part, left, right in self.spans():
            gap = 1.5 if right - left > 4 else 0.0  # a hairline between neighbours
            painter.fillRect(QRectF(left, 0, max(right - left - gap, 1.0), self.height()), QColor(getattr(colors(), part.color)))
        total = sum(part.value for part in self._segments)
        if self._capacity and total > self._capacity:
            limit = self.width() * self._capacity / total
            painter.fillRect(QRectF(limit, 0, self.width() - limit, self.height()), QColor(colors().window))
            painter.setBrush(Qt.BrushStyle.BDiagPattern)
            painter.fillRect(QRectF(limit, 0, self.width() - limit, self.height()), Qt.BrushStyle.BDiagPattern)
            painter.fillRect(QRectF(limit - 1, 0, 2, self.height()), QColor(colors().bad))

    def spans(self) -> list[tuple[Segment, float, float]]:
        """Return each part with its left and right edge in pixels, in the order in which they stand."""
        total = sum(part.value for part in self._segments)
        scale = self.width() / max(self._capacity or 0, total, 1e-12)
        spans: list[tuple[Segment, float, float]] = []
        left = 0.0
        for part in self._segments:
            spans.append((part, left, left + part.value * scale))
            left += part.value * scale
        return spans
