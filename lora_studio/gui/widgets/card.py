"""`Card`, the box everything in the window sits in, and `Disclosure`, a part of it that opens."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets.labels import ElidedLabel, label
from lora_studio.gui.widgets.names import identifier, set_role


class Card(QFrame):
    """A rounded box with a title, a note at its right, widgets in its header, and a body.

    Attributes:
        body: The vertical layout that holds the content.
        header: The layout of the title row.
    """

    def __init__(self, title: str = "", note: str = "", name: str = "") -> None:
        super().__init__()
        self.setObjectName(name or f"card_{identifier(title)}")
        self.setAccessibleName(title)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(12, 9, 12, 11)
        outer.setSpacing(7)
        self.header = QHBoxLayout()
        self.header.setSpacing(8)
        self.title = label(title, "title", "card_title")
        self.note = ElidedLabel(note, "note", "card_note")
        self.note.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.note.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.header.addWidget(self.title)
        self.header.addWidget(self.note, 1)
        self.body = QVBoxLayout()
        self.body.setSpacing(7)
        if title:
            outer.addLayout(self.header)
        else:
            self.title.hide()
            self.title.setParent(self)
            self.note.hide()
            self.note.setParent(self)
        outer.addLayout(self.body, 1)

    def set_title(self, title: str) -> None:
        """Rename the card."""
        self.title.setText(title)
        self.setAccessibleName(title)

    def set_note(self, note: str) -> None:
        """Set the short text at the right of the title."""
        if note != self.note.text():
            self.note.setText(note)

    def add_header_widget(self, widget: QWidget) -> None:
        """Put a widget at the right end of the title row."""
        self.header.addWidget(widget)

    def set_highlight(self, on: bool) -> None:
        """Draw the border in the accent colour, as around the run that is going."""
        set_role(self, "true" if on else "false", "highlight")


class Disclosure(QWidget):
    """A line such as *▸ Init, bias, saved modules…* that shows or hides what is below it.

    Attributes:
        body: The layout of what opens.

    Signals:
        toggled: Opened (True) or closed.
    """

    toggled = Signal(bool)

    def __init__(self, title: str, name: str = "", opened: bool = False) -> None:
        super().__init__()
        self.setObjectName(name or f"disclosure_{identifier(title)}")
        self.button = QPushButton(title)
        self.button.setObjectName(f"{self.objectName()}_button")
        self.button.setProperty("role", "disclosure")
        self.button.setCheckable(True)
        self.button.setCursor(Qt.CursorShape.PointingHandCursor)
        self._content = QWidget()
        self._content.setObjectName(f"{self.objectName()}_content")
        self.body = QVBoxLayout(self._content)
        self.body.setContentsMargins(0, 2, 0, 0)
        self.body.setSpacing(7)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.button)
        layout.addWidget(self._content)
        self.button.toggled.connect(self._show)
        theme().changed.connect(self._draw_arrow)
        self.button.setChecked(opened)
        self._show(opened)

    @property
    def is_open(self) -> bool:
        """Whether the content shows."""
        return self.button.isChecked()

    def set_open(self, opened: bool) -> None:
        """Show or hide the content."""
        self.button.setChecked(opened)

    def set_title(self, title: str) -> None:
        """Change the line's text."""
        self.button.setText(title)

    def _show(self, opened: bool) -> None:
        self._content.setVisible(opened)
        self._draw_arrow()
        self.toggled.emit(opened)

    def _draw_arrow(self) -> None:
        self.button.setIcon(icon("chevron-down" if self.is_open else "chevron-right", colors().muted, size=14))
