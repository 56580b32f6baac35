"""What can be seen of the program's widgets from inside it, as plain data; runs in the window's thread."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QModelIndex, QPoint, QRect, Qt
from PySide6.QtGui import QImage, QPainter
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QApplication,
    QComboBox,
    QLabel,
    QLineEdit,
    QListView,
    QMainWindow,
    QPlainTextEdit,
    QScrollArea,
    QStyle,
    QStyleOptionViewItem,
    QTreeView,
    QWidget,
)

from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.theme import theme
from lora_studio.gui.widgets import StatTile
from tests.gui.clipping import clipped_widgets, settle

HEAVY = ("torch", "transformers", "peft")
_LARGE_BYTES = 150_000
_SURELY_KEPT, _MOST_CANDIDATES = 64, 6000

Seen = dict[str, Any]
_held: list[QWidget] = []


def look(name: str) -> Seen | None:
    """Return what a visible widget shows and where it is on the screen; None where there is none of this name."""
    widget = _find(name)
    if widget is None:
        return None
    corner = widget.mapToGlobal(QPoint(0, 0))
    return {
        "text": _text(widget),
        "enabled": widget.isEnabled(),
        "tip": widget.toolTip(),
        "box": [corner.x(), corner.y(), widget.width(), widget.height()],
        "checked": widget.isChecked() if isinstance(widget, QAbstractButton) else None,
        "focus": widget.hasFocus(),
        "error": str(widget.property("error_text") or ""),
    }


def names() -> list[str]:
    """Name every visible widget."""
    return sorted({widget.objectName() for widget in _visible() if widget.objectName() and not widget.objectName().startswith("qt_")})


def buttons(name: str) -> list[Seen]:
    """Return text and place of the buttons below a widget or dialog, such as a question's."""
    root = _find(name)
    below = root.findChildren(QAbstractButton) if root is not None else []
    return [{"text": button.text(), "box": _box(button)} for button in below if button.isVisible()]


def button(name: str, text: str) -> Seen | None:
    """Return a button below a widget or dialog by what it says."""
    return next((found for found in buttons(name) if found["text"].replace("&", "") == text), None)


def program() -> Seen:
    """Tell which heavy modules are imported, the window's title and size, and the page in front."""
    window = _window()
    return {
        "heavy": [name for name in HEAVY if name in sys.modules],
        "title": window.windowTitle(),
        "page": window.page,
        "size": [window.width(), window.height()],
        "corner": [window.x(), window.y()],
        "theme": theme().mode,
        "window": int((QApplication.activeModalWidget() or _windows()[-1]).winId()),
    }


def curves() -> dict[str, dict[str, int]]:
    """Count the points of each series of each plot."""
    from lora_studio.gui.plots.curve_plot import CurvePlot

    plots = _window().findChildren(CurvePlot)
    return {plot.objectName(): {curve: len(series.x) for curve, series in plot.curves.items()} for plot in plots}


def table(name: str) -> list[list[str]]:
    """Return the text of a table's or tree's visible top rows."""
    view = _find(name)
    if not isinstance(view, QAbstractItemView) or view.model() is None:
        return []
    model = view.model()
    columns = range(1) if isinstance(view, QListView) else range(model.columnCount())
    shown = [column for column in columns if not _is_hidden(view, column)]
    return [[str(model.index(row, column).data() or "") for column in shown] for row in range(model.rowCount())]


def row(name: str, path: list[str]) -> Seen | None:
    """Return a tree's row by the texts on the way to it: its columns, its tick, and where its check box and text are."""
    view = _find(name)
    if not isinstance(view, QTreeView):
        return None
    index = _index(view, path)
    if index is None:
        return None
    view.scrollTo(index)
    option = QStyleOptionViewItem()
    view.initViewItemOption(option)
    option.rect = view.visualRect(index)
    option.features |= QStyleOptionViewItem.ViewItemFeature.HasCheckIndicator
    tick = view.style().subElementRect(QStyle.SubElement.SE_ItemViewItemCheckIndicator, option, view)
    model, port = view.model(), view.viewport()
    tick_state = index.data(Qt.ItemDataRole.CheckStateRole)
    return {
        "texts": [str(model.index(index.row(), column, index.parent()).data() or "") for column in range(model.columnCount())],
        "checked": None if tick_state is None else Qt.CheckState(tick_state).name,
        "tick": _on_screen(port, tick),
        "box": _on_screen(port, option.rect),
        "expanded": view.isExpanded(index),
    }


