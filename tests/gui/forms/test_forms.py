"""Forms: what a field's declaration says, its editor does."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QCheckBox
from pytestqt.qtbot import QtBot

from lora_studio.core.config import field_info, field_paths
from lora_studio.gui.forms import FieldRow, FieldSpec, Form
from lora_studio.gui.widgets import ComboBox, LinesEdit, NumberEdit
from tests.gui.desk import Desk

FORM_FIELDS = [path for path in field_paths() if (field_info(path).json_schema_extra or {}).get("editor") != "tree"]


@pytest.fixture
def form(desk: Desk) -> Form:
    return Form(desk.workspace, desk.workspace.draft)


def shown(desk: Desk, form: Form, path: str) -> FieldRow:
    row = form.row(path)
    desk.shown(row, 300, 60)
    return row


@pytest.mark.parametrize("path", FORM_FIELDS)
def test_every_field_has_an_editor_that_shows_its_value_and_says_what_it_does(desk: Desk, form: Form, path: str) -> None:
    row = form.row(path)
    desk.qtbot.addWidget(row)
    assert row.spec.description in row.toolTip()
    assert row.editor.accessibleName()
    value = desk.workspace.draft.config.get(path)
    match row.editor:
        case NumberEdit():
            assert row.editor.value == value
        case ComboBox():
            assert row.editor.currentIndex() == row.spec.choices.index(value)
        case QCheckBox():
            assert row.editor.isChecked() is value


def test_bounds_come_from_the_constraints() -> None:
    dropout, alpha, seed = (FieldSpec.of(path) for path in ("adapter.lora_dropout", "adapter.lora_alpha", "training.seed"))
    assert (dropout.minimum, dropout.maximum, dropout.open_maximum) == (0, 1, True)
    assert (alpha.minimum, alpha.open_minimum, alpha.whole_too) == (0, True, True)
    assert (seed.kind, seed.maximum) == ("int", 1 << 63)


def test_a_typed_number_reaches_the_draft_as_one_step(desk: Desk, form: Form, qtbot: QtBot) -> None:
    row = shown(desk, form, "training.learning_rate")
    type_into(row, "3e-4", qtbot)
    assert desk.workspace.draft.config.training.learning_rate == 3e-4
    assert desk.workspace.draft.undo_stack.count() == 1


@pytest.mark.parametrize("path", [path for path in FORM_FIELDS if FieldSpec.of(path).kind == "bool"])
def test_a_box_that_is_pressed_or_ticked_by_key_reaches_the_draft(desk: Desk, form: Form, path: str) -> None:
    row = shown(desk, form, path)
    before = desk.workspace.draft.config.get(path)
    row.editor.click()
    assert desk.workspace.draft.config.get(path) is not before
    QTest.keyClick(row.editor, Qt.Key.Key_Space)
    assert desk.workspace.draft.config.get(path) is before
    assert desk.workspace.draft.undo_stack.count() == 2


def test_a_whole_alpha_stays_whole(desk: Desk, form: Form, qtbot: QtBot) -> None:
    type_into(shown(desk, form, "adapter.lora_alpha"), "48", qtbot)
    assert "lora_alpha: 48\n" in desk.workspace.draft.yaml


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("adapter.r", "0"),
        ("adapter.r", "8.5"),
        ("adapter.lora_dropout", "1"),
        ("training.learning_rate", "fast"),
    ],
)
def test_what_the_draft_cannot_take_stays_as_typed_with_its_error_beside_it(
    desk: Desk,
    form: Form,
    qtbot: QtBot,
    path: str,
    text: str,
) -> None:
    before = desk.workspace.draft.config
    row = shown(desk, form, path)
    type_into(row, text, qtbot)
    assert isinstance(row.editor, NumberEdit)
    assert row.editor.text() == text
    assert row.error.isVisible()
    assert path in desk.workspace.draft.invalid
    assert desk.workspace.draft.config is before


def test_mending_a_field_takes_its_error_away(desk: Desk, form: Form, qtbot: QtBot) -> None:
    row = shown(desk, form, "adapter.r")
    type_into(row, "0", qtbot)
    type_into(row, str(desk.workspace.draft.config.adapter.r), qtbot)
    assert not row.error.isVisible()
    assert not desk.workspace.draft.invalid


def test_undo_shows_the_earlier_value_and_forgets_the_error(desk: Desk, form: Form, qtbot: QtBot) -> None:
    row = shown(desk, form, "adapter.r")
    first = desk.workspace.draft.config.adapter.r
    type_into(row, "32", qtbot)
    type_into(row, "0", qtbot)
    desk.workspace.draft.undo_stack.undo()
    assert isinstance(row.editor, NumberEdit)
    assert row.editor.value == first
    assert not desk.workspace.draft.invalid


def test_a_choice_of_true_stays_true(desk: Desk, form: Form) -> None:
    row = shown(desk, form, "adapter.init_lora_weights")
    assert isinstance(row.editor, ComboBox)
    row.editor.activated.emit(1)
    assert desk.workspace.draft.config.adapter.init_lora_weights == "gaussian"
    row.editor.activated.emit(0)
    assert desk.workspace.draft.config.adapter.init_lora_weights is True


def test_names_are_read_from_commas_and_spaces(desk: Desk, form: Form) -> None:
    row = shown(desk, form, "adapter.modules_to_save")
    row.editor.setText("lm_head, model.norm")  # type: ignore[attr-defined]
    row.editor.editingFinished.emit()  # type: ignore[attr-defined]
    assert desk.workspace.draft.config.adapter.modules_to_save == ("lm_head", "model.norm")


def test_variables_of_a_template_hold_spaces_commas_and_digits_that_are_text(desk: Desk, form: Form, qtbot: QtBot) -> None:
    row = shown(desk, form, "data.chat_template_kwargs")
    assert isinstance(row.editor, LinesEdit)
    row.editor.setFocus()
    for line in ("date_string=26 Jul 2024, or so", 'version="1.10"', "level=2"):
        qtbot.keyClicks(row.editor, line)
        qtbot.keyClick(row.editor, Qt.Key.Key_Return)
    qtbot.keyClick(row.editor, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    values = {"date_string": "26 Jul 2024, or so", "version": "1.10", "level": 2}
    assert desk.workspace.draft.config.data.chat_template_kwargs == values
    assert row.editor.toPlainText() == 'date_string=26 Jul 2024, or so\nversion="1.10"\nlevel=2'
    row.editor.setPlainText("thinking")
    row.editor.document().setModified(True)
    qtbot.keyClick(row.editor, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert "write name=value" in row.error.text()
    assert desk.workspace.draft.config.data.chat_template_kwargs == values


def test_a_run_is_shown_under_lock_and_the_draft_comes_back(desk: Desk, form: Form) -> None:
    row = shown(desk, form, "adapter.r")
    run = desk.workspace.draft.config.replace({"adapter.r": 128})
    form.show_config(run)
    assert isinstance(row.editor, NumberEdit)
    assert (row.editor.value, row.editor.isEnabled()) == (128, False)
    desk.workspace.draft.edit({"adapter.r": 4}, "Rank")
    assert row.editor.value == 128
    form.show_config(None)
    assert (row.editor.value, row.editor.isEnabled()) == (4, True)


def test_the_draft_says_what_the_run_had_where_it_differs(desk: Desk, form: Form) -> None:
    row = shown(desk, form, "adapter.r")
    form.compare_with(desk.workspace.draft.config.replace({"adapter.r": 128}))
    assert row.was.text() == "was 128"
    desk.workspace.draft.edit({"adapter.r": 128}, "Rank")
    assert row.was.text() == ""


def type_into(row: FieldRow, text: str, qtbot: QtBot) -> None:
    editor = row.editor
    assert isinstance(editor, NumberEdit)
    editor.setFocus()
    editor.selectAll()
    qtbot.keyClicks(editor, text)
    qtbot.keyClick(editor, Qt.Key.Key_Return)
