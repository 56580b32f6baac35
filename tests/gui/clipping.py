"""Walks the widgets one can see and tells which show less than all of their text.

`assert clipped_widgets(window) == []` after showing and laying out. A widget that shortens its text on purpose, and shows
all of it as a tooltip (`ElidedLabel`, `ComboBox`), is left out.
"""

from __future__ import annotations

from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractScrollArea,
    QApplication,
    QCheckBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QTabBar,
    QToolButton,
    QWidget,
)

from lora_studio.gui.widgets import ElidedLabel

_SLACK = 1  # pixels lost to rounding of font metrics


def settle(window: QWidget) -> None:
    """Let layouts and styles come to rest."""
    for _ in range(4):
        QApplication.sendPostedEvents()
        QApplication.processEvents()
    window.ensurePolished()


def clipped_widgets(root: QWidget) -> list[str]:
    """Name each visible widget below `root` whose text or box is cut off, with how much it lacks in pixels."""
    found: list[str] = []
    for widget in [root, *root.findChildren(QWidget)]:
        if widget.isVisibleTo(root) and widget.isVisible():
            lacking = _lacks(widget)
            if lacking is None and not _scrolls(widget, root) and not _inside_parent(widget, root):
                lacking = "lies outside its parent"
            if lacking is not None:
                found.append(f"{_path(widget)}: {lacking}")
    return found


def _lacks(widget: QWidget) -> str | None:
    if isinstance(widget, ElidedLabel):
        return _height(widget, widget.fontMetrics().height())
    if isinstance(widget, QLabel):
        return _label(widget)
    if isinstance(widget, QPushButton | QCheckBox | QRadioButton | QToolButton):
        return _button(widget)
    if isinstance(widget, QTabBar):
        return _tabs(widget)
    if isinstance(widget, QLineEdit):
        return _height(widget, widget.fontMetrics().height())
    return None


def _label(label: QLabel) -> str | None:
    text = label.text()
    if not text or label.pixmap().width() > 0:
        return None
    if label.wordWrap():
        needed = label.heightForWidth(label.width())
        room = label.contentsRect().width()
        widest = label.fontMetrics().boundingRect(QRect(0, 0, room, 1 << 16), Qt.TextFlag.TextWordWrap, text).width()
        if widest > room + _SLACK:  # a word without a place to break, such as some paths
            return f"a word of {text!r} lacks {widest - room} px"
        return _height(label, needed) if needed > 0 else None
    needed = label.sizeHint()
    if needed.width() > label.width() + _SLACK:
        return f"{text!r} lacks {needed.width() - label.width()} px of width"
    return _height(label, label.fontMetrics().height())


def _button(button: QAbstractButton) -> str | None:
    if not button.text() or (isinstance(button, QToolButton) and button.toolButtonStyle() == button.toolButtonStyle().ToolButtonIconOnly):
        return None
    needed = button.sizeHint()
    if needed.width() > button.width() + _SLACK:
        return f"{button.text()!r} lacks {needed.width() - button.width()} px of width"
    return _height(button, button.fontMetrics().height())


def _tabs(bar: QTabBar) -> str | None:
    if bar.sizeHint().width() > bar.width() + _SLACK:
        return f"tabs lack {bar.sizeHint().width() - bar.width()} px of width"
    return _height(bar, bar.sizeHint().height())


def _height(widget: QWidget, needed: int) -> str | None:
    lacking = needed - widget.height()
    return f"lacks {lacking} px of height" if lacking > _SLACK else None


def _scrolls(widget: QWidget, root: QWidget) -> bool:
    """Whether what lies outside can be scrolled to."""
    parent = widget.parentWidget()
    while parent is not None and parent is not root:
        if isinstance(parent, QAbstractScrollArea):
            return True
        parent = parent.parentWidget()
    return isinstance(widget.parentWidget(), QAbstractScrollArea)


def _inside_parent(widget: QWidget, root: QWidget) -> bool:
    parent = widget.parentWidget()
    if parent is None or widget is root or widget.isWindow() or not widget.width() or not widget.height():
        return True
    box = QRect(widget.mapTo(parent, QPoint(0, 0)), widget.size())
    return parent.rect().adjusted(-_SLACK, -_SLACK, _SLACK, _SLACK).contains(box)


def _path(widget: QWidget) -> str:
    names: list[str] = []
    here: QWidget | None = widget
    while here is not None and len(names) < 4:
        names.append(here.objectName() or type(here).__name__)
        here = here.parentWidget()
    return " < ".join(names)
