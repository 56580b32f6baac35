"""The Data page with real files: naming them, their problems and cures, bad rows, columns, rows and search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication
from PySide6.QtWidgets import QLineEdit, QListView, QPlainTextEdit, QPushButton, QTableView, QWidget

from lora_studio.core.settings import DataSettings
from lora_studio.data.check import DataCheck, DataFile
from lora_studio.data.rows.row import BadRow
from lora_studio.gui.data_page.files.names import hub_name, named_files
from lora_studio.gui.data_page.files.raw_table import COLUMN_MIME
from lora_studio.gui.data_page.issues.bad_line import spot_of
from lora_studio.gui.data_page.page import DataPage
from lora_studio.gui.data_page.row_models import BadRowsModel
from lora_studio.gui.draft import data_state
from lora_studio.gui.theme import Theme
from lora_studio.gui.widgets import Banner, Pills
from tests.gui.clipping import clipped_widgets, settle
from tests.gui.desk import Desk

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def page(desk: Desk, dark: Theme) -> DataPage:
    made = DataPage(desk.workspace, desk.jobs, desk.run_view, desk.answers)
    desk.shown(made, 900, 900)
    return made


def chat(number: int, answer: str | None = None) -> str:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": answer or f"answer {number}"}]
    return json.dumps({"messages": turns})


def write(path: Path, lines: list[str | bytes]) -> str:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return str(path)


def look_at(desk: Desk, page: DataPage, **data: object) -> DataCheck:
    """Make this the draft's data and wait until it is read."""
    desk.workspace.draft.edit({"data.train": (), "data.eval": (), **{f"data.{name}": value for name, value in data.items()}}, "data")
    desk.until(lambda: not desk.workspace.data.reading)
    assert desk.workspace.data.check is not None, desk.workspace.data.error
    return desk.workspace.data.check


def button(page: QWidget, name: str) -> QPushButton:
    return page.findChild(QPushButton, name)


def cure(desk: Desk, page: DataPage, problem: str) -> None:
    """Press the button of a problem's banner."""
    desk.qtbot.mouseClick(page.problems.findChild(Banner, f"problem_{problem}").action, LEFT)
    desk.until(lambda: not desk.workspace.data.reading)


def told(page: DataPage) -> list[str]:
    return [problem.id for problem in page.problems.shown]


def cells(page: DataPage) -> list[list[str]]:
    model = page.files.model
    return [[model.index(row, column).data() for column in range(model.columnCount())] for row in range(model.rowCount())]


def dropped(paths: list[Path]) -> tuple[QMimeData, QDragEnterEvent, QDropEvent]:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    shared = (Qt.DropAction.CopyAction, mime, LEFT, Qt.KeyboardModifier.NoModifier)
    return mime, QDragEnterEvent(QPoint(5, 5), *shared), QDropEvent(QPointF(5, 5), *shared)


# --- files ---


def test_each_file_has_a_line_with_its_format_and_why(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [chat(1), chat(2), "not json"])
    held = write(tmp_path / "held.jsonl", [chat(3)])
    look_at(desk, page, train=(rows,), eval=(held,))
    assert cells(page) == [
        ["rows.jsonl", "2", "1", "messages · line 1 has the key 'messages'", "utf-8", "training"],
        ["held.jsonl", "1", "0", "messages · line 1 has the key 'messages'", "utf-8", "evaluation"],
    ]


