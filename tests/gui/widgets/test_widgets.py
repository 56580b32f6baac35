"""The window's own widgets, driven as a person drives them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QAction, QKeySequence, QUndoCommand, QUndoStack, QWheelEvent
from PySide6.QtWidgets import QApplication, QHBoxLayout, QMainWindow, QPushButton, QVBoxLayout, QWidget
from pytestqt.qtbot import QtBot

from lora_studio.gui.theme import Theme
from lora_studio.gui.widgets import (
    Banner,
    Card,
    ComboBox,
    Disclosure,
    ElidedLabel,
    ErrorLabel,
    FlowLayout,
    LineEdit,
    NumberEdit,
    Overlay,
    Pills,
    ProgressLine,
    Rail,
    RailEntry,
    Segment,
    SegmentBar,
    StatTile,
    Toasts,
)
from lora_studio.gui.widgets.number_edit import format_number, parse_number


def wheel(widget: QWidget, notches: int = 1) -> None:
    middle = QPointF(widget.rect().center())
    event = QWheelEvent(
        middle,
        widget.mapToGlobal(middle),
        QPoint(),
        QPoint(0, 120 * notches),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)


@pytest.fixture
def number(qtbot: QtBot, dark: Theme) -> NumberEdit:
    edit = NumberEdit(whole=True, minimum=1, maximum=64)
    qtbot.addWidget(edit)
    edit.set_value(8)
    edit.show()
    return edit


def test_an_integer_beyond_32_bits_arrives_whole(qtbot: QtBot, dark: Theme) -> None:
    edit = NumberEdit(whole=True)
    qtbot.addWidget(edit)
    edit.show()
    qtbot.keyClicks(edit, "6100000000")
    with qtbot.waitSignal(edit.value_edited) as signal:
        qtbot.keyClick(edit, Qt.Key.Key_Return)
    assert signal.args == [6_100_000_000]


@pytest.mark.parametrize(
    ("typed", "value"),
    [("2e-4", 2e-4), (" 0.05 ", 0.05), ("1e3", 1000.0), ("1,024", 1024.0), ("−1", -1.0), ("1_000", 1000.0)],
)
def test_numbers_are_read_as_people_write_them(typed: str, value: float) -> None:
    assert parse_number(typed, whole=False) == value


@pytest.mark.parametrize(
    ("typed", "whole", "said"),
    [
        ("", True, "needed"),
        ("8x", True, "not a number"),
        ("0,05", False, "point"),
        ("2.5", True, "whole"),
        ("1e400", True, "64 bits"),
        ("nan", False, "finite"),
        ("inf", True, "finite"),
        ("1e999", False, "too large"),
        ("9223372036854775808", True, "64 bits"),
    ],
)
def test_what_is_no_number_is_refused_with_a_reason(typed: str, whole: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_number(typed, whole)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_as_itself(value: float) -> None:
    assert parse_number(format_number(value), whole=False) == value


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_an_integer_reads_back_as_itself(value: int) -> None:
    assert parse_number(format_number(value), whole=True) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-4, "2e-4"), (0.05, "0.05"), (1.5e-5, "1.5e-5"), (1024, "1,024"), (100.0, "100"), (0.0, "0"), (1e12, "1e12")],
)
def test_numbers_are_shown_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_text_that_does_not_parse_stays_and_is_marked(number: NumberEdit, qtbot: QtBot) -> None:
    number.selectAll()
    qtbot.keyClicks(number, "8x")
    with qtbot.assertNotEmitted(number.value_edited):
        qtbot.keyClick(number, Qt.Key.Key_Return)
    assert number.text() == "8x"
    assert "not a number" in number.error
    assert number.value == 8


def test_escape_takes_typing_back(number: NumberEdit, qtbot: QtBot) -> None:
    qtbot.keyClicks(number, "123")
    qtbot.keyClick(number, Qt.Key.Key_Escape)
    assert number.text() == "8"


def test_setting_a_value_sends_nothing(number: NumberEdit, qtbot: QtBot) -> None:
    with qtbot.assertNotEmitted(number.value_edited):
        number.set_value(16)
    assert number.text() == "16"


def test_the_wheel_changes_a_number_only_with_the_focus(number: NumberEdit, qtbot: QtBot) -> None:
    other = QPushButton()
    qtbot.addWidget(other)
    number.clearFocus()
    wheel(number)
    assert number.value == 8
    number.activateWindow()
    number.setFocus()
    qtbot.waitUntil(number.hasFocus)
    wheel(number)
    assert number.value == 9


def test_arrow_keys_step_within_the_range(number: NumberEdit, qtbot: QtBot) -> None:
    qtbot.keyClick(number, Qt.Key.Key_Up, Qt.KeyboardModifier.ShiftModifier)
    assert number.value == 18
    number.set_value(64)
    qtbot.keyClick(number, Qt.Key.Key_Up)
    assert number.value == 64
    number.set_value(1)
    qtbot.keyClick(number, Qt.Key.Key_Down)
    assert number.value == 1


def test_a_float_steps_by_a_tenth_of_its_size(qtbot: QtBot, dark: Theme) -> None:
    edit = NumberEdit()
    qtbot.addWidget(edit)
    edit.set_value(2e-4)
    edit.step_by(1)
    assert edit.text() == "2.1e-4"


def test_undo_reaches_the_draft_from_a_line_without_typing_of_its_own(qtbot: QtBot, dark: Theme) -> None:
    window = QMainWindow()
    qtbot.addWidget(window)
    edit = LineEdit("name")
    window.setCentralWidget(edit)
    stack = QUndoStack(window)
    action = QAction("Undo", window, shortcut=QKeySequence("Ctrl+Z"))
    action.triggered.connect(stack.undo)
    window.addAction(action)
    stack.push(QUndoCommand("edit"))
    window.show()
    window.activateWindow()
    edit.setFocus()
    qtbot.waitUntil(edit.hasFocus)
    qtbot.keyClicks(edit, "s")
    qtbot.keyClick(edit, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert (edit.text(), stack.index()) == ("name", 1)
    edit.setModified(False)
    qtbot.keyClick(edit, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert stack.index() == 0


def test_a_combo_box_scrolled_past_keeps_its_choice(qtbot: QtBot, dark: Theme) -> None:
    combo = ComboBox()
    qtbot.addWidget(combo)
    combo.addItems(["a", "b"])
    combo.show()
    combo.clearFocus()
    wheel(combo, -1)
    assert combo.currentText() == "a"


def test_an_elided_label_shows_all_of_its_text_as_its_tooltip(qtbot: QtBot, dark: Theme) -> None:
    label = ElidedLabel("92 of 211 linear · 992,256 trainable")
    qtbot.addWidget(label)
    label.resize(60, 20)
    label.show()
    assert label.is_elided
    assert label.toolTip() == label.text()
    label.resize(600, 20)
    assert not label.is_elided
    assert label.toolTip() == ""


def test_a_card_gives_its_note_what_room_its_title_leaves(qtbot: QtBot, dark: Theme) -> None:
    card = Card("Target modules", "x" * 300)
    qtbot.addWidget(card)
    card.resize(300, 100)
    card.show()
    assert card.title.width() >= card.title.sizeHint().width()
    assert card.note.is_elided


def test_a_disclosure_opens_and_closes_by_its_button(qtbot: QtBot, dark: Theme) -> None:
    disclosure = Disclosure("More")
    content = QPushButton("inside")
    disclosure.body.addWidget(content)
    qtbot.addWidget(disclosure)
    disclosure.show()
    assert not content.isVisible()
    qtbot.keyClick(disclosure.button, Qt.Key.Key_Space)
    assert content.isVisible()
    assert disclosure.is_open
    qtbot.mouseClick(disclosure.button, Qt.MouseButton.LeftButton)
    assert not content.isVisible()


def test_pills_hold_at_most_one_choice(qtbot: QtBot, dark: Theme) -> None:
    pills = Pills([("a", "Attention"), ("b", "MLP")])
    qtbot.addWidget(pills)
    pills.show()
    assert pills.current is None
    with qtbot.waitSignal(pills.selected) as signal:
        qtbot.mouseClick(pills.button("b"), Qt.MouseButton.LeftButton)
    assert signal.args == ["b"]
    qtbot.mouseClick(pills.button("b"), Qt.MouseButton.LeftButton)
    assert pills.current == "b"
    with qtbot.assertNotEmitted(pills.selected):
        pills.set_current(None)
    assert pills.current is None


def test_a_flow_wraps_like_text(qtbot: QtBot, dark: Theme) -> None:
    holder = QWidget()
    flow = FlowLayout(holder)
    buttons = [QPushButton(f"button {number}") for number in range(6)]
    for button in buttons:
        flow.addWidget(button)
    qtbot.addWidget(holder)
    one_row = flow.heightForWidth(2000)
    assert flow.heightForWidth(200) > 2 * one_row
    holder.resize(200, flow.heightForWidth(200))
    holder.show()
    assert all(holder.rect().contains(button.geometry()) for button in buttons)


def test_an_error_label_takes_room_only_for_an_error(qtbot: QtBot, dark: Theme) -> None:
    holder = QWidget()
    layout = QVBoxLayout(holder)
    error = ErrorLabel()
    layout.addWidget(error)
    qtbot.addWidget(holder)
    holder.show()
    assert not error.isVisible()
    error.set_error("alpha must be above 0")
    assert error.isVisible()
    error.set_error("")
    assert not error.isVisible()


def test_a_banner_offers_its_cure_and_can_be_dismissed(qtbot: QtBot, dark: Theme) -> None:
    banner = Banner("warning", "Stopped at step 140", "Resume", closable=True)
    qtbot.addWidget(banner)
    banner.show()
    with qtbot.waitSignal(banner.action_clicked):
        qtbot.mouseClick(banner.action, Qt.MouseButton.LeftButton)
    with qtbot.waitSignal(banner.closed):
        banner.findChild(QWidget, "banner_close").click()  # type: ignore[attr-defined]
    assert not banner.isVisible()


def test_toasts_stack_in_the_corner_and_leave(qtbot: QtBot, dark: Theme) -> None:
    window = QWidget()
    window.resize(800, 600)
    qtbot.addWidget(window)
    window.show()
    toasts = Toasts(window)
    first, second = toasts.show("good", "done"), toasts.show("error", "failed", "Why")
    assert first.geometry().bottom() < second.geometry().top()
    assert window.rect().contains(first.geometry())
    second.findChild(QWidget, "toast_close").click()  # type: ignore[attr-defined]
    assert toasts.toasts == [first]
    first.findChild(QWidget, "toast_close").click()  # type: ignore[attr-defined]


def test_a_figure_is_told_to_screen_readers(qtbot: QtBot, dark: Theme) -> None:
    tile = StatTile("Loss")
    qtbot.addWidget(tile)
    tile.set_value("1.184")
    assert tile.accessibleName() == "Loss: 1.184"


def test_progress_stays_between_nothing_and_all(qtbot: QtBot, dark: Theme) -> None:
    line = ProgressLine()
    qtbot.addWidget(line)
    line.set_fraction(1.7)
    assert line.fraction == 1.0
    line.set_fraction(-1)
    assert line.fraction == 0.0
    line.set_fraction(None)
    assert line.fraction is None
    line.show()
    line.grab()


@pytest.mark.parametrize("capacity", [None, 10.0, 1.0])
def test_parts_fill_a_bar_in_proportion(qtbot: QtBot, dark: Theme, capacity: float | None) -> None:
    bar = SegmentBar()
    qtbot.addWidget(bar)
    bar.resize(200, 14)
    bar.set_segments([Segment("Weights", 1.0, "curve_blue"), Segment("Activations", 3.0, "curve_green")], capacity)
    spans = bar.spans()
    whole = max(capacity or 0, 4.0)
    assert [right - left for _, left, right in spans] == pytest.approx([200 / whole, 600 / whole])
    bar.grab()


def test_a_rail_opens_panels_by_their_id(qtbot: QtBot, dark: Theme) -> None:
    rail = Rail([RailEntry("model", "Base model", "model")])
    qtbot.addWidget(rail)
    rail.show()
    with qtbot.waitSignal(rail.opened) as signal:
        qtbot.mouseClick(rail.findChild(QWidget, "rail_model"), Qt.MouseButton.LeftButton)
    assert signal.args == ["model"]


def test_escape_closes_an_overlay(qtbot: QtBot, dark: Theme) -> None:
    area = QWidget()
    QHBoxLayout(area)
    area.resize(600, 400)
    qtbot.addWidget(area)
    area.show()
    overlay = Overlay(area, "right")
    overlay.open(300)
    assert overlay.geometry().right() == area.rect().right()
    with qtbot.waitSignal(overlay.closed):
        qtbot.keyClick(overlay, Qt.Key.Key_Escape)
    assert not overlay.isVisible()


def test_every_widget_has_a_name(qtbot: QtBot, dark: Theme) -> None:
    widgets = [
        Card("A"),
        Disclosure("B"),
        ComboBox(),
        Pills([("a", "A")]),
        NumberEdit(),
        ElidedLabel("x"),
        ErrorLabel(),
        StatTile("S"),
        ProgressLine(),
        SegmentBar(),
        Banner(),
        Rail([]),
    ]
    for widget in widgets:
        qtbot.addWidget(widget)
        assert widget.objectName(), type(widget).__name__
