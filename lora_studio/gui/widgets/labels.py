"""Labels: plain ones with a role, one that shortens itself, one for errors, one for a figure."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPalette, QResizeEvent
from PySide6.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from lora_studio.gui.widgets.names import identifier


def label(text: str, role: str = "", name: str = "", wrap: bool = False) -> QLabel:
    """Return a label of plain text with a role of the style sheet: `title`, `note`, `value`, `mono`, `good`, `warning`, `error`."""
    result = QLabel(text)
    result.setTextFormat(Qt.TextFormat.PlainText)
    result.setObjectName(name or identifier(text)[:40])
    result.setWordWrap(wrap)
    if role:
        result.setProperty("role", role)
    return result


class ElidedLabel(QLabel):
    """A one-line label that shortens its text with … where it lacks room, and shows all of it as its tooltip."""

    def __init__(self, text: str = "", role: str = "", name: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight) -> None:
        super().__init__(text)
        self._mode = mode
        self._own_tip = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setObjectName(name or "elided_label")
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        if role:
            self.setProperty("role", role)

    def setText(self, text: str) -> None:
        """Set the whole text."""
        super().setText(text)
        self._show_tip()

    def setToolTip(self, text: str) -> None:
        """Set a tooltip that stays; empty to show the whole text where it is shortened."""
        self._own_tip = text
        self._show_tip()

    @property
    def is_elided(self) -> bool:
        """Whether the text is shortened now."""
        return self.fontMetrics().horizontalAdvance(self.text()) > self.contentsRect().width()

    def minimumSizeHint(self) -> QSize:
        """A few characters."""
        full = super().minimumSizeHint()
        return QSize(min(full.width(), self.fontMetrics().averageCharWidth() * 6), full.height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Decide anew whether the tooltip is needed."""
        super().resizeEvent(event)
        self._show_tip()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the text, shortened."""
        area = self.contentsRect()
        text = self.fontMetrics().elidedText(self.text(), self._mode, area.width())
        role = QPalette.ColorRole.WindowText
        self.style().drawItemText(QPainter(self), area, int(self.alignment()), self.palette(), self.isEnabled(), text, role)

    def _show_tip(self) -> None:
        super().setToolTip(self._own_tip or (self.text() if self.is_elided else ""))


class ErrorLabel(QLabel):
    """What is wrong with the field above it; takes no room while nothing is."""

    def __init__(self, name: str = "error", text: str = "") -> None:
        super().__init__()
        self.setObjectName(name)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setProperty("role", "error")
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.set_error(text)

    def set_error(self, text: str) -> None:
        """Show a message, or nothing when it is empty."""
        self.setText(text)
        self.setVisible(bool(text))


class StatTile(QWidget):
    """A figure with its name above it, such as *Loss* over 1.184."""

    def __init__(self, title: str, value: str = "–", name: str = "") -> None:
        super().__init__()
        self.setObjectName(name or f"stat_{identifier(title)}")
        self._title = ElidedLabel(title, "note", "stat_title")
        self._value = ElidedLabel(value, "value", "stat_value")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self._title)
        layout.addWidget(self._value)
        self._describe()

    @property
    def value(self) -> str:
        """The figure shown."""
        return self._value.text()

    def set_value(self, value: str) -> None:
        """Show a figure, its unit or total with it where it needs one."""
        if value != self._value.text():
            self._value.setText(value)
            self._describe()

    def set_title(self, title: str) -> None:
        """Rename the figure."""
        self._title.setText(title)
        self._describe()

    def set_note(self, note: str) -> None:
        """Explain the figure in its tooltip."""
        self.setToolTip(note)

    def changeEvent(self, event: QEvent) -> None:
        """Ask the layout for room again when the text size changes."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange:
            self.updateGeometry()

    def _describe(self) -> None:
        self.setAccessibleName(f"{self._title.text()}: {self._value.text()}")
