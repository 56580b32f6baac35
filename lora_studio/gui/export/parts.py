"""Small things that the pages of the Export dialog share."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QPushButton, QWidget


def button(text: str, name: str, role: str = "") -> QPushButton:
    """Make a button that Enter does not press by itself."""
    made = QPushButton(text)
    made.setObjectName(name)
    made.setAutoDefault(False)
    if role:
        made.setProperty("role", role)
    return made


def in_row(*widgets: QWidget, stretch: bool = False) -> QWidget:
    """Put widgets beside each other."""
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    if stretch:
        layout.addStretch(1)
    return row


def to_the_right(*widgets: QWidget) -> QWidget:
    """Put widgets beside each other at the right."""
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 6, 0, 0)
    layout.addStretch(1)
    for widget in widgets:
        layout.addWidget(widget)
    return row