def cell(name: str, row: int, column: int = 0) -> Seen | None:
    """Return a cell of a list or table, scrolled into view: its text and where it is on the screen."""
    view = _find(name)
    if not isinstance(view, QAbstractItemView) or view.model() is None or row >= view.model().rowCount():
        return None
    index = view.model().index(row, column)
    view.scrollTo(index)
    return {"text": str(index.data() or ""), "box": _on_screen(view.viewport(), view.visualRect(index))}


def clipped() -> list[str]:
    """Name the widgets of every visible window that show less than all of their text."""
    return [entry for window in _windows() for entry in clipped_widgets(window)]


def reveal(name: str) -> None:
    """Scroll a widget to the top of what scrolls it, as turning a wheel would."""
    widget = _find(name)
    area = widget.parentWidget() if widget is not None else None
    while area is not None and not isinstance(area, QScrollArea):
        area = area.parentWidget()
    if widget is not None and isinstance(area, QScrollArea) and area.widget() is not None:
        area.verticalScrollBar().setValue(widget.mapTo(area.widget(), QPoint(0, 0)).y())


def resize(width: int, height: int) -> None:
    """Return the window another size, and let it lay itself out."""
    window = _window()
    window.resize(width, height)
    settle(window)


def wear(mode: str) -> None:
    """Change the theme, as the View menu does."""
    theme().set_mode(mode)
    settle(_window())


def picture(path: str) -> Seen:
    """Photograph the main window and what lies over it into a PNG, with a palette where it would be large."""
    window = _window()
    settle(window)
    image = window.grab().toImage()
    shades = len({image.pixel(x, y) for x in range(0, image.width(), 9) for y in range(0, image.height(), 9)})
    with QPainter(image) as painter:
        for other in _windows():
            if other is not window:
                painter.drawPixmap(other.pos() - window.pos(), other.grab())
    save(image, Path(path))
    return {"size": [image.width(), image.height()], "shades": shades}


