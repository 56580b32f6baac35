"""Telling a person something: a banner stays on its page, a toast passes."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QWidget

from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets.labels import label
from lora_studio.gui.widgets.names import set_role

_ICONS = {"info": ("info", "accent"), "good": ("good", "good"), "warning": ("warning", "warning"), "error": ("error", "bad")}
_TOAST_WIDTH = 340
_TOAST_MARGIN = 14
_TOAST_SECONDS = {"info": 6.0, "good": 6.0, "warning": 10.0, "error": 20.0}


class Banner(QFrame):
    """What a page has to say, with its cure as a button, and a second one where there are two.

    Signals:
        action_clicked: The cure's button was pressed.
        other_clicked: The second cure's button was pressed.
        closed: A person dismissed it.
    """

    action_clicked = Signal()
    other_clicked = Signal()
    closed = Signal()

    def __init__(self, level: str = "info", text: str = "", action: str = "", closable: bool = False, name: str = "banner") -> None:
        super().__init__()
        self.setObjectName(name)
        self._level = level
        self._icon = QLabel()
        self._icon.setObjectName(f"{name}_icon")
        self._text = label(text, name=f"{name}_text", wrap=True)
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._text.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.action = QPushButton(action)
        self.action.setObjectName(f"{name}_action")
        self.other = QPushButton()
        self.other.setObjectName(f"{name}_other")
        self._close = QToolButton()
        self._close.setObjectName(f"{name}_close")
        self._close.setAccessibleName(tr("Dismiss"))
        self._close.setVisible(closable)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(10, 6, 8, 6)
        layout.setSpacing(9)
        for widget, stretch in ((self._icon, 0), (self._text, 1), (self.action, 0), (self.other, 0), (self._close, 0)):
            layout.addWidget(widget, stretch)
        self.action.clicked.connect(self.action_clicked)
        self.other.clicked.connect(self.other_clicked)
        self._close.clicked.connect(self._dismiss)
        theme().changed.connect(self._draw_icon)
        self.show_message(level, text, action)

    @property
    def level(self) -> str:
        """`info`, `good`, `warning` or `error`."""
        return self._level

    @property
    def text(self) -> str:
        """What it says."""
        return self._text.text()

    def show_message(self, level: str, text: str, action: str = "", other: str = "") -> None:
        """Say something else, with other cures; the banner itself is shown and hidden by its page."""
        self._level = level
        self._text.setText(text)
        for button, said in ((self.action, action), (self.other, other)):
            button.setText(said)
            button.setVisible(bool(said))
        set_role(self, level, "level")
        self.setAccessibleName(text)
        self._draw_icon()

    def _draw_icon(self) -> None:
        name, color = _ICONS[self._level]
        self._icon.setPixmap(icon(name, getattr(colors(), color)).pixmap(16, 16))
        self._close.setIcon(icon("close", colors().muted))

    def _dismiss(self) -> None:
        self.hide()
        self.closed.emit()


class Toast(Banner):
    """A banner that leaves by itself."""

    def __init__(self, level: str, text: str, action: str = "") -> None:
        super().__init__(level, text, action, closable=True, name="toast")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._dismiss)

    def start(self) -> None:
        """Begin to count down; errors stay longest."""
        self._timer.start(round(_TOAST_SECONDS[self.level] * 1000))


class Toasts(QObject):
    """The toasts of a window, stacked in its lower right corner.

    Signals:
        shown: A toast appeared (level, text): for the list of notifications.
    """

    shown = Signal(str, str)

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.setObjectName("toasts")
        self._window = window
        self._toasts: list[Toast] = []
        window.installEventFilter(self)

    @property
    def toasts(self) -> list[Toast]:
        """Those on screen, oldest first."""
        return list(self._toasts)

    def show(self, level: str, text: str, action: str = "") -> Toast:
        """Show a toast above the window's content; connect its `action_clicked` where it has an action."""
        toast = Toast(level, text, action)
        toast.setParent(self._window)
        toast.closed.connect(lambda: self._remove(toast))
        self._toasts.append(toast)
        toast.show()
        toast.start()
        self._place()
        self.shown.emit(level, text)
        return toast

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the window's corner."""
        if event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _remove(self, toast: Toast) -> None:
        if toast in self._toasts:
            self._toasts.remove(toast)
            toast.deleteLater()
            self._place()

    def _place(self) -> None:
        bottom = self._window.height() - _TOAST_MARGIN - 28  # above the status bar
        width = min(_TOAST_WIDTH, self._window.width() - 2 * _TOAST_MARGIN)
        for toast in reversed(self._toasts):
            toast.setFixedWidth(width)
            layout = toast.layout()
            height = layout.totalHeightForWidth(width) if layout is not None and layout.hasHeightForWidth() else toast.sizeHint().height()
            toast.setGeometry(self._window.width() - width - _TOAST_MARGIN, bottom - height, width, height)
            toast.raise_()
            bottom -= height + 8
