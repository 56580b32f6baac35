"""The header: the draft's name, whether it is saved, undo and redo, what a start lacks, and Start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFrame, QHBoxLayout, QMenu, QPushButton, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets import ElidedLabel, LineEdit, label, set_role

if TYPE_CHECKING:
    from lora_studio.gui.draft.draft_store import DraftStore
    from lora_studio.gui.draft.readiness import ReadyItem
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.panels import BudgetPanel
    from lora_studio.gui.runs.run_control import RunControl

_NAME_PADDING = 22
_MARKS = {"ready": ("check", "good"), "pending": ("dots", "muted"), "missing": ("close", "bad")}
_NAME_WIDEST = 260


class NameEdit(LineEdit):
    """The draft's name, plain until it is pointed at."""

    def __init__(self) -> None:
        super().__init__("", "draft_name")
        self.setProperty("role", "name")
        self.setAccessibleName(tr("Name of the draft"))
        self.setToolTip(tr("Names the run and its folder"))
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.textChanged.connect(self.updateGeometry)

    def sizeHint(self) -> QSize:
        """As wide as the name."""
        width = self.fontMetrics().horizontalAdvance(self.text() or "untitled") + _NAME_PADDING
        return QSize(min(width, _NAME_WIDEST), super().sizeHint().height())

    def minimumSizeHint(self) -> QSize:
        """A few characters."""
        return QSize(60, super().minimumSizeHint().height())


class ReadyLine(QWidget):
    """✓ model ✓ targets ✓ data ✓ fits memory: each a button that leads to its field.

    Signals:
        pressed: The item with this field was pressed (dotted path).
    """

    pressed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("ready_line")
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(0)
        self._buttons: list[QPushButton] = []
        theme().changed.connect(self._draw_marks)

    def set_items(self, items: Sequence[ReadyItem]) -> None:
        """Show these items."""
        while len(self._buttons) < len(items):
            self._add_button()
        for button, item in zip(self._buttons, items, strict=False):
            role = "ready" if item.ok else "pending" if item.pending else "missing"
            button.setText(item.name)
            self._draw_mark(button, role)
            button.setToolTip(item.message)
            button.setAccessibleDescription(item.message)
            button.setProperty("field", item.field)
            set_role(button, role)
            button.show()
        for button in self._buttons[len(items) :]:
            button.hide()

    def _draw_marks(self) -> None:
        for button in self._buttons:
            self._draw_mark(button, str(button.property("role") or "pending"))

    @staticmethod
    def _draw_mark(button: QPushButton, role: str) -> None:
        name, color = _MARKS[role]
        button.setIcon(icon(name, getattr(colors(), color), size=13))

    def _add_button(self) -> None:
        button = QPushButton()
        button.setObjectName(f"ready_{len(self._buttons)}")
        button.setCursor(Qt.CursorShape.PointingHandCursor)
        button.setIconSize(QSize(13, 13))
        button.clicked.connect(lambda: self.pressed.emit(str(button.property("field") or "")))
        self._buttons.append(button)
        self._row.addWidget(button)


