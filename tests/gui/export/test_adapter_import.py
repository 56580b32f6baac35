"""Importing an adapter by drop and by menu: the window says what came of it, and asks for a base model it does not know."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from lora_studio.export.imports.importer import imported_adapters
from lora_studio.gui.compose import Services, build
from lora_studio.gui.export.dialog import ExportDialog
from lora_studio.gui.platform.window_state import WindowState
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.theme import Theme
from lora_studio.gui.widgets import Banner
from tests.export.handmade import save_image_adapter, write_adapter
from tests.gui.desk import Answers

Tiny = Callable[[str], Path]


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def window(qtbot: QtBot, dark: Theme) -> Iterator[MainWindow]:
    made = MainWindow(WindowState())
    qtbot.addWidget(made)
    made.show()
    yield made
    made.columns.left.close()
    made.columns.right.close()


@pytest.fixture
def studio(window: MainWindow, answers: Answers) -> Iterator[Services]:
    made = build(window, answers)
    yield made
    window.guard_closing(lambda: True, made.close)
    made.close()


@pytest.fixture
def adapter(tiny_model: Tiny, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "style", base_model_name_or_path=str(tiny_model("llama")))


def next_told(studio: Services, qtbot: QtBot, deed: Callable[[], object]) -> tuple[str, str, str]:
    """Do something, wait until it is told of, and give level, text and what can be done."""
    with qtbot.waitSignal(studio.notifications.added, timeout=60_000):
        deed()
    newest = studio.notifications.entries[0]
    return newest.level, newest.text, newest.action_text


def test_a_dropped_adapter_is_imported_and_can_be_exported(studio: Services, window: MainWindow, qtbot: QtBot, adapter: Path) -> None:
    studio.pages.make()
    with qtbot.waitSignal(studio.adapter_import.imported, timeout=60_000) as imported:
        level, text, action = next_told(studio, qtbot, lambda: studio.opening.open_paths([str(adapter)]))
    assert level == "good"
    assert "style is imported" in text
    assert action == "Export…"
    kept = imported_adapters()[0].folder
    assert imported.args[0]["path"] == str(kept)
    newest = studio.notifications.entries[0]
    assert newest.action is not None
    newest.action()
    dialog = window.findChild(ExportDialog)
    assert dialog is not None
    assert dialog.subject.folder == kept
    assert dialog.form.arguments["source"] == str(kept)
    dialog.form.choose("merged", "float32")
    with qtbot.waitSignal(dialog.finished, timeout=60_000):
        dialog.begin()
        qtbot.waitUntil(lambda: dialog.job is None, timeout=60_000)
        assert dialog.findChild(Banner, "export_verdict").text.startswith("Passed")
        dialog.accept()


def test_any_adapters_folder_can_be_exported_from_the_menu(studio: Services, window: MainWindow, adapter: Path, answers: Answers) -> None:
    studio.pages.make()
    answers.folder = adapter
    window.actions_["export_adapter"].trigger()
    dialog = window.findChild(ExportDialog)
    assert dialog is not None
    assert "style · r 4" in dialog.windowTitle() or dialog.subject.name == "style"
    dialog.reject()


def test_a_dropped_zip_is_imported(studio: Services, qtbot: QtBot, adapter: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "style-v2"), "zip", adapter)
    next_told(studio, qtbot, lambda: studio.opening.open_paths([archive]))
    assert [found.name for found in imported_adapters()] == ["style-v2"]


def test_the_menu_takes_an_adapters_folder_by_its_config(
    studio: Services, window: MainWindow, qtbot: QtBot, adapter: Path, answers: Answers
) -> None:
    answers.file = adapter / "adapter_config.json"
    next_told(studio, qtbot, window.actions_["import_adapter"].trigger)
    assert answers.asked == ["Import an adapter"]
    assert [found.name for found in imported_adapters()] == ["style"]


def test_a_base_that_is_not_here_is_asked_for_and_the_import_goes_on(
    studio: Services, qtbot: QtBot, tiny_model: Tiny, tmp_path: Path, answers: Answers
) -> None:
    adapter = write_adapter(tmp_path / "style", base_model_name_or_path="/home/jo/their-base")
    level, text, action = next_told(studio, qtbot, lambda: studio.opening.open_paths([str(adapter)]))
    assert (level, action) == ("error", "Choose base…")
    assert "their-base, which is not on this machine" in text
    answers.folder = tiny_model("llama")
    choose = studio.notifications.entries[0].action
    assert choose is not None
    level, text, _action = next_told(studio, qtbot, choose)
    assert level == "warning"
    assert "trained on /home/jo/their-base, not on" in text
    assert [found.base for found in imported_adapters()] == [str(tiny_model("llama"))]


def test_a_pickled_adapter_is_told_once_and_nothing_is_kept(studio: Services, qtbot: QtBot, tmp_path: Path) -> None:
    pickled = tmp_path / "style"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_text("{}")
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04")
    level, text, action = next_told(studio, qtbot, lambda: studio.opening.open_paths([str(pickled)]))
    assert (level, action) == ("error", "")
    assert "pickle" in text
    assert len(studio.notifications.entries) == 1
    assert imported_adapters() == []


def test_of_an_adapter_for_images_the_text_part_is_offered(studio: Services, qtbot: QtBot, tmp_path: Path) -> None:
    adapter = save_image_adapter(tmp_path / "style", tmp_path / "base")
    level, text, action = next_told(studio, qtbot, lambda: studio.opening.open_paths([str(adapter)]))
    assert (level, action) == ("error", "Import the text part")
    assert "model.visual.blocks.0.attn.qkv" in text
    take = studio.notifications.entries[0].action
    assert take is not None
    level, text, _action = next_told(studio, qtbot, take)
    assert level == "warning"
    assert "left out" in text
    assert [found.name for found in imported_adapters()] == ["style"]
