"""What nobody foresaw ends in one dialog, and nothing secret leaves with its details."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPushButton, QWidget
from pytestqt.qtbot import QtBot

from lora_studio.core.errors import InputError
from lora_studio.gui.platform.text import tr, use_translation
from lora_studio.gui.shell.crash_dialog import ExceptionHook, diagnostics, explain, without_secrets
from lora_studio.gui.theme import Theme


@pytest.fixture
def catcher(qtbot: QtBot, dark: Theme) -> Iterator[ExceptionHook]:
    window = QWidget()
    qtbot.addWidget(window)
    window.show()
    made = ExceptionHook(window)
    made.install()
    yield made
    made.remove()
    if made.dialog is not None:
        made.dialog.close()


def raise_here(error: BaseException) -> None:
    try:
        raise error
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]


def test_an_exception_in_the_window_is_shown(catcher: ExceptionHook, qtbot: QtBot, capsys: pytest.CaptureFixture[str]) -> None:
    raise_here(KeyError("surprise"))
    qtbot.waitUntil(lambda: catcher.dialog is not None)
    assert catcher.dialog is not None
    assert "KeyError" in catcher.dialog.details.toPlainText()
    assert "Traceback" in catcher.dialog.details.toPlainText()
    qtbot.mouseClick(catcher.dialog.findChild(QPushButton, "copy_details"), Qt.MouseButton.LeftButton)
    assert "KeyError" in QGuiApplication.clipboard().text()
    assert "KeyError" in capsys.readouterr().err


def test_an_exception_in_a_thread_is_shown_too(catcher: ExceptionHook, qtbot: QtBot) -> None:
    def fail() -> None:
        raise ValueError("in a thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    qtbot.waitUntil(lambda: catcher.dialog is not None)
    assert catcher.dialog is not None
    assert "in a thread" in catcher.dialog.details.toPlainText()


def test_a_flood_of_exceptions_opens_one_dialog(catcher: ExceptionHook, qtbot: QtBot) -> None:
    for number in range(20):
        raise_here(RuntimeError(f"number {number}"))
    qtbot.waitUntil(lambda: catcher.dialog is not None)
    assert catcher.dialog is not None
    assert "number 0" in catcher.dialog.details.toPlainText()


def test_hooks_are_given_back(qtbot: QtBot, dark: Theme) -> None:
    before = (sys.excepthook, threading.excepthook)
    window = QWidget()
    qtbot.addWidget(window)
    catcher = ExceptionHook(window)
    catcher.install()
    catcher.remove()
    assert (sys.excepthook, threading.excepthook) == before


@pytest.mark.parametrize(
    ("error", "said", "cure"),
    [
        (InputError("alpha is 0.", "Give one above 0."), "alpha is 0.", "Give one above 0."),
        (OSError(28, "No space left on device", "/data/run"), "No space left on device", "has room"),
        (MemoryError(), "no memory left", "Close other programs"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError", "bug report"),
    ],
)
def test_each_kind_of_problem_has_a_meaning_and_a_cure(error: BaseException, said: str, cure: str) -> None:
    what, meaning, way_out = explain(error)
    assert said in what
    assert meaning
    assert cure in way_out


@pytest.mark.parametrize(
    "secret",
    [
        "hf_AbCdEfGhIjKlMnOpQrStUv",
        "ghp_0123456789abcdefghij",
        "Authorization: Bearer abcdef123456",
        "token=supersecretvalue",
        "https://user:hunter22@host/repo",
        'HF_TOKEN = "hf_AbCdEfGhIjKl"',
        "password: swordfish99",
    ],
)
def test_details_carry_no_secret(secret: str) -> None:
    told = diagnostics(f"the request failed: {secret} was refused")
    for part in ("AbCdEfGh", "0123456789abcdef", "abcdef123456", "supersecret", "hunter22", "swordfish"):
        assert part not in told
    assert "the request failed" in told


def test_ordinary_text_is_left_alone() -> None:
    text = "992,256 tokens in 3 files at /home/ada/data.jsonl (loss 1.184)"
    assert without_secrets(text) == text


def test_diagnostics_name_the_versions(dark: Theme) -> None:
    told = diagnostics()
    assert "LoRA Studio" in told
    assert "PySide6-Essentials 6." in told


def test_text_is_translated_where_there_is_a_translation() -> None:
    use_translation({"Start": "Los", "{count} rows": "{count} Zeilen"})
    try:
        assert (tr("Start"), tr("Stop"), tr("{count} rows", count=3)) == ("Los", "Stop", "3 Zeilen")
    finally:
        use_translation({})
