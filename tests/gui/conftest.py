"""Fixtures of the window's tests: its theme, and the check that a test leaves nothing behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest
import shiboken6
from PySide6.QtCore import QCoreApplication, QEvent, QTimer
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from lora_studio.gui.theme import Theme, theme
from tests.gui.desk import Desk

_ENDING_SECONDS = 5.0


@pytest.fixture(autouse=True)
def nothing_left_behind(qapp: QApplication) -> Iterator[None]:
    """Fail a test that leaves a window, a running timer or a thread behind."""
    threads = set(threading.enumerate())
    widgets = set(_top_level())
    timers = _running_timers()
    yield
    _delete_later_ones()
    new = [thread for thread in threading.enumerate() if thread not in threads and thread.name != "tqdm_monitor"]
    if leaked := [thread for thread in new if not _ends(thread)]:
        pytest.fail(f"threads left behind: {leaked}")
    if set(_top_level()) - widgets or _running_timers() - timers:
        gc.collect()  # what only a cycle keeps alive is no leak
        _delete_later_ones()
    if leaked := [widget for widget in _top_level() if widget not in widgets]:
        pytest.fail(f"windows left behind: {leaked}")
    if leaked := _running_timers() - timers:
        pytest.fail(f"{len(leaked)} timers left running")


@pytest.fixture
def dark(qapp: QApplication) -> Iterator[Theme]:
    """The dark theme at the usual text size; what a test changes of it is put back."""
    found = theme()
    found.set_mode("dark")
    found.set_scale(1.0)
    yield found
    found.set_mode("dark")
    found.set_scale(1.0)


@pytest.fixture
def desk(qtbot: QtBot) -> Iterator[Desk]:
    """A workspace, its jobs and its shown run; all jobs are joined at the end."""
    made = Desk.make(qtbot)
    yield made
    made.close()


def _top_level() -> list[QWidget]:
    return [widget for widget in QApplication.topLevelWidgets() if widget.objectName() != "qtooltip_label" and widget.parent() is None]


def _running_timers() -> set[int]:
    return {id(found) for found in gc.get_objects() if type(found) is QTimer and shiboken6.isValid(found) and found.isActive()}


def _ends(thread: threading.Thread) -> bool:
    end = time.monotonic() + _ENDING_SECONDS
    while thread.is_alive() and time.monotonic() < end:
        thread.join(0.05)
    return not thread.is_alive()


def _delete_later_ones() -> None:
    for _ in range(3):
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QCoreApplication.processEvents()
