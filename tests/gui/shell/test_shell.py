"""The window around the draft: layout, actions, what can be dropped on it, what it remembers."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QPushButton, QWidget
from pytestqt.qtbot import QtBot

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import read_config, write_config
from lora_studio.core.errors import InputError
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from lora_studio.gui.compose import Services, build
from lora_studio.gui.platform.path_kinds import PathKind, kind_of
from lora_studio.gui.platform.window_state import WindowState
from lora_studio.gui.runs import run_control
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.actions import ACTIONS
from lora_studio.gui.shell.command_palette import matches
from lora_studio.gui.shell.help import about_dialog, notifications_dialog, shortcuts_dialog
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.theme import Theme
from tests.gui.clipping import clipped_widgets, settle
from tests.gui.desk import Answers

SIZES = [(1440, 900), (1100, 700), (1000, 600)]


@pytest.fixture
def window(qtbot: QtBot, dark: Theme) -> Iterator[MainWindow]:
    made = MainWindow(WindowState())
    qtbot.addWidget(made)
    made.show()
    yield made
    made.columns.left.close()
    made.columns.right.close()


@pytest.fixture
def studio(window: MainWindow, qtbot: QtBot) -> Iterator[Services]:
    made = build(window, Answers())
    made.pages.make()
    window.resize(1440, 900)
    settle(window)
    yield made
    window.guard_closing(lambda: True, made.close)
    made.close()


def press(window: QWidget, key: Qt.Key, modifiers: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    window.activateWindow()
    QTest.qWaitForWindowActive(window)
    QTest.keyClick(window, key, modifiers)


# --- layout ---


@pytest.mark.parametrize(
    ("width", "left", "right"),
    [(1440, True, True), (1360, True, True), (1359, True, False), (1120, True, False), (1119, False, False)],
)
def test_panels_fold_into_rails_right_before_left(window: MainWindow, width: int, left: bool, right: bool) -> None:
    window.resize(width, 700)
    settle(window)
    assert (window.columns.left.docked, window.columns.right.docked) == (left, right)
    assert (window.columns.left.rail.isVisible(), window.columns.right.rail.isVisible()) == (not left, not right)


def test_the_window_gets_no_smaller_than_1000_by_600(window: MainWindow) -> None:
    window.resize(300, 200)
    settle(window)
    assert (window.width(), window.height()) == (1000, 600)
    assert window.minimumSizeHint().width() <= 1000


def test_a_rail_opens_its_panel_over_the_page_and_escape_closes_it(window: MainWindow, qtbot: QtBot) -> None:
    window.resize(1000, 600)
    settle(window)
    side = window.columns.right
    qtbot.mouseClick(side.rail.findChild(QWidget, "right_rail_training"), Qt.MouseButton.LeftButton)
    assert side.open
    assert side.column.isVisible()
    assert window.columns.rect().contains(side.overlay.geometry())
    qtbot.keyClick(side.overlay, Qt.Key.Key_Escape)
    assert not side.open


def test_a_press_beside_an_overlay_closes_it(window: MainWindow, qtbot: QtBot) -> None:
    window.resize(1000, 600)
    settle(window)
    window.columns.left.open_at("data")
    qtbot.mouseClick(window.stack, Qt.MouseButton.LeftButton)
    assert not window.columns.left.open


def test_f9_and_f10_fold_panels_where_there_is_room(window: MainWindow) -> None:
    window.resize(1440, 900)
    settle(window)
    press(window, Qt.Key.Key_F9)
    assert not window.columns.left.docked
    assert not window.actions_["left_panel"].isChecked()
    press(window, Qt.Key.Key_F9)
    assert window.columns.left.docked
    press(window, Qt.Key.Key_F10)
    assert not window.columns.right.docked


def test_f10_opens_an_overlay_where_there_is_none(window: MainWindow) -> None:
    window.resize(1000, 600)
    settle(window)
    press(window, Qt.Key.Key_F10)
    assert window.columns.right.open
    assert not window.columns.right.docked
    press(window, Qt.Key.Key_F10)
    assert not window.columns.right.open


def test_a_window_made_wide_again_docks_what_was_overlaid(window: MainWindow) -> None:
    window.resize(1000, 600)
    settle(window)
    window.columns.right.open_at("budget")
    window.resize(1440, 900)
    settle(window)
    assert window.columns.right.docked
    assert window.columns.right.overlay.isHidden()


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("mode", ["dark", "light"])
def test_nothing_in_the_window_is_clipped(studio: Services, window: MainWindow, dark: Theme, mode: str, scale: float) -> None:
    dark.set_mode(mode)
    dark.set_scale(scale)
    clipped: dict[str, list[str]] = {}
    for size in SIZES:
        window.resize(*size)
        for page in ("data", "train", "runs"):
            window.show_page(page)
            settle(window)
            if found := clipped_widgets(window):
                clipped[f"{size} {page}"] = found
    assert clipped == {}


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_nothing_is_clipped_while_a_run_lives_in_a_process_and_others_wait(
    studio: Services,
    window: MainWindow,
    dark: Theme,
    scale: float,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")
    dark.set_scale(scale)
    studio.starter.set_host("process")
    for name in ("first", "second with a rather long name for a run", "third"):
        studio.workspace.draft.edit({"name": name, "training.max_steps": 50_000}, name)
        studio.starter.start_run()
    qtbot.waitUntil(lambda: studio.run_view.state == "running", timeout=20_000)
    studio.workspace.draft.edit({"adapter.r": 64}, "another r")
    clipped: dict[str, list[str]] = {}
    for size in SIZES:
        window.resize(*size)
        for page in ("train", "runs"):
            window.show_page(page)
            settle(window)
            if found := clipped_widgets(window):
                clipped[f"{size} {page}"] = found
    for job in reversed(studio.jobs.device_jobs):
        job.control.stop()
    qtbot.waitUntil(lambda: not studio.jobs.device_jobs, timeout=20_000)
    assert clipped == {}


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_nothing_in_the_overlays_is_clipped(studio: Services, window: MainWindow, dark: Theme, scale: float) -> None:
    dark.set_scale(scale)
    window.resize(1000, 600)
    settle(window)
    for side, card in ((window.columns.left, "targets"), (window.columns.right, "budget")):
        side.open_at(card)
        settle(window)
        assert clipped_widgets(side.overlay) == []
        side.close()


def test_the_clipping_walk_finds_what_is_clipped(qtbot: QtBot, dark: Theme) -> None:
    holder = QWidget()
    qtbot.addWidget(holder)
    button = QPushButton("a button with a long text", holder)
    button.resize(40, 10)
    holder.resize(300, 100)
    holder.show()
    assert "of width" in clipped_widgets(holder)[0]
    button.resize(button.sizeHint())
    assert clipped_widgets(holder) == []
    button.move(280, 0)
    assert "outside its parent" in clipped_widgets(holder)[0]


# --- actions ---


def test_every_action_has_a_name_of_its_own_and_no_shortcut_twice() -> None:
    ids = [spec.id for spec in ACTIONS]
    keys = [spec.shortcut for spec in ACTIONS if spec.shortcut]
    assert len(set(ids)) == len(ids)
    assert len(set(keys)) == len(keys)


def test_every_action_of_a_filled_window_does_something(studio: Services, window: MainWindow) -> None:
    from lora_studio.gui.shell.help import attach_help

    attach_help(window, studio.notifications)
    of_a_run = {"reset_to_run", "pause", "stop", "checkpoint_now", "sample_now", "export", "merge"}
    assert {spec.id for spec in window.actions_.specs if not window.actions_[spec.id].isEnabled()} <= {"undo", "redo", *of_a_run}


def test_pages_are_reached_by_ctrl_and_their_number(studio: Services, window: MainWindow) -> None:
    for key, page in ((Qt.Key.Key_1, "data"), (Qt.Key.Key_3, "runs"), (Qt.Key.Key_2, "train")):
        press(window, key, Qt.KeyboardModifier.ControlModifier)
        assert window.page == page


@pytest.mark.parametrize(
    ("query", "found"),
    [("lgt", True), ("LIGHT", True), ("light theme", True), ("xyz", False), ("", True), ("thgil", False)],
)
def test_the_palette_matches_letters_in_their_order(query: str, found: bool) -> None:
    assert matches(query, "Light theme") is found


def test_the_palette_runs_what_is_typed(window: MainWindow, qtbot: QtBot, dark: Theme) -> None:
    press(window, Qt.Key.Key_K, Qt.KeyboardModifier.ControlModifier)
    palette = window.open_palette()
    qtbot.keyClicks(palette.query, "light th")
    qtbot.keyClick(palette.query, Qt.Key.Key_Return)
    assert dark.mode == "light"
    assert not palette.isVisible()


def test_escape_leaves_the_palette(window: MainWindow, qtbot: QtBot, dark: Theme) -> None:
    palette = window.open_palette()
    qtbot.keyClick(palette.query, Qt.Key.Key_Escape)
    assert not palette.isVisible()
    assert dark.mode == "dark"


def test_text_grows_and_shrinks_by_keys(window: MainWindow, dark: Theme) -> None:
    window.actions_["text_larger"].trigger()
    assert dark.scale == pytest.approx(1.1)
    window.actions_["text_usual"].trigger()
    assert dark.scale == 1.0


# --- the draft in the header ---


def test_an_edit_can_be_undone_from_the_window(studio: Services, window: MainWindow) -> None:
    studio.workspace.draft.edit({"adapter.r": 16}, "Rank")
    assert window.actions_["undo"].isEnabled()
    press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert studio.workspace.draft.config.adapter.r == 8


def test_the_header_names_the_draft_and_renames_it(studio: Services, window: MainWindow, qtbot: QtBot) -> None:
    name = window.header.name
    assert name.text() == studio.workspace.draft.config.name
    name.selectAll()
    qtbot.keyClicks(name, "second try")
    qtbot.keyClick(name, Qt.Key.Key_Return)
    assert studio.workspace.draft.config.name == "second try"


def test_a_name_no_folder_can_have_is_marked(studio: Services, window: MainWindow, qtbot: QtBot) -> None:
    before = studio.workspace.draft.config.name
    window.header.name.selectAll()
    qtbot.keyClicks(window.header.name, "a/b")
    qtbot.keyClick(window.header.name, Qt.Key.Key_Return)
    assert window.header.name.error
    assert studio.workspace.draft.config.name == before


def test_what_a_start_lacks_leads_to_its_field(studio: Services, window: MainWindow, qtbot: QtBot) -> None:
    studio.workspace.draft.edit({"data.train": ()}, "No data")
    qtbot.waitUntil(lambda: any(not item.ok and item.name == "data" for item in studio.workspace.readiness.items))
    assert not window.header.start.isEnabled()
    button = next(found for found in window.header.ready.findChildren(QPushButton) if found.text() == "data")
    with qtbot.waitSignal(studio.workspace.draft.field_requested) as signal:
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert signal.args == ["data.train"]


def test_the_command_of_the_draft_is_copied(studio: Services, window: MainWindow, tmp_path: Path) -> None:
    path = tmp_path / "my run.yaml"
    studio.workspace.draft.save_as(path)
    studio.workspace.draft.edit({"adapter.r": 64}, "Another r")  # the file says another
    window.actions_["copy_command"].trigger()
    *command, train, config = shlex.split(QGuiApplication.clipboard().text())
    assert (command, train) == ([sys.executable, "-m", "lora_studio"], "train")
    assert read_config(Path(config)).adapter.r == 64

    studio.workspace.draft.edit({"training.num_processes": 4}, "Four processes")
    window.actions_["copy_command"].trigger()
    *command, train, config = shlex.split(QGuiApplication.clipboard().text())
    assert command == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m", "lora_studio"]
    assert read_config(Path(config)).training.num_processes == 4


def test_a_hub_id_given_to_the_window_becomes_the_draft_s_base_model(studio: Services) -> None:
    studio.opening.open_paths(["owner/model"])
    assert studio.workspace.draft.config.model.name_or_path == "owner/model"


def test_a_draft_that_cannot_be_saved_is_told(studio: Services, window: MainWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora_studio.gui.draft.draft_files.write_atomically", refuse)
    studio.workspace.draft.edit({"adapter.r": 3}, "Another r")
    studio.workspace.draft.files.flush()
    assert window.header.saved.text() == "draft · not saved"
    assert "No space left on device" in window.header.saved.toolTip()


# --- runs ---


def test_a_shown_run_can_be_looked_at_beside_the_draft(studio: Services, window: MainWindow, qtbot: QtBot) -> None:
    folder = RunStore(studio.starter.store.root).create(studio.workspace.draft.config.replace({"adapter.r": 4}))
    studio.run_view.open(folder.path)
    assert window.view_switch.button("run").isEnabled()
    qtbot.mouseClick(window.view_switch.button("run"), Qt.MouseButton.LeftButton)
    assert window.view_switch.current == "run"
    assert studio.workspace.draft.config.adapter.r == 8
    window.actions_["reset_to_run"].trigger()
    assert studio.workspace.draft.config.adapter.r == 4
    window.actions_["undo"].trigger()
    assert studio.workspace.draft.config.adapter.r == 8


# --- drops ---


def drop(window: MainWindow, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    told = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    entering = QDragEnterEvent(QPoint(10, 10), *told)
    window.dragEnterEvent(entering)
    assert entering.isAccepted()
    window.dropEvent(QDropEvent(QPointF(10, 10), *told))


def test_a_dropped_config_becomes_the_draft(studio: Services, window: MainWindow, tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig().replace({"name": "dropped"}))
    drop(window, tmp_path / "run.yaml")
    assert studio.workspace.draft.config.name == "dropped"


def test_dropped_rows_become_the_data(studio: Services, window: MainWindow, chat_rows: Path) -> None:
    drop(window, chat_rows)
    assert studio.workspace.draft.config.data.train == (str(chat_rows),)
    assert window.page == "data"


def test_a_dropped_model_becomes_the_base_model(studio: Services, window: MainWindow, tiny_model: Callable[[str], Path]) -> None:
    drop(window, tiny_model("llama"))
    assert studio.workspace.draft.config.model.name_or_path == str(tiny_model("llama"))


def test_a_dropped_config_that_cannot_be_read_opens_at_its_line(studio: Services, window: MainWindow, tmp_path: Path, qtbot: QtBot) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nadapter: {rank: 8}\n")
    drop(window, tmp_path / "bad.yaml")
    dialog = window.findChild(QWidget, "yaml_dialog")
    assert dialog is not None
    assert dialog.isVisible()
    dialog.close()


def test_what_is_nothing_to_open_is_told(studio: Services, window: MainWindow, tmp_path: Path) -> None:
    drop(window, tmp_path)
    assert "no run, no model and no data" in window.toasts.toasts[-1].text


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ("a.yaml", PathKind.CONFIG),
        ("a.yml", PathKind.CONFIG),
        ("a.jsonl", PathKind.DATA),
        ("a.csv", PathKind.DATA),
        ("a.gguf", PathKind.MODEL),
        ("run/run.yaml", PathKind.RUN),
        ("model/config.json", PathKind.MODEL),
        ("adapter/adapter_config.json", PathKind.ADAPTER),
        ("a.zip", PathKind.ADAPTER),
        ("a.TAR.GZ", PathKind.ADAPTER),
        ("rows.jsonl.gz", PathKind.DATA),
    ],
)
def test_paths_are_told_apart(tmp_path: Path, made: str, kind: PathKind) -> None:
    path = tmp_path / made
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert kind_of(path if path.parent == tmp_path else path.parent) is kind


@pytest.mark.parametrize(
    ("made", "said"),
    [("a.exe", "nothing that can be opened"), (None, "no ")],
)
def test_what_cannot_be_opened_is_refused_with_a_way_out(tmp_path: Path, made: str | None, said: str) -> None:
    path = tmp_path / (made or "missing.yaml")
    if made:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    with pytest.raises(InputError, match=said) as error:
        kind_of(path if path.parent == tmp_path else path.parent)
    assert error.value.hint


# --- memory of the window ---


def test_the_window_comes_back_as_it_was(qtbot: QtBot, dark: Theme) -> None:
    first = MainWindow(WindowState())
    qtbot.addWidget(first)
    first.show()
    first.columns.right.wanted = False
    first.state.page = "runs"
    dark.set_mode("light")
    first.remember().save()
    second = MainWindow(WindowState.load())
    qtbot.addWidget(second)
    second.show()
    settle(second)
    assert second.state.geometry
    assert not second.columns.right.docked
    assert (second.state.page, second.state.theme) == ("runs", "light")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"scale": "big", "columns": ["x"], "geometry": 3}'])
def test_a_damaged_memory_starts_afresh(studio_home: Path, text: str) -> None:
    folder = studio_home / "settings"
    folder.mkdir(parents=True)
    (folder / "window.json").write_text(text)
    assert WindowState.load() == WindowState()


# --- help ---


def test_help_names_every_shortcut(studio: Services, window: MainWindow, qtbot: QtBot) -> None:
    dialog = shortcuts_dialog(window.actions_, window)
    dialog.show()
    table = dialog.findChild(QWidget, "shortcuts_table")
    shown = {table.item(row, 1).text() for row in range(table.rowCount())}  # type: ignore[attr-defined]
    assert {"Ctrl+K", "F9", "F10", "Ctrl+1", "Ctrl+Z"} <= shown
    dialog.close()


def test_help_dialogs_show_all_of_their_text(studio: Services, window: MainWindow, qtbot: QtBot) -> None:
    for dialog in (about_dialog(window), notifications_dialog(studio.notifications, window)):
        dialog.show()
        settle(dialog)
        assert clipped_widgets(dialog) == []
        dialog.close()


# --- from one window to the next ---


@pytest.fixture
def opened(qtbot: QtBot, dark: Theme, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Services]:
    """Open windows one after the other; each must be closed before the next."""
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")
    made: list[Services] = []

    def end(window: MainWindow) -> None:
        window.guard_closing(lambda: True, made[-1].close)
        if window is made[-1].window:
            for job in reversed(made[-1].jobs.device_jobs):
                job.control.stop()
            qtbot.waitUntil(lambda: not made[-1].jobs.device_jobs, timeout=20_000)

    def open_window() -> Services:
        window = MainWindow(WindowState.load())
        qtbot.addWidget(window, before_close_func=end)
        window.show()
        made.append(build(window, Answers()))
        made[-1].pages.make()
        settle(window)
        return made[-1]

    return open_window


def notes(studio: Services) -> list[str]:
    return [entry.text for entry in studio.notifications.entries]


def test_where_runs_live_is_chosen_beside_start_and_remembered(opened: Callable[[], Services]) -> None:
    first = opened()
    actions = first.window.actions_
    assert actions["host_thread"].isChecked()
    actions["host_process"].trigger()
    assert (actions["host_thread"].isChecked(), actions["host_process"].isChecked()) == (False, True)
    assert "goes on when this window closes" in first.starter.start_state.tooltip or not first.starter.start_state.enabled
    first.close()
    assert opened().starter.host == "process"


def test_the_next_window_shows_the_run_that_went_on_and_tells_of_those_that_waited(opened: Callable[[], Services], qtbot: QtBot) -> None:
    first = opened()
    first.starter.set_host("process")
    for name in ("alive", "waiting", "last"):
        first.workspace.draft.edit({"name": name, "training.max_steps": 50_000 if name == "alive" else 3}, name)
        first.starter.start_run()
    qtbot.waitUntil(lambda: first.run_view.state == "running", timeout=20_000)
    alive, waited = first.run_view.path, first.queue.run_folders
    first.close()
    assert RunFolder(alive or Path()).state == "running"

    later = opened()
    qtbot.waitUntil(lambda: len(notes(later)) == 2)
    assert notes(later)[0] == "2 runs waited in the queue when the window was closed"
    assert notes(later)[1].endswith("-alive went on in a process of its own")
    assert later.run_view.path == alive
    assert later.run_view.is_live
    entry = later.notifications.entries[0]
    assert entry.action is not None
    entry.action()
    assert later.queue.run_folders == waited
    later.starter.stop()
    qtbot.waitUntil(lambda: not later.jobs.device_jobs, timeout=20_000)
    assert [RunFolder(Path(folder)).state for folder in waited] == ["finished", "finished"]


def test_a_run_taken_out_of_the_queue_can_be_put_back(opened: Callable[[], Services], qtbot: QtBot) -> None:
    studio = opened()
    for name in ("first", "second"):
        studio.workspace.draft.edit({"name": name, "training.max_steps": 50_000}, name)
        studio.starter.start_run()
    qtbot.waitUntil(lambda: studio.run_view.state == "running", timeout=20_000)
    studio.queue.remove(studio.queue.entries[0].job)
    qtbot.waitUntil(lambda: not studio.queue.entries)
    assert notes(studio) == ["second was removed from the queue"]
    put_back = studio.notifications.entries[0].action
    assert put_back is not None
    put_back()
    assert [entry.job.spec.title for entry in studio.queue.entries] == ["second"]


# --- a run under way ---


@contextlib.contextmanager
def running(studio: Services, qtbot: QtBot, prompts: int) -> Generator[ShownRun]:
    """Have a run under way that answers so many prompts; it is stopped in the end."""
    view = studio.run_view
    studio.workspace.draft.edit({"training.max_steps": 100_000, "training.sample_rows": prompts}, "steps")
    studio.starter.start_run()
    try:
        qtbot.waitUntil(lambda: view.state == "running" and len(view.history.checkpoints) > 0, timeout=20_000)
        yield view
    finally:
        studio.starter.stop()
        qtbot.waitUntil(lambda: not view.is_live, timeout=20_000)


def test_a_run_is_asked_for_a_checkpoint_and_for_samples_now(
    studio: Services,
    window: MainWindow,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")
    checkpoint, sample = window.actions_["checkpoint_now"], window.actions_["sample_now"]
    assert not checkpoint.isEnabled()
    assert not sample.isEnabled()
    with running(studio, qtbot, 2) as view:
        checkpoint.trigger()
        qtbot.waitUntil(lambda: any(saved.step % 5 for saved in view.history.checkpoints), timeout=20_000)
        sample.trigger()
        qtbot.waitUntil(lambda: any(sample.label == "step" for sample in view.history.samples), timeout=20_000)
    assert not checkpoint.isEnabled()


def test_without_prompts_to_answer_none_are_asked_for(
    studio: Services,
    window: MainWindow,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")
    with running(studio, qtbot, 0):
        assert window.actions_["checkpoint_now"].isEnabled()
        assert not window.actions_["sample_now"].isEnabled()