def save(image: QImage, path: Path) -> None:
    """Write a PNG; one that would be large with a palette of 256 colours, which a window hardly exceeds but for the edges of letters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = image.convertToFormat(QImage.Format.Format_RGB32)
    if not plain.save(str(path), "PNG", 0):
        raise OSError(f"{path} cannot be written")
    if path.stat().st_size > _LARGE_BYTES:
        plain.convertToFormat(QImage.Format.Format_Indexed8, _palette(plain), Qt.ImageConversionFlag.ThresholdDither).save(
            str(path), "PNG", 0
        )


def _palette(image: QImage) -> list[int]:
    """Choose 256 colours: the most frequent, then any that is far from those chosen, so that a thin curve keeps its colour."""
    colors, counts = np.unique(np.frombuffer(image.constBits(), np.uint32), return_counts=True)
    colors = colors[np.argsort(counts)[::-1][:_MOST_CANDIDATES]]
    channels = np.stack([(colors >> shift) & 255 for shift in (16, 8, 0)], axis=1).astype(np.int32)
    apart = np.full(len(colors), 255)
    chosen = list(range(min(len(colors), _SURELY_KEPT)))
    for place in chosen:
        apart = np.minimum(apart, np.abs(channels - channels[place]).max(axis=1))
    while len(chosen) < min(256, len(colors)):
        place = int(apart.argmax())
        chosen.append(place)
        apart = np.minimum(apart, np.abs(channels - channels[place]).max(axis=1))
    return [int(colors[place]) for place in chosen]


def photograph(path: str) -> Seen:
    """Photograph the whole screen, as X shows it."""
    screen = QApplication.primaryScreen()
    save(screen.grabWindow(0).toImage(), Path(path))
    return {"size": [screen.size().width(), screen.size().height()]}


def mouse(x: int, y: int, times: int = 1) -> Callable[[], None]:
    """Press the left button at a place of the screen, on whatever window is in front there."""
    window = next(top for top in reversed(_stacked()) if top.frameGeometry().contains(x, y))
    handle, spot = window.windowHandle(), window.mapFromGlobal(QPoint(x, y))

    def press() -> None:
        QTest.mouseMove(handle, spot)
        if times == 2:
            QTest.mouseDClick(handle, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot)
        else:
            QTest.mouseClick(handle, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot)

    return press


def press_on(what: str, of: list[Any], part: str) -> Callable[[], None]:
    """Press the middle of what is seen now; in one go, since a window may lay itself out anew between a look and a press."""
    left, top, width, height = SEES[what](*of)[part]
    return mouse(left + width // 2, top + height // 2)


def keys(pressed: str) -> Callable[[], None]:
    """Press a key with its modifiers, written as xdotool writes them: ctrl+z, Return, Tab, space."""
    *modifiers, key = pressed.split("+")
    held = Qt.KeyboardModifier.NoModifier
    for modifier in modifiers:
        held |= {
            "ctrl": Qt.KeyboardModifier.ControlModifier,
            "shift": Qt.KeyboardModifier.ShiftModifier,
            "alt": Qt.KeyboardModifier.AltModifier,
        }[modifier]
    code = Qt.Key[f"Key_{key.upper() if len(key) == 1 else key.capitalize()}"]
    return lambda: QTest.keyClick(_focused(), code, held)


def letters(text: str) -> Callable[[], None]:
    """Type a text, key by key."""
    return lambda: QTest.keyClicks(_focused(), text)


def questions() -> bool:
    """Return whether something modal or a menu waits for an answer."""
    return QApplication.activeModalWidget() is not None or QApplication.activePopupWidget() is not None


def _windows() -> list[QWidget]:
    """Return the visible windows, the main one first."""
    shown = [widget for widget in QApplication.topLevelWidgets() if widget.isVisible() and widget.objectName() != "qtooltip_label"]
    # A dialog that Qt made itself is known to Python only as long as somebody holds it, and so are the widgets in it.
    _held[:] = shown
    return sorted(shown, key=lambda widget: not isinstance(widget, QMainWindow))


def _stacked() -> list[QWidget]:
    """Return the windows a press may reach, the frontmost last."""
    modal = QApplication.activePopupWidget() or QApplication.activeModalWidget()
    return [modal] if modal is not None else _windows()


def _focused() -> QWidget:
    """Return the widget that has the keyboard; the frontmost window gets it where none has, as a window manager would give it."""
    front = QApplication.activePopupWidget() or QApplication.activeModalWidget() or QApplication.activeWindow()
    if front is None:
        front = _windows()[-1]
        front.activateWindow()
        QApplication.processEvents()
    return front.focusWidget() or front


def _window() -> MainWindow:
    return next(widget for widget in QApplication.topLevelWidgets() if isinstance(widget, MainWindow))


def _visible() -> list[QWidget]:
    return [widget for top in _windows() for widget in (top, *top.findChildren(QWidget)) if widget.isVisible()]


def _find(name: str) -> QWidget | None:
    """Find the visible widget of this name, in the newest window that has one; `a/b` is a b somewhere below an a."""
    outer, _, inner = name.rpartition("/")
    roots = [_find(outer)] if outer else [*reversed(_windows())]
    return next(
        (
            widget
            for root in roots
            if root is not None
            for widget in (root, *root.findChildren(QWidget, inner))
            if widget.objectName() == inner and widget.isVisible()
        ),
        None,
    )


def _text(widget: QWidget) -> str:
    match widget:
        case StatTile():
            return widget.value
        case QLabel() | QAbstractButton() | QLineEdit():
            return widget.text()
        case QComboBox():
            return widget.currentText()
        case QPlainTextEdit():
            return widget.toPlainText()
        case _:
            return widget.windowTitle() or widget.accessibleName()


def _box(widget: QWidget) -> list[int]:
    corner = widget.mapToGlobal(QPoint(0, 0))
    return [corner.x(), corner.y(), widget.width(), widget.height()]


def _on_screen(port: QWidget, area: QRect) -> list[int]:
    corner = port.mapToGlobal(area.topLeft())
    return [corner.x(), corner.y(), area.width(), area.height()]


def _index(view: QTreeView, path: list[str]) -> QModelIndex | None:
    model, parent = view.model(), QModelIndex()
    for part in path:
        found = next(
            (
                model.index(row, 0, parent)
                for row in range(model.rowCount(parent))
                if str(model.index(row, 0, parent).data()).startswith(part)
            ),
            None,
        )
        if found is None:
            return None
        parent = found
    return parent


def _is_hidden(view: QAbstractItemView, column: int) -> bool:
    return bool(view.isColumnHidden(column)) if hasattr(view, "isColumnHidden") else False


SEES: dict[str, Callable[..., Any]] = {
    found.__name__: found
    for found in (
        look,
        names,
        button,
        buttons,
        program,
        curves,
        table,
        row,
        cell,
        clipped,
        reveal,
        resize,
        wear,
        picture,
        photograph,
        mouse,
        press_on,
        keys,
        letters,
        questions,
    )
}