class Header(QFrame):
    """The bar below the menus.

    Attributes:
        name: The editor of the draft's name.
        ready: The readiness line.
        start: The one main button.
        start_menu: Says where runs are started.
    """

    def __init__(self, undo: QAction, redo: QAction, places: Sequence[QAction]) -> None:
        super().__init__()
        self.setObjectName("header")
        self.name = NameEdit()
        self.saved = label("", "note", "draft_saved")
        self._tools = {"undo": _tool(undo, "undo_button"), "redo": _tool(redo, "redo_button")}
        self.ready = ReadyLine()
        self.budget = ElidedLabel("", "small", "budget_line")
        self.budget.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.budget.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.start = QPushButton(tr("Start"))
        self.start.setObjectName("start_button")
        self.start.setProperty("role", "primary")
        self.start.setEnabled(False)
        self.start_menu = self._build_start_menu(places)
        self._lay_out()
        theme().changed.connect(self._draw_icons)
        self._draw_icons()

    def bind(self, workspace: Workspace, starter: RunControl, budget: BudgetPanel, start: Callable[[], object]) -> None:
        """Show a draft from now on, and let it be renamed and started.

        Args:
            workspace: The draft, and what a start of it lacks.
            starter: Says what a start does.
            budget: Says what it takes.
            start: Called when Start is pressed.
        """
        draft, readiness = workspace.draft, workspace.readiness
        draft.config_changed.connect(lambda: self._show_draft(draft))
        draft.saved_changed.connect(lambda: self._show_saved(draft))
        readiness.changed.connect(lambda: self.ready.set_items(readiness.items))
        readiness.changed.connect(lambda: self._show_start(starter))
        starter.changed.connect(lambda: self._show_start(starter))
        workspace.plan.changed.connect(lambda: self.budget.setText(budget.summary))
        self.name.editingFinished.connect(lambda: self._rename(draft))
        self.ready.pressed.connect(draft.request_field)
        self.start.clicked.connect(start)
        self._show_draft(draft)
        self.ready.set_items(readiness.items)
        self._show_start(starter)

    def _show_draft(self, draft: DraftStore) -> None:
        if not (self.name.hasFocus() and self.name.isModified()):
            self.name.setText(draft.config.name)
        self.name.set_error("")
        self._show_saved(draft)

    def _show_saved(self, draft: DraftStore) -> None:
        error = draft.files.error
        self.saved.setText(tr("draft · not saved") if error else tr("draft · saved") if draft.saved else tr("draft · saving…"))
        self.saved.setToolTip(error)

    def _show_start(self, starter: RunControl) -> None:
        """Say what Start does and whether it can be pressed."""
        state = starter.start_state
        self.start.setText(state.text)
        self.start.setToolTip(state.tooltip)
        self.start.setEnabled(state.enabled)
        set_role(self.start_menu, "primary" if state.enabled else "")
        self._draw_start_menu()

    def _rename(self, draft: DraftStore) -> None:
        errors = draft.edit({"name": self.name.text().strip()}, tr("Rename"))
        self.name.setModified(False)
        self.name.set_error("\n".join(errors.values()))

    def _build_starting(self) -> QWidget:
        both = QWidget()
        both.setObjectName("starting")
        both.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        row = QHBoxLayout(both)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(1)
        row.addWidget(self.start)
        row.addWidget(self.start_menu)
        return both

    def _build_start_menu(self, hosts: Sequence[QAction]) -> QToolButton:
        button = QToolButton()
        button.setObjectName("start_menu_button")
        button.setAccessibleName(tr("Where runs are started"))
        button.setToolTip(tr("Where runs are started"))
        button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        button.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Ignored)  # as high as Start
        button.setIconSize(QSize(12, 12))
        menu = QMenu(button)
        menu.setObjectName("start_menu")
        menu.addActions(list(hosts))
        button.setMenu(menu)
        return button

    def _lay_out(self) -> None:
        row = QHBoxLayout(self)
        row.setContentsMargins(10, 5, 14, 5)
        row.setSpacing(6)
        row.addWidget(self.name)
        row.addWidget(self.saved)
        row.addSpacing(10)
        for button in self._tools.values():
            row.addWidget(button)
        row.addStretch(1)
        lines = QVBoxLayout()
        lines.setSpacing(0)
        lines.addWidget(self.ready, 0, Qt.AlignmentFlag.AlignRight)
        lines.addWidget(self.budget)
        row.addLayout(lines)
        row.addSpacing(8)
        row.addWidget(self._build_starting())

    def _draw_icons(self) -> None:
        for name, button in self._tools.items():
            button.defaultAction().setIcon(icon(name, colors().text, colors().disabled))
        self._draw_start_menu()

    def _draw_start_menu(self) -> None:
        self.start_menu.setIcon(icon("chevron-down", colors().on_primary if self.start.isEnabled() else colors().muted, size=12))


def _tool(action: QAction, name: str) -> QToolButton:
    button = QToolButton()
    button.setDefaultAction(action)
    button.setObjectName(name)
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonIconOnly)
    return button
