"""The window under hands that know nothing: whatever is pressed and typed, edits can be taken back and nothing is left behind."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QAbstractItemView, QApplication, QComboBox, QDialog, QLineEdit, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from lora_studio.gui.compose import Services, build
from lora_studio.gui.platform.window_state import WindowState
from lora_studio.gui.shell.help import attach_help
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.theme import Theme
from tests.gui.desk import Answers
from tests.tiny import write_chat_rows

ACTIONS = 70
KEYS = [
    getattr(Qt.Key, f"Key_{name}") for name in ("Tab", "Backtab", "Up", "Down", "Left", "Right", "Return", "Escape", "Space", "Home", "End")
]
TEXTS = ("0", "7", "64", "-3", "1e-4", "0.5", "abc", "", "99999999999", "q_proj", "2,5")
TQDM = "tqdm_monitor"
"""A thread of its own that tqdm starts with a process's first bar and keeps."""
LEAVES = {"quit"}
"""What ends the window."""


class Monkey:
    """Presses, types and chooses at random, and remembers what it did."""

    def __init__(self, services: Services, seed: int) -> None:
        self._services = services
        self._window = services.window
        self._chance = random.Random(seed)
        self.done: list[str] = []
        self.first = services.workspace.draft.config

    def act(self) -> None:
        """Do one thing, and close what opened."""
        deed: Callable[[], str] = self._chance.choice(
            [self._trigger, self._press, self._type, self._key, self._choose, self._item, self._resize]
        )
        self.done.append(f"{deed.__name__} {deed()}")
        QApplication.processEvents()
        for dialog in self._dialogs():
            self.done.append(f"closed {dialog.objectName()}")
            dialog.reject()
        stack = self._services.workspace.draft.undo_stack
        if not stack.count():
            self.first = self._services.workspace.draft.config  # a new draft begins anew

    def _dialogs(self) -> list[QDialog]:
        return [widget for widget in QApplication.topLevelWidgets() if isinstance(widget, QDialog) and widget.isVisible()]

    def _visible(self, kind: type[QWidget]) -> list[QWidget]:
        return [widget for widget in self._window.findChildren(kind) if widget.isVisible() and widget.isEnabled()]

    def _one(self, kind: type[QWidget]) -> QWidget | None:
        found = sorted(self._visible(kind), key=lambda widget: (widget.objectName(), widget.mapTo(self._window, QPoint()).y()))
        return self._chance.choice(found) if found else None

    def _trigger(self) -> str:
        actions = self._window.actions_
        ids = [spec.id for spec in actions.specs if actions[spec.id].isEnabled() and spec.id not in LEAVES]
        chosen = self._chance.choice(ids)
        actions[chosen].trigger()
        return chosen

    def _press(self) -> str:
        button = self._one(QAbstractButton)
        if button is None or (isinstance(button, QToolButton) and button.menu() is not None):
            return "nothing"  # a menu would wait for an answer
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        return button.objectName()

    def _type(self) -> str:
        edit = self._one(QLineEdit)
        if not isinstance(edit, QLineEdit) or edit.isReadOnly():
            return "nothing"
        edit.setFocus()
        edit.selectAll()
        text = self._chance.choice(TEXTS)
        QTest.keyClicks(edit, text)
        QTest.keyClick(edit, self._chance.choice([Qt.Key.Key_Return, Qt.Key.Key_Tab, Qt.Key.Key_Escape]))
        return f"{text!r} into {edit.objectName()}"

    def _key(self) -> str:
        key = self._chance.choice(KEYS)
        QTest.keyClick(self._window.focusWidget() or self._window, key)
        return key.name

    def _choose(self) -> str:
        combo = self._one(QComboBox)
        if not isinstance(combo, QComboBox) or not combo.count():
            return "nothing"
        combo.setFocus()
        QTest.keyClick(combo, self._chance.choice([Qt.Key.Key_Down, Qt.Key.Key_Up, Qt.Key.Key_Home, Qt.Key.Key_End]))
        return f"{combo.currentText()} in {combo.objectName()}"

    def _item(self) -> str:
        view = self._one(QAbstractItemView)
        if not isinstance(view, QAbstractItemView):
            return "nothing"
        area = view.viewport().rect()
        place = QPoint(self._chance.randrange(max(1, area.width())), self._chance.randrange(max(1, area.height())))
        (QTest.mouseClick if self._chance.random() < 0.8 else QTest.mouseDClick)(view.viewport(), Qt.MouseButton.LeftButton, pos=place)
        return f"{place.toTuple()} in {view.objectName()}"

    def _resize(self) -> str:
        size = self._chance.choice([(1000, 600), (1100, 700), (1440, 900), (1600, 1000)])
        self._window.resize(*size)
        return str(size)


def left_behind() -> set[str]:
    """Name the top-level widgets that are there."""
    return {f"{type(widget).__name__} {widget.objectName()}" for widget in QApplication.topLevelWidgets() if widget.parent() is None}


def play(services: Services, seed: int, qtbot: QtBot) -> None:
    """Do things, then take every edit back."""
    monkey = Monkey(services, seed)
    stack = services.workspace.draft.undo_stack
    for _ in range(ACTIONS):
        monkey.act()
    while stack.canUndo():
        stack.undo()
    assert services.workspace.draft.config == monkey.first, monkey.done
    qtbot.waitUntil(lambda: not services.jobs.device_jobs, timeout=20_000)


@pytest.mark.qt_log_ignore("This plugin does not support", extend=True)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_can_be_taken_back_and_leaves_nothing_behind(seed: int, qtbot: QtBot, dark: Theme, tmp_path: Path) -> None:
    threads, widgets = set(threading.enumerate()), left_behind()
    window = MainWindow(WindowState())
    window.resize(1440, 900)
    window.show()
    services = build(window, Answers(file=None))
    attach_help(window, services.notifications)
    services.pages.make()
    services.workspace.draft.edit({"data.train": (str(write_chat_rows(tmp_path / "rows.jsonl")),)}, "Data")
    services.workspace.draft.undo_stack.clear()
    try:
        play(services, seed, qtbot)
    finally:
        window.guard_closing(lambda: True, services.close)
        window.close()
        services.close()
        window.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert {thread.name for thread in set(threading.enumerate()) - threads} - {TQDM} == set()
    assert left_behind() - widgets == set()