def test_files_of_a_folder_are_listed_one_by_one(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.jsonl", [chat(1)])
    write(tmp_path / "set" / "b.jsonl", [chat(2), chat(3)])
    desk.answers.folder = tmp_path / "set"
    desk.workspace.draft.edit({"data.train": ()}, "none")
    desk.qtbot.mouseClick(button(page, "add_folder_button"), LEFT)
    desk.until(lambda: page.files.model.rowCount() == 2)
    assert [row[:2] for row in cells(page)] == [["set/a.jsonl", "1"], ["set/b.jsonl", "2"]]
    assert desk.workspace.draft.config.data.train == (str(tmp_path / "set"),)


def test_files_are_added_moved_to_evaluation_and_removed_each_as_one_undo_step(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", [chat(1)]), write(tmp_path / "b.jsonl", [chat(2)])
    look_at(desk, page, train=(first,))
    desk.answers.files = [Path(second)]
    desk.qtbot.mouseClick(button(page, "add_files_button"), LEFT)
    assert desk.workspace.draft.config.data.train == (first, second)
    desk.until(lambda: not desk.workspace.data.reading)
    table = page.findChild(QTableView, "files_table")
    table.selectRow(1)
    desk.qtbot.mouseClick(button(page, "move_files_button"), LEFT)
    assert (desk.workspace.draft.config.data.train, desk.workspace.draft.config.data.eval) == ((first,), (second,))
    desk.until(lambda: not desk.workspace.data.reading)
    table.selectRow(1)
    table.setFocus()
    desk.qtbot.keyClick(table, Qt.Key.Key_Delete)
    assert desk.workspace.draft.config.data.eval == ()
    for expected in (((first,), (second,)), ((first, second), ()), ((first,), ())):
        desk.workspace.draft.undo_stack.undo()
        assert (desk.workspace.draft.config.data.train, desk.workspace.draft.config.data.eval) == expected
    desk.until(lambda: not desk.workspace.data.reading)


@pytest.mark.parametrize("typed", ["hf://owner/name", "owner/name", "https://huggingface.co/datasets/owner/name"])
def test_a_hub_data_set_is_named_by_typing_it(desk: Desk, page: DataPage, typed: str) -> None:
    desk.workspace.draft.edit({"data.train": ()}, "none")
    edit = page.findChild(QLineEdit, "hub_edit")
    assert not button(page, "add_hub_button").isEnabled()
    desk.qtbot.keyClicks(edit, typed)
    desk.qtbot.keyClick(edit, Qt.Key.Key_Return)
    assert desk.workspace.draft.config.data.train == ("hf://owner/name",)
    desk.workspace.draft.undo_stack.undo()
    desk.until(lambda: not desk.workspace.data.reading)


def test_nothing_is_no_hub_name() -> None:
    assert [hub_name(text) for text in ("", "  ", "hf://", "/")] == [""] * 4


def test_files_and_folders_dropped_on_the_page_are_added(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [chat(1)])
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "b.csv", ["prompt,completion", "x,y"])
    look_at(desk, page, train=(first,))
    _mime, entering, dropping = dropped([tmp_path / "more"])
    page.dragEnterEvent(entering)
    assert entering.isAccepted()
    page.dropEvent(dropping)
    desk.until(lambda: page.files.model.rowCount() == 2)
    assert desk.workspace.draft.config.data.train == (first, str(tmp_path / "more"))


def test_what_is_no_data_is_left_to_the_window(page: DataPage, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n", encoding="utf-8")
    _mime, entering, _dropping = dropped([tmp_path / "config.yaml"])
    page.dragEnterEvent(entering)
    assert not entering.isAccepted()


def test_a_name_given_twice_is_not_added_again(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [chat(1)])
    look_at(desk, page, train=(first,))
    steps = desk.workspace.draft.undo_stack.count()
    page.files.add([first])
    assert desk.workspace.draft.undo_stack.count() == steps


def test_files_of_a_hub_data_set_belong_to_its_name() -> None:
    file = DataFile("hf://owner/name/data/train.parquet", "train", "text", "", 3, 0, 10)
    settings = DataSettings(train=("hf://owner/name", "other.jsonl"))
    lines = named_files(settings, DataCheck(3, "text", (), (file,)))
    assert [(line.name, line.title) for line in lines] == [
        ("hf://owner/name", "hf://owner/name/data/train.parquet"),
        ("other.jsonl", "other.jsonl"),
    ]


@pytest.fixture
def in_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read even small files in a job, as large ones are."""
    monkeypatch.setattr(data_state, "_READ_HERE_BYTES", 0)


def test_reading_a_large_file_shows_how_far_it_is_and_ends(desk: Desk, page: DataPage, tmp_path: Path, in_jobs: None) -> None:
    rows = write(tmp_path / "rows.jsonl", [chat(number) for number in range(30_000)])
    seen: list[tuple[float, float]] = []
    desk.workspace.data.progressed.connect(lambda: seen.append(desk.workspace.data.progress))
    look_at(desk, page, train=(rows,))
    assert seen
    assert seen[-1][1] == Path(rows).stat().st_size
    assert page.findChild(QWidget, "reading_progress").isHidden()


def test_reading_can_be_cancelled_and_begun_anew(desk: Desk, page: DataPage, tmp_path: Path, in_jobs: None) -> None:
    rows = write(tmp_path / "rows.jsonl", [chat(number) for number in range(60_000)])
    cancelled: list[bool] = []

    def cancel() -> None:
        if desk.workspace.data.checking and not cancelled:
            cancelled.append(page.findChild(QWidget, "reading_progress").isVisible())
            desk.qtbot.mouseClick(button(page, "cancel_reading_button"), LEFT)

    desk.workspace.data.changed.connect(cancel)
    desk.workspace.draft.edit({"data.train": (rows,), "data.eval": ()}, "data")
    banner = page.findChild(Banner, "data_error")
    desk.until(lambda: banner.text == "Reading the rows was stopped.")
    assert cancelled == [True]
    assert desk.workspace.data.check is None
    desk.until(lambda: not desk.jobs.jobs)
    desk.qtbot.mouseClick(banner.action, LEFT)
    desk.until(lambda: desk.workspace.data.check is not None)
    assert banner.isHidden()


# --- problems ---


def test_an_encoding_is_offered_and_taken_by_one_undoable_edit(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [chat(1), '{"text": "caf\u00e9"}'.encode("latin-1")])
    look_at(desk, page, train=(rows,))
    said = page.problems.findChild(Banner, "problem_encoding").text
    assert said.startswith("Lines of rows.jsonl are not UTF-8; they read as latin-1. So they do as ")
    cure(desk, page, "encoding")
    assert desk.workspace.draft.config.data.encoding == "latin-1"
    assert "encoding" not in told(page)
    desk.workspace.draft.undo_stack.undo()
    desk.until(lambda: "encoding" in told(page))
    assert desk.workspace.draft.config.data.encoding == "utf-8"


def test_bad_rows_are_skipped_by_one_undoable_edit(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [chat(1), "not json"])
    look_at(desk, page, train=(rows,))
    cure(desk, page, "bad_rows")
    assert desk.workspace.draft.config.data.on_bad_rows == "skip"
    assert told(page) == []
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.data.on_bad_rows == "stop"
    assert told(page) == ["bad_rows"]


def test_a_cured_problem_hands_the_keyboard_to_the_next_or_to_the_page(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [chat(1), "not json", '{"text": "caf\u00e9"}'.encode("latin-1")])
    look_at(desk, page, train=(rows,))
    page.problems.findChild(Banner, "problem_encoding").action.setFocus()
    desk.qtbot.keyClick(page.problems.findChild(Banner, "problem_encoding").action, Qt.Key.Key_Space)
    desk.until(lambda: "encoding" not in told(page))
    following = page.problems.findChild(Banner, "problem_bad_rows").action
    assert following.hasFocus()
    desk.qtbot.keyClick(following, Qt.Key.Key_Space)
    assert told(page) == []
    assert page.findChild(QWidget, "data_area").hasFocus()


def test_repeats_are_counted_within_the_training_data_and_across(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [chat(1), chat(1), chat(2), chat(3)])
    held = write(tmp_path / "held.jsonl", [chat(3)])
    look_at(desk, page, train=(rows,), eval=(held,))
    texts = {problem.id: problem.text for problem in page.problems.shown}
    assert texts["duplicates"].startswith("Training rows that repeat one before them: 1.")
    assert texts["shared"].startswith("Training rows that stand in the evaluation data, too: 1.")
    cure(desk, page, "shared")
    assert desk.workspace.draft.config.data.eval == ()
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.data.eval == (held,)
    desk.until(lambda: not desk.workspace.data.reading)


def test_preference_rows_are_mapped_to_their_chosen_answers(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    row = json.dumps({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"})
    look_at(desk, page, train=(write(tmp_path / "rows.jsonl", [row]),))
    cure(desk, page, "preference")
    assert desk.workspace.draft.config.data.format == "prompt_completion"
    assert page.rows.rows.index(0, 2).data() == "Hello!"
    desk.workspace.draft.undo_stack.undo()
    desk.until(lambda: "preference" in told(page))
    assert desk.workspace.draft.config.data.format == "auto"


def test_unknown_keys_are_mapped_as_suggested(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    row = json.dumps({"id": 1, "Question": "Hi", "Best Answer": "Hello!"})
    look_at(desk, page, train=(write(tmp_path / "rows.jsonl", [row]),))
    assert page.problems.findChild(Banner, "problem_columns").action.text() == "Use prompt = Question, completion = Best Answer"
    cure(desk, page, "columns")
    assert dict(desk.workspace.draft.config.data.columns) == {"prompt": "Question", "completion": "Best Answer"}
    assert told(page) == []
    desk.workspace.draft.undo_stack.undo()
    desk.until(lambda: "columns" in told(page))


def test_a_file_that_does_not_exist_is_told_on_the_page(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    desk.workspace.draft.edit({"data.train": (str(tmp_path / "gone.jsonl"),)}, "data")
    banner = page.findChild(Banner, "data_error")
    desk.until(lambda: not banner.isHidden())
    assert "gone.jsonl does not exist" in banner.text


# --- columns ---


@pytest.fixture
def odd(desk: Desk, page: DataPage, tmp_path: Path) -> DataPage:
    """The page with rows of keys nobody knows."""
    rows = [json.dumps({"nr": number, "frage": f"Was ist {number}?", "antwort": f"Es ist {number}."}) for number in range(9)]
    look_at(desk, page, train=(write(tmp_path / "rows.jsonl", rows),))
    return page


def test_columns_are_shown_raw_and_mapped_by_menu(desk: Desk, odd: DataPage) -> None:
    assert odd.columns.isVisible()
    assert odd.columns.table.raw.keys == ("nr", "frage", "antwort")
    combo = odd.columns.combos["prompt"]
    combo.setFocus()
    desk.qtbot.keyClicks(combo, "f")
    combo.activated.emit(combo.findData("frage"))
    assert dict(desk.workspace.draft.config.data.columns) == {"prompt": "frage"}
    desk.until(lambda: not desk.workspace.data.reading)
    odd.columns.combos["completion"].activated.emit(odd.columns.combos["completion"].findData("antwort"))
    desk.until(lambda: desk.workspace.data.check is not None and desk.workspace.data.check.rows == 9)
    assert odd.findChild(QPlainTextEdit, "columns_preview").toPlainText().startswith("rows.jsonl:1\n[user]\nWas ist 0?")


def test_a_column_is_dragged_onto_a_key(desk: Desk, odd: DataPage) -> None:
    mime = QMimeData()
    mime.setData(COLUMN_MIME, b"antwort")
    shared = (Qt.DropAction.CopyAction, mime, LEFT, Qt.KeyboardModifier.NoModifier)
    entering = QDragEnterEvent(QPoint(5, 5), *shared)
    combo = odd.columns.combos["text"]
    combo.dragEnterEvent(entering)
    assert entering.isAccepted()
    combo.dropEvent(QDropEvent(QPointF(5, 5), *shared))
    assert dict(desk.workspace.draft.config.data.columns) == {"text": "antwort"}
    desk.until(lambda: not desk.workspace.data.reading)
    assert combo.currentText() == "antwort"
    desk.workspace.draft.undo_stack.undo()
    desk.until(lambda: combo.currentData() == "")


def test_a_column_is_one_key_at_a_time_and_all_can_be_cleared(desk: Desk, odd: DataPage) -> None:
    for key in ("prompt", "text"):
        odd.columns.combos[key].chosen.emit("frage")
        desk.until(lambda: not desk.workspace.data.reading)
    assert dict(desk.workspace.draft.config.data.columns) == {"text": "frage"}
    desk.qtbot.mouseClick(button(odd, "clear_columns_button"), LEFT)
    assert dict(desk.workspace.draft.config.data.columns) == {}
    desk.until(lambda: not desk.workspace.data.reading)


def test_the_suggestion_is_taken_by_its_button(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [json.dumps({"query": "Hi", "reply": "Hello!", "mood": "good"})])
    look_at(desk, page, train=(rows,))
    desk.qtbot.mouseClick(button(page, "use_suggestion_button"), LEFT)
    assert dict(desk.workspace.draft.config.data.columns) == {"prompt": "query", "completion": "reply"}
    desk.until(lambda: not desk.workspace.data.reading)
    assert button(page, "use_suggestion_button").isHidden()


def test_the_columns_of_known_rows_are_shown_when_asked_for(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    look_at(desk, page, train=(write(tmp_path / "rows.jsonl", [chat(1)]),))
    assert page.columns.isHidden()
    desk.qtbot.mouseClick(button(page, "columns_button"), LEFT)
    assert page.columns.isVisible()
    assert page.columns.table.raw.keys == ("messages",)


# --- bad rows ---


@pytest.fixture
def mixed(desk: Desk, page: DataPage, tmp_path: Path) -> DataPage:
    """The page with 130 sound rows and two bad ones at lines 4 and 5."""
    lines = [*map(chat, range(3)), '{"messages": []}', '{"messages": [{"role" "user"}]}', *map(chat, range(3, 130))]
    look_at(desk, page, train=(write(tmp_path / "rows.jsonl", lines),))
    return page


def bad_list(page: DataPage) -> QListView:
    button(page, "rows_switch_bad").click()
    return page.findChild(QListView, "bad_rows_list")


def test_bad_rows_are_listed_by_file_and_line_with_the_reason(mixed: DataPage) -> None:
    shown = bad_list(mixed).model()
    assert [shown.index(row, 0).data() for row in range(2)] == [
        "rows.jsonl:4 · the conversation is empty",
        "rows.jsonl:5 · not JSON: Expecting ':' delimiter at column 23",
    ]


def test_a_bad_row_shows_its_raw_line_with_the_spot_marked(desk: Desk, mixed: DataPage) -> None:
    rows = bad_list(mixed)
    spot = rows.visualRect(rows.model().index(1, 0)).center()
    desk.qtbot.mouseClick(rows.viewport(), LEFT, pos=spot)
    detail = mixed.rows.detail.text
    assert detail.toPlainText().endswith('{"messages": [{"role" "user"}]}')
    marked = detail.extraSelections()[0]
    assert marked.cursor.selectedText() == '"'
    assert marked.cursor.selectionStart() - detail.toPlainText().rindex("\n") - 1 == 22


@pytest.mark.parametrize(
    ("reason", "line", "spot"),
    [
        ("the JSON is cut off at column 5", '{"a"', (3, 1)),
        ("not UTF-8: byte 0xe9 at 4 ('é' in latin-1)", "caf\ufffd", (3, 1)),
        ("completion is null", '{"completion": null}', (1, 12)),
        ("the conversation is empty", '{"messages": []}', None),
        ("the JSON is cut off at column 5", "", None),
    ],
)
def test_the_spot_is_found_where_the_reason_names_one(reason: str, line: str, spot: tuple[int, int] | None) -> None:
    assert spot_of(reason, line) == spot


def test_the_place_of_a_bad_row_is_copied_by_button_and_keys(desk: Desk, mixed: DataPage, tmp_path: Path) -> None:
    rows = bad_list(mixed)
    rows.setFocus()
    desk.qtbot.keyClick(rows, Qt.Key.Key_Down)
    desk.qtbot.mouseClick(button(mixed, "copy_place_button"), LEFT)
    place = QGuiApplication.clipboard().text()
    QGuiApplication.clipboard().clear()
    desk.qtbot.keyClick(rows, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert place == QGuiApplication.clipboard().text() == f"{tmp_path / 'rows.jsonl'}:{mixed.rows.bad.current.line}"


def test_bad_rows_are_exported_to_a_file(desk: Desk, mixed: DataPage, tmp_path: Path) -> None:
    bad_list(mixed)
    desk.answers.saved = tmp_path / "bad.csv"
    desk.qtbot.mouseClick(button(mixed, "export_bad_rows_button"), LEFT)
    assert desk.answers.saved.read_text(encoding="utf-8").splitlines()[:2] == [
        "file,line,reason",
        f"{tmp_path / 'rows.jsonl'},4,the conversation is empty",
    ]
    assert desk.notices[-1] == ("good", "2 bad rows written to bad.csv.")


def test_what_a_run_makes_of_bad_rows_is_switched_in_their_list(desk: Desk, mixed: DataPage) -> None:
    bad_list(mixed)
    switch = mixed.findChild(Pills, "on_bad_rows_switch")
    desk.qtbot.mouseClick(switch.button("skip"), LEFT)
    assert desk.workspace.draft.config.data.on_bad_rows == "skip"
    desk.workspace.draft.undo_stack.undo()
    assert switch.current == "stop"


def test_a_hundred_thousand_bad_rows_are_handed_to_the_list_a_few_at_a_time(qtbot: object) -> None:
    model = BadRowsModel()
    model.set_rows([BadRow("f", number, "bad") for number in range(100_000)])
    assert model.rowCount() == 1000
    while model.canFetchMore(model.index(-1, 0)):
        model.fetchMore(model.index(-1, 0))
    assert model.rowCount() == 100_000
    assert model.index(99_999, 0).data() == "f:99999 · bad"


def test_bad_rows_beyond_those_kept_are_counted(desk: Desk, page: DataPage) -> None:
    check = DataCheck(0, "", (BadRow("f", 1, "bad"),), (), bad_count=1201)
    page.rows.bad.show_check(check)
    assert "and 1,200 more" in page.rows.bad.findChild(QWidget, "bad_rows_beyond").text()  # type: ignore[attr-defined]


def test_the_spot_of_a_mapped_key_is_found_under_the_files_own_name() -> None:
    assert spot_of("completion is null", '{"Best Answer": null}', {"completion": "Best Answer"}) == (1, 13)


# --- rows and search ---


def test_rows_are_shown_with_place_question_and_answer(mixed: DataPage) -> None:
    table = mixed.rows.rows
    assert [table.index(5, column).data() for column in range(3)] == ["rows.jsonl:6", "question 3", "answer 3"]
    assert table.index(3, 2).data() == "bad: the conversation is empty"


def test_enter_goes_on_to_the_row_itself(desk: Desk, mixed: DataPage) -> None:
    mixed.rows.table.setFocus()
    mixed.rows.table.selectRow(5)
    desk.qtbot.keyClick(mixed.rows.table, Qt.Key.Key_Return)
    assert mixed.rows.detail.text.hasFocus()
    assert "question 3" in mixed.rows.detail.text.toPlainText()


def test_a_search_finds_rows_in_slices_counts_them_and_goes_from_one_to_the_next(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    lines = [chat(number, "a needle" if number % 7_000 == 6_999 else "hay") for number in range(21_000)]
    look_at(desk, page, train=(write(tmp_path / "rows.jsonl", lines),))
    desk.qtbot.keyClick(page, Qt.Key.Key_F, Qt.KeyboardModifier.ControlModifier)
    edit = page.findChild(QLineEdit, "rows_search")
    assert edit.hasFocus()
    desk.qtbot.keyClicks(edit, "NEEDLE")
    desk.qtbot.keyClick(edit, Qt.Key.Key_Return)
    desk.until(lambda: page.rows.table.currentIndex().row() == 6_999)
    desk.until(lambda: not page.rows.search.running)
    assert page.findChild(QWidget, "search_count").text() == "3 found"  # type: ignore[attr-defined]
    seen: list[int] = []
    for modifier in (Qt.KeyboardModifier.NoModifier,) * 3 + (Qt.KeyboardModifier.ShiftModifier,):
        desk.qtbot.keyClick(edit, Qt.Key.Key_Return, modifier)
        seen.append(page.rows.table.currentIndex().row())
    assert seen == [13_999, 20_999, 6_999, 20_999]


def test_escape_ends_the_search_and_gives_the_keyboard_back(desk: Desk, mixed: DataPage) -> None:
    desk.qtbot.keyClick(mixed, Qt.Key.Key_F, Qt.KeyboardModifier.ControlModifier)
    edit = mixed.findChild(QLineEdit, "rows_search")
    desk.qtbot.keyClicks(edit, "answer")
    desk.qtbot.keyClick(edit, Qt.Key.Key_Return)
    desk.qtbot.keyClick(edit, Qt.Key.Key_Escape)
    assert mixed.rows.search_bar.isHidden()
    assert not mixed.rows.search.running
    assert mixed.rows.table.hasFocus()


def test_a_search_for_what_no_row_holds_says_so(desk: Desk, mixed: DataPage) -> None:
    mixed.rows.open_search()
    edit = mixed.findChild(QLineEdit, "rows_search")
    desk.qtbot.keyClicks(edit, "nowhere")
    desk.qtbot.keyClick(edit, Qt.Key.Key_Return)
    desk.until(lambda: not mixed.rows.search.running)
    assert mixed.findChild(QWidget, "search_count").text() == "0 found"  # type: ignore[attr-defined]


# --- looks ---


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("mode", ["dark", "light"])
def test_nothing_on_the_page_is_clipped_with_everything_wrong(
    desk: Desk,
    page: DataPage,
    dark: Theme,
    tmp_path: Path,
    mode: str,
    scale: float,
) -> None:
    rows = [json.dumps({"nr": 1, "Question": "Hi", "Answer key": "Ho"}), "cut", '{"nr": "\u00e9"}'.encode("latin-1")]
    look_at(desk, page, train=(write(tmp_path / "rows.jsonl", rows),), eval=(write(tmp_path / "held.jsonl", [chat(1), chat(1)]),))
    page.rows.open_search()
    dark.set_mode(mode)
    dark.set_scale(scale)
    clipped: dict[str, list[str]] = {}
    for width, height in ((620, 500), (690, 780), (900, 600), (1000, 480)):
        for which in ("rows", "bad"):
            page.rows.turn_to(which)
            page.resize(width, height)
            settle(page)
            if found := clipped_widgets(page):
                clipped[f"{width} {which}"] = found
    assert clipped == {}
