"""A side panel folded up: a rail of buttons, and the overlay it opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QObject, QRect, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent, QShowEvent
from PySide6.QtWidgets import QFrame, QToolButton, QVBoxLayout, QWidget

from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme


@dataclass(frozen=True)
class RailEntry:
    """One button of a rail: the panel's id, its English title and its icon's name."""

    id: str
    title: str
    icon: str


class Rail(QFrame):
    """A narrow strip of icons, one for each panel that is folded up.

    Signals:
        opened: A button was pressed (the panel's id).
    """

    opened = Signal(str)

    def __init__(self, entries: Sequence[RailEntry], name: str = "rail") -> None:
        super().__init__()
        self.setObjectName(name)
        self._buttons: dict[RailEntry, QToolButton] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 6)
        layout.setSpacing(6)
        for entry in entries:
            button = QToolButton()
            button.setObjectName(f"{name}_{entry.id}")
            button.setToolTip(tr(entry.title))
            button.setAccessibleName(tr(entry.title))
            button.setIconSize(QSize(20, 20))
            button.clicked.connect(lambda _on=False, chosen=entry.id: self.opened.emit(chosen))
            self._buttons[entry] = button
            layout.addWidget(button)
        layout.addStretch(1)
        theme().changed.connect(self._draw_icons)

    def showEvent(self, event: QShowEvent) -> None:
        """Draw the icons when they are first needed: most windows are wide enough for none."""
        super().showEvent(event)
        self._draw_icons()

    def _draw_icons(self) -> None:
        for entry, button in self._buttons.items():
            button.setIcon(icon(entry.icon, colors().text, size=20))


class Overlay(QFrame):
    """A panel laid over the window's edge; Escape or a click beside it closes it.

    Signals:
        closed: It is hidden.
    """

    closed = Signal()

    def __init__(self, area: QWidget, side: str, name: str = "overlay") -> None:
        super().__init__(area)
        self.setObjectName(name)
        self._area = area
        self._side = side
        self.content = QVBoxLayout(self)
        self.content.setContentsMargins(6, 6, 6, 6)
        self.hide()
        area.installEventFilter(self)

    def open(self, width: int) -> None:
        """Show it along its edge at a width in pixels."""
        self._place(width)
        self.show()
        self.raise_()
        self.setFocus(Qt.FocusReason.PopupFocusReason)

    def close_overlay(self) -> None:
        """Hide it."""
        if not self.isHidden():
            self.hide()
            self.closed.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Escape closes."""
        if event.key() == Qt.Key.Key_Escape:
            self.close_overlay()
        else:
            super().keyPressEvent(event)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the window's size; a click on what lies beneath closes."""
        if not self.isHidden():
            if event.type() == QEvent.Type.Resize:
                self._place(self.width())
            elif event.type() == QEvent.Type.MouseButtonPress:
                self.close_overlay()
        return False

    def _place(self, width: int) -> None:
        width = min(width, self._area.width() - 60)
        left = 0 if self._side == "left" else self._area.width() - width
        self.setGeometry(QRect(left, 0, width, self._area.height()))
