"""The mask lens: tokens laid out, told of, and painted only where they are in view."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor, QGuiApplication
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from lora_studio.gui.data_page.lens.lens_colors import chip_styles, mixed
from lora_studio.gui.data_page.lens.lens_layout import GAP, PADDING, LensLayout
from lora_studio.gui.data_page.lens.lens_pane import Legend
from lora_studio.gui.data_page.lens.lens_tokens import STATES, LensTokens
from lora_studio.gui.data_page.lens.lens_view import LensView
from lora_studio.gui.theme import DARK, LIGHT, Colors, Theme

TOKENS = LensTokens(
    ids=(1, 50, 198, 51, 52, 2, 53, 0),
    texts=("<|im_start|>", "user", "\n", "Hi", " there", "<|im_end|>", " more", "<pad>"),
    states=("context", "context", "context", "trained", "trained", "trained", "cut", "padding"),
)


def many(count: int) -> LensTokens:
    texts = [f" word{number % 9000}" if number % 50 else ".\n" for number in range(count)]
    return LensTokens(tuple(range(count)), tuple(texts), ("context", "trained", "cut", "padding") * (count // 4))


@pytest.fixture
def lens(qtbot: QtBot, dark: Theme) -> LensView:
    made = LensView()
    qtbot.addWidget(made)
    made.resize(420, 300)
    with qtbot.waitExposed(made):
        made.show()
    return made


def until(qtbot: QtBot, condition: Callable[[], object]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=20_000)


def test_tokens_break_where_the_line_is_full_and_after_a_line_end() -> None:
    layout = LensLayout(LensTokens((0,) * 5, ("aa", "bb", "c\n", "dd", "e" * 90), ("context",) * 5), 60, lambda text: 10 * len(text))
    layout.go_on(100)
    assert [list(layout.span(line)) for line in range(layout.lines)] == [[0, 1], [2], [3], [4]]
    assert layout.lefts(0) == [0, 20 + 2 * PADDING + GAP]
    assert layout.width(4) == 60


def test_a_layout_in_slices_is_that_made_at_once() -> None:
    tokens = many(2000)
    whole, sliced = (LensLayout(tokens, 300, lambda text: 7 * len(text)) for _ in range(2))
    whole.go_on(2000)
    while not sliced.complete:
        sliced.go_on(77)
    assert [whole.span(line) for line in range(whole.lines)] == [sliced.span(line) for line in range(sliced.lines)]
    assert [whole.line_of(place) for place in (0, 999, 1999)] == [sliced.line_of(place) for place in (0, 999, 1999)]


def test_a_row_of_50000_tokens_is_painted_only_where_it_is_in_view(qtbot: QtBot, lens: LensView) -> None:
    lens.show_tokens(many(50_000))
    until(qtbot, lambda: lens.laid_out)
    lens.viewport().repaint()
    assert 20 < lens.painted < 400
    bar = lens.verticalScrollBar()
    assert bar.maximum() > 20_000
    bar.setValue(bar.maximum())
    lens.viewport().repaint()
    assert 5 < lens.painted < 400


def test_only_what_an_update_uncovers_is_painted(qtbot: QtBot, lens: LensView) -> None:
    lens.show_tokens(many(8000))
    until(qtbot, lambda: lens.laid_out)
    lens.viewport().repaint()
    all_in_view = lens.painted
    lens.viewport().repaint(0, 0, lens.viewport().width(), 10)
    assert lens.painted < all_in_view / 3


def test_arrow_keys_walk_through_the_tokens_and_each_is_told(qtbot: QtBot, lens: LensView) -> None:
    told: list[object] = []
    lens.told.connect(told.append)
    lens.show_tokens(TOKENS)
    lens.setFocus()
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Down, Qt.Key.Key_End, Qt.Key.Key_Up, Qt.Key.Key_Home):
        qtbot.keyClick(lens, key)
    assert told == [0, 1, 5, 7, 2, 0]
    assert lens.accessibleDescription() == "token 1 of 8 · id 1 · '<|im_start|>' · context"


def test_ctrl_end_reaches_a_token_that_has_no_place_yet(qtbot: QtBot, lens: LensView) -> None:
    lens.show_tokens(many(40_000))
    qtbot.keyClick(lens, Qt.Key.Key_End, Qt.KeyboardModifier.ControlModifier)
    assert lens.current == 39_999
    until(qtbot, lambda: lens.laid_out and lens.verticalScrollBar().value() == lens.verticalScrollBar().maximum())


def test_the_pointer_tells_of_the_token_under_it(qtbot: QtBot, lens: LensView) -> None:
    lens.show_tokens(TOKENS)
    QTest.mouseMove(lens.viewport(), lens.area_of(4).center())
    assert lens.pointed == 4
    assert lens.current == 0
    QTest.mouseMove(lens.viewport(), QPoint(5, 290))
    assert lens.pointed == 0
    qtbot.mouseClick(lens.viewport(), Qt.MouseButton.LeftButton, pos=lens.area_of(6).center())
    assert lens.current == 6
    assert TOKENS.told(6) == "token 7 of 8 · id 53 · ' more' · cut off"


def test_what_is_told_of_a_token_is_copied(qtbot: QtBot, lens: LensView) -> None:
    lens.show_tokens(TOKENS)
    qtbot.keyClick(lens, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == TOKENS.told(0)


def test_a_narrower_view_breaks_anew_and_keeps_what_stood_at_its_top(qtbot: QtBot, lens: LensView) -> None:
    lens.show_tokens(many(9000))
    until(qtbot, lambda: lens.laid_out)
    lens.verticalScrollBar().setValue(lens.verticalScrollBar().maximum() // 2)
    top = min(place for place in range(9000) if lens.area_of(place).bottom() >= 0)
    lens.resize(260, 300)
    until(qtbot, lambda: lens.laid_out)
    assert abs(lens.area_of(top).top()) < 60


def test_what_cannot_be_seen_is_shown_by_a_sign() -> None:
    shown = LensTokens((0,) * 4, ("\n", "   ", "", "a\tb"), ("context",) * 4)
    assert [shown.shown(place) for place in range(4)] == ["↵", "␣␣␣", "∅", "a⇥b"]


def test_the_lens_says_what_it_shows_to_those_who_do_not_see_it(lens: LensView) -> None:
    lens.show_tokens(TOKENS)
    assert lens.accessibleName() == "Tokens of the selected row. 8 tokens: 3 trained, 3 context, 1 cut off, 1 padding"


def test_the_legend_counts_each_state(qtbot: QtBot, dark: Theme) -> None:
    legend = Legend()
    qtbot.addWidget(legend)
    legend.show_tokens(TOKENS)
    assert [legend.counts[state].text() for state in STATES] == ["trained 3", "context 3", "cut off 1", "padding 1"]


def contrast(one: str, other: str) -> float:
    def light(color: str) -> float:
        parts = [QColor(color).redF(), QColor(color).greenF(), QColor(color).blueF()]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colors", [DARK, LIGHT], ids=lambda colors: colors.name)
def test_tokens_of_every_state_can_be_read_and_told_apart_without_colour(colors: Colors) -> None:
    styles = chip_styles(colors)
    for style in styles.values():
        assert contrast(style.text, style.fill) >= 4.5
    assert contrast(styles["cut"].text, mixed(styles["cut"].fill, styles["cut"].mark, 0.35)) >= 4.5
    for state in ("trained", "cut"):
        assert contrast(styles[state].mark, styles[state].fill) >= 3
    assert len({style.kind for style in styles.values()}) == len(STATES)
