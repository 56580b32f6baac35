"""What a person can ask of the window, as data: menus, shortcuts, the command palette and the docs read it from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMainWindow, QMenu

from lora_studio.gui.platform.text import tr

MENUS = ("File", "Edit", "View", "Run", "Help")


@dataclass(frozen=True)
class ActionSpec:
    """One action.

    Attributes:
        id: What code calls it; its `QAction` is named `action_<id>`.
        title: English title; … where it asks before it acts.
        menu: One of `MENUS`.
        shortcut: Keys as Qt writes them, empty for none.
        begins_group: A line is drawn above it.
        checkable: It is on or off.
    """

    id: str
    title: str
    menu: str
    shortcut: str = ""
    begins_group: bool = False
    checkable: bool = False


ACTIONS = (
    ActionSpec("new", "New", "File", "Ctrl+N"),
    ActionSpec("open", "Open…", "File", "Ctrl+O"),
    ActionSpec("open_starter", "Open the starter", "File"),
    ActionSpec("open_run", "Open a run…", "File"),
    ActionSpec("import_adapter", "Import adapter…", "File"),
    ActionSpec("export_adapter", "Export an adapter…", "File"),
    ActionSpec("save", "Save", "File", "Ctrl+S", begins_group=True),
    ActionSpec("save_as", "Save As…", "File", "Ctrl+Shift+S"),
    ActionSpec("yaml", "Edit as YAML…", "File", "Ctrl+E"),
    ActionSpec("copy_command", "Copy as command", "File", "Ctrl+Shift+C"),
    ActionSpec("quit", "Quit", "File", "Ctrl+Q", begins_group=True),
    ActionSpec("undo", "Undo", "Edit", "Ctrl+Z"),
    ActionSpec("redo", "Redo", "Edit", "Ctrl+Shift+Z"),
    ActionSpec("reset_to_run", "Reset the draft to this run", "Edit", begins_group=True),
    ActionSpec("left_panel", "Left panel", "View", "F9", checkable=True),
    ActionSpec("right_panel", "Right panel", "View", "F10", checkable=True),
    ActionSpec("palette", "Command palette…", "View", "Ctrl+K"),
    ActionSpec("theme_system", "Theme of the system", "View", begins_group=True, checkable=True),
    ActionSpec("theme_light", "Light theme", "View", checkable=True),
    ActionSpec("theme_dark", "Dark theme", "View", checkable=True),
    ActionSpec("text_larger", "Larger text", "View", "Ctrl++", begins_group=True),
    ActionSpec("text_smaller", "Smaller text", "View", "Ctrl+-"),
    ActionSpec("text_usual", "Usual text size", "View", "Ctrl+0"),
    ActionSpec("start", "Start", "Run", "Ctrl+Return"),
    ActionSpec("pause", "Pause or continue", "Run", "Ctrl+P"),
    ActionSpec("stop", "Stop", "Run", "Ctrl+."),
    ActionSpec("checkpoint_now", "Save a checkpoint now", "Run", "Ctrl+Shift+K"),
    ActionSpec("sample_now", "Answer the held-out prompts now", "Run", "Ctrl+Shift+A"),
    ActionSpec("host_thread", "Train in this window", "Run", begins_group=True, checkable=True),
    ActionSpec("host_process", "Train in a process of its own, which outlives the window", "Run", checkable=True),
    ActionSpec("queue", "Show the queue", "Run"),
    ActionSpec("export", "Export the adapter…", "Run", begins_group=True),
    ActionSpec("merge", "Merge into the base model…", "Run"),
    ActionSpec("notifications", "Notifications…", "Help"),
    ActionSpec("shortcuts", "Keyboard shortcuts…", "Help"),
    ActionSpec("diagnostics", "Copy diagnostics", "Help"),
    ActionSpec("about", "About LoRA Studio…", "Help", begins_group=True),
)


@dataclass(frozen=True)
class Command:
    """What an action does, and how it stands.

    Attributes:
        handler: Does it.
        enabled: Whether it can be done now; None for always.
        checked: Whether it is on, where it is checkable.
        text: What it is called now, where that changes.
    """

    handler: Callable[[], object]
    enabled: Callable[[], bool] | None = None
    checked: Callable[[], bool] | None = None
    text: Callable[[], str] | None = None


class Actions(QObject):
    """The window's actions by id. One without a command is disabled.

    Attributes:
        specs: The specifications, in the order of the menus, pages last.
    """

    def __init__(self, window: QMainWindow) -> None:
        super().__init__(window)
        self.setObjectName("actions")
        self._window = window
        self._actions: dict[str, QAction] = {}
        self._commands: dict[str, Command] = {}
        self.specs: list[ActionSpec] = []
        self._menus = {name: window.menuBar().addMenu(tr(name)) for name in MENUS}
        for name, menu in self._menus.items():
            menu.setObjectName(f"menu_{name.lower()}")
        for spec in ACTIONS:
            self.add(spec)

    def add(self, spec: ActionSpec, handler: Callable[[], object] | None = None) -> QAction:
        """Make an action of its specification, last in its menu."""
        action = QAction(tr(spec.title), self._window)
        action.setObjectName(f"action_{spec.id}")
        action.setCheckable(spec.checkable)
        action.setEnabled(False)
        if spec.shortcut:
            action.setShortcut(QKeySequence(spec.shortcut))
        menu = self._menus[spec.menu]
        if spec.begins_group:
            menu.addSeparator()
        menu.addAction(action)
        self._window.addAction(action)
        self._actions[spec.id] = action
        self.specs.append(spec)
        if handler is not None:
            self.on(spec.id, handler)
        return action

    def on(self, identity: str, handler: Callable[[], object]) -> None:
        """Attach what an action does that can always be done.

        Raises:
            KeyError: No action has this id.
            ValueError: It has a command already.
        """
        self.register({identity: Command(handler)})

    def register(self, commands: Mapping[str, Command]) -> None:
        """Attach commands to the actions of these ids.

        Raises:
            KeyError: No action has this id.
            ValueError: It has a command already.
        """
        for identity, command in commands.items():
            if identity in self._commands:
                raise ValueError(identity)
            self[identity].triggered.connect(lambda _checked=False, handler=command.handler: handler())
            self._commands[identity] = command
            self._show(identity, command)

    def refresh(self) -> None:
        """Show how every command stands now."""
        for identity, command in self._commands.items():
            self._show(identity, command)

    @property
    def registered(self) -> frozenset[str]:
        """Ids of the actions that have a command."""
        return frozenset(self._commands)

    def _show(self, identity: str, command: Command) -> None:
        action = self[identity]
        action.setEnabled(command.enabled is None or command.enabled())
        if command.checked is not None:
            action.setChecked(command.checked())
        if command.text is not None:
            action.setText(command.text())

    def insert_menu(self, menu: str, submenu: QMenu, before: str) -> None:
        """Put a submenu above an action."""
        self._menus[menu].insertMenu(self[before], submenu)

    def __getitem__(self, identity: str) -> QAction:
        return self._actions[identity]
