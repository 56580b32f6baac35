"""The application: one process, one window, from the first paint to the last join."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.core.errors import InputError, StudioError

if TYPE_CHECKING:
    from PySide6.QtWidgets import QApplication

    from lora_studio.gui.compose import Services
    from lora_studio.gui.platform.single_instance import InstanceServer
    from lora_studio.gui.shell.crash_dialog import ExceptionHook
    from lora_studio.gui.shell.main_window import MainWindow


@dataclass
class Opened:
    """A window that is on its way: `services` come after the first paint, once the event loop runs.

    Attributes:
        app: The application.
        window: The window, shown.
        catcher: Shows what falls through.
        services: What is behind the window; None before it has painted.
        server: Hears of second launches; None before the window has painted.
    """

    app: QApplication
    window: MainWindow
    catcher: ExceptionHook
    services: Services | None = None
    server: InstanceServer | None = None

    def close(self) -> None:
        """Undo what the process was lent: hooks, socket, jobs."""
        self.catcher.remove()
        if self.server is not None:
            self.server.close()
        if self.services is not None:
            self.services.close()


def run(argv: Sequence[str]) -> int:
    """Open the workbench and stay until it is closed.

    Args:
        argv: What to open, without the program's name: at most one of a config, a run folder and a model.

    Returns:
        The exit status: 0 when closed, 2 when the input is wrong or there is no display.
    """
    try:
        target = target_of(argv)
        opened = open_window(target)
    except StudioError as error:
        sys.stderr.write(f"lora-studio: {error}\n")
        return error.exit_status
    if opened is None:
        sys.stderr.write("LoRA Studio is open already: its window was brought forward.\n")
        return 0
    try:
        return opened.app.exec()
    finally:
        opened.close()


def open_window(target: str | None = None) -> Opened | None:
    """Make application and window and show it; None where a window that is open already took over.

    Raises:
        InputError: There is no display, or Qt's system libraries are missing.
    """
    from lora_studio.gui.platform.display import check_display

    check_display()
    # The training thread must not hold up a repaint for Python's usual 5 ms a turn.
    sys.setswitchinterval(0.0005)
    try:
        from PySide6.QtWidgets import QApplication
    except ImportError as error:
        hint = "On Debian and Ubuntu: apt-get install libegl1 libgl1 libxkbcommon0 libdbus-1-3; or run python3 start.py."
        raise InputError(f"Qt cannot be loaded: {error}.", hint) from None
    _skip_source_scan()
    app = QApplication.instance()
    app = app if isinstance(app, QApplication) else QApplication(sys.argv[:1])
    app.setApplicationName("lora-studio")
    app.setApplicationDisplayName("LoRA Studio")
    from lora_studio.gui.platform.single_instance import hand_over

    return None if hand_over(target) else _show_window(app, target)


def _skip_source_scan() -> None:
    """Keep PySide6 from reading the source of every module imported from here on.

    It looks for modules that use its `snake_case` feature, which none here does; the search takes an eighth of the time to
    the first plots. A release that is built otherwise goes on searching, and nothing else changes.
    """
    feature = sys.modules.get("shibokensupport.feature")
    if feature is not None and hasattr(feature, "_mod_uses_pyside"):
        feature.__dict__["_mod_uses_pyside"] = lambda _module: False


def _show_window(app: QApplication, target: str | None) -> Opened:
    from lora_studio.gui.platform.window_state import WindowState
    from lora_studio.gui.shell.crash_dialog import ExceptionHook
    from lora_studio.gui.shell.main_window import MainWindow
    from lora_studio.gui.theme import Theme

    state = WindowState.load()
    Theme(app, state.theme if state.theme in ("system", "light", "dark") else "system", state.scale)
    window = MainWindow(state)
    opened = Opened(app, window, ExceptionHook(window))
    opened.catcher.install()
    window.first_painted.connect(lambda: _fill(opened, target))
    window.show()
    return opened


def _fill(opened: Opened, target: str | None) -> None:
    """Second stage: the draft and the panels; the pages follow once those have painted."""
    from PySide6.QtCore import QTimer

    from lora_studio.gui.compose import build
    from lora_studio.gui.platform.single_instance import InstanceServer
    from lora_studio.gui.shell.help import attach_help

    services = opened.services = build(opened.window)
    attach_help(opened.window, services.notifications)
    opened.server = InstanceServer(opened.window)

    def on_asked(path: str | None) -> None:
        opened.window.bring_forward()
        if path:
            services.opening.open_paths([path])

    opened.server.asked.connect(on_asked)
    services.pages.made.connect(lambda: _ready(services, target))
    QTimer.singleShot(0, services.pages, services.pages.make)


def _ready(services: Services, target: str | None) -> None:
    """Third stage is over: open what was asked for, then let the engine load."""
    if target:
        services.opening.open_paths([target])
    if os.environ.get("LORA_STUDIO_NO_ENGINE") != "1":
        services.begin()


def target_of(argv: Sequence[str]) -> str | None:
    """Return what the arguments ask to open: an absolute path, a Hub id, or None for nothing.

    Raises:
        InputError: They name more than one thing, or what is not there.
    """
    if len(argv) > 1:
        raise InputError(f"Only one thing can be opened at a time, not {len(argv)}.", "Give one config, run folder or model.")
    if not argv:
        return None
    from pathlib import Path

    path = Path(argv[0]).expanduser()
    if path.exists():
        return str(path.resolve())
    from lora_studio.gui.platform.path_kinds import is_model_name

    if is_model_name(argv[0]):
        return argv[0]
    raise InputError(f"There is no {argv[0]}.", "Give a config (.yaml), a run folder, a model folder, a .gguf file or a Hub id.")
