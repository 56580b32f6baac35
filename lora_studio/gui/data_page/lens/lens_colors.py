"""How the lens paints a token of each state: a fill, an edge, and a mark beside the colour."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QRect, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPen

from lora_studio.gui.theme import Colors


@dataclass(frozen=True)
class ChipStyle:
    """The look of one state.

    Attributes:
        fill: Behind the text.
        text: Colour of the text; reaches a contrast of 4.5 on `fill`.
        mark: Colour of the underline, the strike or the edge.
        kind: underline, plain, strike or dashed: what tells states apart without colour.
    """

    fill: str
    text: str
    mark: str
    kind: str


def chip_styles(colors: Colors) -> dict[str, ChipStyle]:
    """Return the look of every state in a theme."""
    return {
        "trained": ChipStyle(mixed(colors.surface, colors.good, 0.2), colors.text, colors.good, "underline"),
        "context": ChipStyle(colors.field, colors.text, colors.border, "plain"),
        "cut": ChipStyle(mixed(colors.surface, colors.warning, 0.1), colors.text, colors.warning, "strike"),
        "padding": ChipStyle(colors.surface, colors.muted, colors.control, "dashed"),
    }


def mixed(below: str, above: str, share: float) -> str:
    """Lay a colour over another with an opacity."""
    low, high = QColor(below), QColor(above)
    pairs = ((low.red(), high.red()), (low.green(), high.green()), (low.blue(), high.blue()))
    return QColor(*(round(a + (b - a) * share) for a, b in pairs)).name()


def paint_chip(painter: QPainter, area: QRect, text: str, style: ChipStyle) -> None:
    """Paint a token."""
    painter.setPen(QPen(QColor(style.mark), 1, Qt.PenStyle.DashLine) if style.kind == "dashed" else QColor(style.mark))
    painter.setBrush(QColor(style.fill))
    if style.kind in ("underline", "strike"):
        painter.setPen(Qt.PenStyle.NoPen)
    painter.drawRect(area.adjusted(0, 0, -1, -1))
    if style.kind == "underline":
        painter.fillRect(area.left(), area.bottom() - 1, area.width(), 2, QColor(style.mark))
    elif style.kind == "strike":
        hatch = QColor(style.mark)
        hatch.setAlphaF(0.35)
        painter.fillRect(area, QBrush(hatch, Qt.BrushStyle.BDiagPattern))
        painter.fillRect(area.left(), area.center().y(), area.width(), 1, QColor(style.mark))
    painter.setPen(QColor(style.text))
    painter.drawText(area, int(Qt.AlignmentFlag.AlignCenter), text)
