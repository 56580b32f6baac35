"""The legend of a plot: line samples and names; pressing one hides its curve."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractButton, QSizePolicy, QWidget

from lora_studio.gui.platform.text import tr
from lora_studio.gui.plots.curves import CurveStyle, pen_for
from lora_studio.gui.theme import colors
from lora_studio.gui.widgets.flow import FlowLayout

_SAMPLE, _GAP, _PAD = 15, 5, 2


class LegendEntry(QAbstractButton):
    """One curve's sample and name. Checked: the curve shows."""

    def __init__(self, style: CurveStyle) -> None:
        super().__init__()
        self.setObjectName(f"legend_{style.id}")
        self.setText(style.label)
        self.setCheckable(True)
        self.setChecked(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setToolTip(tr("Show or hide {curve}", curve=style.label))
        self._style = style

    def sizeHint(self) -> QSize:
        """Sample and name."""
        metrics = self.fontMetrics()
        return QSize(_SAMPLE + _GAP + metrics.horizontalAdvance(self.text()) + 2 * _PAD, metrics.height() + 2 * _PAD)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the sample as the curve is drawn, and the name."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        color = QColor(getattr(colors(), self._style.color if self.isChecked() else "disabled"))
        middle = self.height() / 2
        pen = pen_for(self._style, color)
        pen.setWidth(2)
        if pen.style() != Qt.PenStyle.SolidLine:
            pen.setDashPattern([length / 2.2 for length in pen.dashPattern()])
        painter.setPen(pen)
        painter.drawLine(QPointF(_PAD, middle), QPointF(_PAD + _SAMPLE, middle))
        if self._style.marker:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(color)
            painter.drawEllipse(QPointF(_PAD + _SAMPLE / 2, middle), 3.5, 3.5)
        painter.setPen(QColor(colors().muted if self.isChecked() else colors().disabled))
        painter.drawText(self.rect().adjusted(_PAD + _SAMPLE + _GAP, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, self.text())
        if self.hasFocus():
            painter.setPen(QColor(colors().accent))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(self.rect().adjusted(0, 0, -1, -1), 3, 3)


class Legend(QWidget):
    """The entries of a plot, wrapping where it is narrow.

    Signals:
        toggled: A curve is to show or to hide (id, shown).
    """

    toggled = Signal(str, bool)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("legend")
        self._entries: dict[str, LegendEntry] = {}
        self._flow = FlowLayout(self, spacing=8)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def add(self, style: CurveStyle) -> None:
        """Add a curve's entry."""
        entry = LegendEntry(style)
        entry.toggled.connect(lambda on, identity=style.id: self.toggled.emit(identity, on))
        self._entries[style.id] = entry
        self._flow.addWidget(entry)

    def set_shown(self, curve: str, shown: bool) -> None:
        """Show or leave out a curve's entry, as a machine without a GPU leaves out *reserved*."""
        self._entries[curve].setVisible(shown)
