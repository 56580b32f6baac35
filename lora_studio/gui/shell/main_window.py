"""The main window's shell: menus, header, columns, page tabs and status bar, all empty until the workspace fills them.

It imports neither pydantic nor pyqtgraph, so that it paints at once; `studio.Studio` fills it after the first paint.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from PySide6.QtCore import QByteArray, QEvent, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent, QIcon, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QMainWindow, QPushButton, QStackedWidget, QTabBar, QVBoxLayout, QWidget

from lora_studio.gui.platform.text import tr
from lora_studio.gui.platform.window_state import WindowState
from lora_studio.gui.shell.actions import Actions, ActionSpec
from lora_studio.gui.shell.command_palette import CommandPalette
from lora_studio.gui.shell.header import Header
from lora_studio.gui.shell.side_columns import Columns
from lora_studio.gui.shell.status_bar import StatusBar
from lora_studio.gui.theme import theme
from lora_studio.gui.theme.icons import icons_folder
from lora_studio.gui.widgets import Card, Pills, RailEntry, Toasts

MINIMUM_SIZE, USUAL_SIZE = (1000, 600), (1440, 900)
LEFT = (RailEntry("model", "Base model", "model"), RailEntry("data", "Data", "data"), RailEntry("targets", "Target modules", "targets"))
RIGHT = (RailEntry("adapter", "Adapter", "adapter"), RailEntry("training", "Training", "training"), RailEntry("budget", "Budget", "budget"))

# About as high as the panels that take their places, so that little moves when they come.
_EMPTY_HEIGHTS = {"model": 130, "data": 100, "targets": 200, "adapter": 240, "training": 290, "budget": 220}


class MainWindow(QMainWindow):
    """The shell.

    Signals:
        first_painted: Its first picture is about to be on screen; sent once, from the event loop.
        dropped: Files were dropped on it (list of paths as text).
        page_changed: Another page is in front (its id).
    """

    first_painted = Signal()
    dropped = Signal(list)
    page_changed = Signal(str)

    def __init__(self, state: WindowState) -> None:
        super().__init__()
        self.setObjectName("main_window")
        self.setWindowTitle("LoRA Studio")
        self.setWindowIcon(QIcon(str(icons_folder() / "app.svg")))
        self.setMinimumSize(*MINIMUM_SIZE)
        self.setAcceptDrops(True)
        self.state = state
        self._may_close: Callable[[], bool] = lambda: True
        self._on_close: Callable[[], None] = lambda: None
        self._pages: dict[str, QWidget] = {}
        self._painted = False
        self._build()
        self._connect()
        self._restore()

    @property
    def page(self) -> str:
        """Id of the page in front; empty before there is any."""
        index = self.tabs.currentIndex()
        return list(self._pages)[index] if index >= 0 else ""

    def guard_closing(self, may_close: Callable[[], bool], on_close: Callable[[], None]) -> None:
        """Have closing ask, and end what is behind the window.

        Args:
            may_close: Asked before closing; the window stays where it says no.
            on_close: Called when it does close, to save and to join what runs.
        """
        self._may_close, self._on_close = may_close, on_close

    def add_page(self, identity: str, title: str, page: QWidget) -> None:
        """Add a page, last; its tab is reached by Ctrl and its number."""
        self._pages[identity] = page
        self.stack.addWidget(page)
        self.tabs.addTab(title)
        number = len(self._pages)
        spec = ActionSpec(f"page_{identity}", tr("Page: {title}", title=title), "View", f"Ctrl+{number}", begins_group=number == 1)
        self.actions_.add(spec, lambda: self.show_page(identity))
        if identity == self.state.page:
            self.show_page(identity)

    def show_page(self, identity: str) -> None:
        """Bring a page to the front; an unknown id changes nothing."""
        if identity in self._pages:
            self.tabs.setCurrentIndex(list(self._pages).index(identity))

    def add_placeholders(self) -> None:
        """Show empty cards where panels and pages will be."""
        for side, entries in ((self.columns.left, LEFT), (self.columns.right, RIGHT)):
            for entry in entries:
                card = Card(tr(entry.title), name=f"placeholder_{entry.id}")
                card.body.addStretch(1)
                card.setMinimumHeight(_EMPTY_HEIGHTS[entry.id])
                side.add_card(entry.id, card, 1 if entry.id == "targets" else 0)
        self._empty_page = Card(name="placeholder_page")
        self.stack.addWidget(self._empty_page)

    def remove_placeholders(self) -> None:
        """Take the empty panels away."""
        for side in (self.columns.left, self.columns.right):
            side.clear()

    def remove_page_placeholder(self) -> None:
        """Take the empty page away."""
        self.stack.removeWidget(self._empty_page)
        self._empty_page.deleteLater()

    def open_palette(self) -> CommandPalette:
        """Open the command palette over every action."""
        if self._palette is None:
            self._palette = CommandPalette(self)
        self._palette.open([self.actions_[spec.id] for spec in self.actions_.specs])
        return self._palette

    def bring_forward(self) -> None:
        """Put the window before others, as a second launch asks."""
        self.setWindowState(self.windowState() & ~Qt.WindowState.WindowMinimized)
        self.show()
        self.raise_()
        self.activateWindow()

    def remember(self) -> WindowState:
        """Return the look to come back to."""
        self.state.geometry = base64.b64encode(bytes(self.saveGeometry().data())).decode()
        self.state.columns = self.columns.widths
        self.state.left_docked, self.state.right_docked = self.columns.left.wanted, self.columns.right.wanted
        self.state.page = self.page or self.state.page
        self.state.theme, self.state.scale = theme().mode, theme().scale
        return self.state

    def paintEvent(self, event: QPaintEvent) -> None:
        """Tell of the first picture."""
        super().paintEvent(event)
        if not self._painted:
            self._painted = True
            QTimer.singleShot(0, self, self.first_painted.emit)

    def closeEvent(self, event: QCloseEvent) -> None:
        """Close where nothing would be lost, else ask."""
        if not self._may_close():
            event.ignore()
            return
        self._on_close()
        event.accept()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take files and folders."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Hand on what was dropped."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if paths:
            event.acceptProposedAction()
            self.dropped.emit(paths)

    def sizeHint(self) -> QSize:
        """The size of a first start."""
        return QSize(*USUAL_SIZE)

    def changeEvent(self, event: QEvent) -> None:
        """Keep the check marks of the View menu true."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange and hasattr(self, "actions_"):
            self._check_theme()

    def _build(self) -> None:
        self.actions_ = Actions(self)
        self.header = Header(self.actions_["undo"], self.actions_["redo"], [self.actions_["host_thread"], self.actions_["host_process"]])
        self.tabs = QTabBar()
        self.tabs.setObjectName("page_tabs")
        self.tabs.setExpanding(False)
        self.tabs.setDrawBase(False)
        self.stack = QStackedWidget()
        self.stack.setObjectName("pages")
        self.columns = Columns(LEFT, RIGHT, self._build_middle())
        self.view_switch = Pills([("draft", tr("Draft")), ("run", tr("This run"))], "view_switch", role="switch")
        self.view_switch.set_current("draft")
        self.view_switch.button("run").setEnabled(False)
        self.reset_button = QPushButton(tr("reset to run"))
        self.reset_button.setObjectName("reset_to_run")
        self.reset_button.setProperty("role", "link")
        self.reset_button.hide()
        row = QHBoxLayout()
        row.addWidget(self.view_switch, 1)
        row.addWidget(self.reset_button)
        self.columns.right.column.top.addLayout(row)
        central = QWidget()
        central.setObjectName("central")
        layout = QVBoxLayout(central)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.header)
        layout.addWidget(self.columns, 1)
        self.setCentralWidget(central)
        central.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        central.setFocus()
        self.status = StatusBar()
        self.setStatusBar(self.status)
        self._palette: CommandPalette | None = None
        self.toasts = Toasts(self)
        self.add_placeholders()
        self.columns.right.column.cards.addStretch(1)

    def _build_middle(self) -> QWidget:
        middle = QWidget()
        middle.setObjectName("middle")
        layout = QVBoxLayout(middle)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.tabs)
        layout.addWidget(self.stack, 1)
        return middle

    def _connect(self) -> None:
        on = self.actions_.on
        on("quit", self.close)
        on("palette", self.open_palette)
        on("left_panel", lambda: self.columns.toggle(self.columns.left))
        on("right_panel", lambda: self.columns.toggle(self.columns.right))
        for mode in ("system", "light", "dark"):
            on(f"theme_{mode}", lambda chosen=mode: self._choose_theme(chosen))
        on("text_larger", lambda: theme().set_scale(theme().scale + 0.1))
        on("text_smaller", lambda: theme().set_scale(theme().scale - 0.1))
        on("text_usual", lambda: theme().set_scale(1.0))
        self.columns.changed.connect(self._check_panels)
        self.tabs.currentChanged.connect(self._on_tab)
        self._check_panels()
        self._check_theme()

    def _restore(self) -> None:
        self.columns.left.wanted, self.columns.right.wanted = self.state.left_docked, self.state.right_docked
        self.resize(*USUAL_SIZE)
        if self.state.geometry:
            self.restoreGeometry(QByteArray.fromBase64(self.state.geometry.encode()))
        self.columns.set_widths(self.state.columns)

    def _on_tab(self, index: int) -> None:
        if 0 <= index < len(self._pages):
            self.stack.setCurrentWidget(list(self._pages.values())[index])
            self.page_changed.emit(self.page)

    def _choose_theme(self, mode: str) -> None:
        theme().set_mode(mode)
        self._check_theme()

    def _check_theme(self) -> None:
        for mode in ("system", "light", "dark"):
            self.actions_[f"theme_{mode}"].setChecked(theme().mode == mode)

    def _check_panels(self) -> None:
        self.actions_["left_panel"].setChecked(self.columns.left.open)
        self.actions_["right_panel"].setChecked(self.columns.right.open)
