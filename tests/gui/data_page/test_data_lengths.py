"""The lengths of the rows, the line that is max_length, and the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QPushButton, QTableView

from lora_studio.data.tokens.lengths import LengthTable
from lora_studio.gui.data_page.issues.problems import Problem, problem_of_error, problems_of
from lora_studio.gui.data_page.lengths.lengths_panel import LengthsPanel
from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.theme import Theme
from tests.gui.clipping import clipped_widgets, settle
from tests.gui.desk import Desk

LEFT = Qt.MouseButton.LeftButton
ROWS = 400


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    """A report of 400 rows of 1 to 400 tokens, the last of each trained."""
    lengths = np.arange(1, ROWS + 1, dtype=np.int64)
    LengthTable(lengths, lengths - 1, np.ones(ROWS, np.int64)).save(tmp_path)
    return {"lengths": str(tmp_path)}


@pytest.fixture
def panel(desk: Desk, dark: Theme, report: dict[str, Any]) -> LengthsPanel:
    desk.workspace.draft.edit({"data.max_length": 200}, "start")
    made = LengthsPanel(desk.workspace)
    made.show_report(report)
    desk.shown(made, 640, 200)
    return made


def figures(panel: LengthsPanel) -> list[str]:
    return [told.text() for told in panel.figures.values()]


def max_length(workspace: Workspace) -> int:
    return workspace.draft.config.data.max_length


def test_what_max_length_makes_of_the_rows_is_told_beside_the_bars(panel: LengthsPanel) -> None:
    assert panel.table is not None
    cut = panel.table.at(200)
    assert (cut.cut_rows, cut.untrained_rows) == (200, 200)
    assert figures(panel)[:2] == ["200 (50%)", "200"]
    assert figures(panel)[2:] == [f"{cut.share_trained:.0%}", f"{cut.efficiency:.0%}"]


def test_every_row_is_in_a_bar(panel: LengthsPanel) -> None:
    bars = panel.histogram.bars
    assert sum(count for _, _, count in bars) == ROWS
    assert bars[0][0] == 0


def test_dragging_the_line_is_one_undo_step_and_figures_follow(desk: Desk, panel: LengthsPanel) -> None:
    steps = desk.workspace.draft.undo_stack.count()
    histogram = panel.histogram
    start = QPoint(round(histogram.x_of(200)), 60)
    QTest.mousePress(histogram, LEFT, Qt.KeyboardModifier.NoModifier, start)
    for length in (240, 300, 360):
        QTest.mouseMove(histogram, QPoint(round(histogram.x_of(length)), 60))
    QTest.mouseRelease(histogram, LEFT, Qt.KeyboardModifier.NoModifier, QPoint(round(histogram.x_of(360)), 60))
    assert abs(max_length(desk.workspace) - 360) <= 2
    assert figures(panel)[1] == str(ROWS - max_length(desk.workspace))
    assert desk.workspace.draft.undo_stack.count() == steps + 1
    desk.workspace.draft.undo_stack.undo()
    assert max_length(desk.workspace) == 200
    assert figures(panel)[1] == "200"


def test_two_drags_are_two_undo_steps(desk: Desk, panel: LengthsPanel) -> None:
    for length in (300, 100):
        here = QPoint(round(panel.histogram.x_of(max_length(desk.workspace))), 60)
        QTest.mousePress(panel.histogram, LEFT, Qt.KeyboardModifier.NoModifier, here)
        QTest.mouseMove(panel.histogram, QPoint(round(panel.histogram.x_of(length)), 60))
        QTest.mouseRelease(panel.histogram, LEFT)
    desk.workspace.draft.undo_stack.undo()
    assert abs(max_length(desk.workspace) - 300) <= 2


def test_keys_after_a_drag_are_an_undo_step_of_their_own(desk: Desk, panel: LengthsPanel) -> None:
    desk.qtbot.mouseClick(panel.histogram, LEFT, pos=QPoint(round(panel.histogram.x_of(300)), 60))
    clicked = max_length(desk.workspace)
    desk.qtbot.keyClick(panel.histogram, Qt.Key.Key_End)
    desk.workspace.draft.undo_stack.undo()
    assert max_length(desk.workspace) == clicked
    desk.workspace.draft.undo_stack.undo()
    assert max_length(desk.workspace) == 200


def test_arrow_keys_move_the_line(desk: Desk, panel: LengthsPanel) -> None:
    panel.histogram.setFocus()
    seen: list[int] = []
    for key, modifier in (
        (Qt.Key.Key_Right, Qt.KeyboardModifier.NoModifier),
        (Qt.Key.Key_Left, Qt.KeyboardModifier.ShiftModifier),
        (Qt.Key.Key_End, Qt.KeyboardModifier.NoModifier),
        (Qt.Key.Key_Home, Qt.KeyboardModifier.NoModifier),
    ):
        desk.qtbot.keyClick(panel.histogram, key, modifier)
        seen.append(max_length(desk.workspace))
    assert seen == [208, 144, 400, 2]


def test_the_bars_are_told_in_words_and_as_a_table(desk: Desk, panel: LengthsPanel) -> None:
    assert panel.histogram.accessibleName() == "Lengths of 400 rows; max_length 200 cuts 200. Arrow keys move it."
    panel.findChild(QPushButton, "lengths_table_button").click()
    table = panel.findChild(QTableView, "plot_table").model()
    assert table.rowCount() == len(panel.histogram.bars)
    assert sum(float(table.index(row, 1).data()) for row in range(table.rowCount())) == ROWS


def test_without_a_report_there_are_no_bars(panel: LengthsPanel, tmp_path: Path) -> None:
    panel.show_report({"lengths": str(tmp_path / "gone")})
    assert panel.isHidden()
    panel.show_report(None)
    assert panel.isHidden()


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("width", [360, 640, 1000])
def test_nothing_of_the_lengths_is_clipped(panel: LengthsPanel, dark: Theme, scale: float, width: int) -> None:
    dark.set_scale(scale)
    panel.resize(width, panel.minimumSizeHint().height())
    settle(panel)
    assert clipped_widgets(panel) == []


# --- problems of the rows as tokens ---


@pytest.mark.parametrize(
    ("tokens", "cut", "length", "found"),
    [
        (900, 4, 512, ("cut", {"data.max_length": 960})),
        (100, 0, 1024, ("short", {"data.max_length": 128})),
        (500, 0, 512, None),
    ],
)
def test_the_length_the_rows_need_is_offered(
    desk: Desk,
    tokens: int,
    cut: int,
    length: int,
    found: tuple[str, dict[str, object]] | None,
) -> None:
    report = {"tokens": {"max": tokens}, "truncated_rows": cut, "untrained_rows": 0, "unended_rows": 0}
    config = desk.workspace.draft.config.replace({"data.max_length": length})
    assert [(problem.id, problem.changes) for problem in problems_of(config, None, report)] == ([found] if found else [])


def test_rows_that_train_nothing_are_named_and_cured_where_they_are_cut(desk: Desk) -> None:
    report = {
        "tokens": {"max": 900},
        "truncated_rows": 4,
        "untrained_rows": 2,
        "unended_rows": 0,
        "untrained": ["/data/rows.jsonl:7", "/data/rows.jsonl:9"],
    }
    config = desk.workspace.draft.config.replace({"data.max_length": 512})
    problem = problems_of(config, None, report)[-1]
    assert problem.text.startswith("Rows that train nothing: 2 (the first is rows.jsonl:7)")
    assert problem.changes == {"data.max_length": 960}


def error(desk: Desk, field: str) -> Problem:
    return problem_of_error("It is wrong.", "Do this.", field, desk.workspace.draft.config)


def test_a_template_that_rewrites_history_is_cured_by_training_on_the_last_answer(desk: Desk) -> None:
    assert error(desk, "data.train_on").changes == {"data.train_on": "last"}
    assert error(desk, "data.train_on").action == "Train on the last answer"


def test_beside_the_last_answer_each_in_a_row_of_its_own_is_offered_once_the_template_rewrites_history(desk: Desk) -> None:
    other = error(desk, "data.train_on").other
    assert other is not None
    assert (other.action, other.changes) == ("Train each answer in a row of its own", {"data.train_on": "each"})
    assert error(desk, "data.train").other is None


def test_a_missing_end_token_is_cured_by_the_setting_that_helps(desk: Desk) -> None:
    report = {
        "tokens": {"max": 900},
        "truncated_rows": 0,
        "untrained_rows": 0,
        "unended_rows": 2,
        "findings": [
            {
                "code": "rows_unended",
                "level": "warning",
                "message": "2 rows.",
                "hint": "Set data.train_on to each.",
                "field": "data.train_on",
            }
        ],
    }
    (problem,) = problems_of(desk.workspace.draft.config, None, report)
    assert (problem.text, problem.changes) == ("2 rows. Set data.train_on to each.", {"data.train_on": "each"})


@pytest.mark.parametrize(
    ("reason", "cures"),
    [
        ("it writes turn 2 otherwise; data.train_on: last or each", [{"data.train_on": "last"}, {"data.train_on": "each"}]),
        ("turn 2 holds <|im_end|>", [{"data.on_bad_rows": "skip"}]),
    ],
)
def test_rows_that_only_the_template_refuses_are_told_with_their_cures(desk: Desk, reason: str, cures: list[dict[str, str]]) -> None:
    report = {
        "tokens": {"max": 900},
        "truncated_rows": 0,
        "untrained_rows": 0,
        "unended_rows": 0,
        "bad_rows": [{"file": "/data/rows.jsonl", "line": 7, "reason": reason}],
    }
    desk.until(lambda: desk.workspace.data.check is not None)
    check = desk.workspace.data.check
    (problem,) = problems_of(desk.workspace.draft.config, check, report)
    assert (problem.level, problem.text) == ("error", f"Rows that stop a run: 1; the first: rows.jsonl:7: {reason}.")
    assert [one.changes for one in (problem, problem.other) if one] == cures
    (left_out,) = problems_of(desk.workspace.draft.config.replace({"data.on_bad_rows": "skip"}), check, report)
    assert (left_out.level, left_out.text) == ("warning", f"Rows that are left out: 1; the first: rows.jsonl:7: {reason}.")


def test_a_missing_template_leads_to_a_choice_and_anything_else_to_its_setting(desk: Desk) -> None:
    assert error(desk, "data.chat_template").leads_to == "template"
    assert error(desk, "data.train").leads_to == "setting"


def test_a_file_in_utf_16_is_offered_its_encoding(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes('{"text": "grüezi"}\n'.encode("utf-16"))
    desk.workspace.draft.edit({"data.train": (str(tmp_path / "rows.jsonl"),)}, "data")
    desk.until(lambda: desk.workspace.data.error)
    problem = problem_of_error(desk.workspace.data.error, "", desk.workspace.data.field, desk.workspace.draft.config)
    assert problem.changes == {"data.encoding": "utf-16"}
    desk.workspace.draft.edit(problem.changes, problem.action)
    desk.until(lambda: desk.workspace.data.check is not None)
