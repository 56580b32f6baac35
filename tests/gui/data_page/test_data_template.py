"""Choosing a chat template, with a real row rendered by a real tokenizer beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QPushButton

from lora_studio.data.templates.template_source import shipped_template, shipped_templates
from lora_studio.gui.data_page.page import DataPage
from lora_studio.gui.data_page.template_dialog import TemplateDialog
from lora_studio.gui.draft.readiness import ReadyItem
from lora_studio.gui.panels.data import check_text, fault_text
from lora_studio.gui.theme import Theme
from lora_studio.gui.widgets import Banner, ErrorLabel
from tests.gui.clipping import clipped_widgets, settle
from tests.gui.desk import Desk
from tests.tiny import save_tiny_tokenizer

LEFT = Qt.MouseButton.LeftButton
TALK = {
    "messages": [
        *(
            {"role": role, "content": said}
            for role, said in (("user", "Hello there"), ("assistant", "Good day"), ("user", "And now"), ("assistant", "Good night"))
        )
    ]
}
ROW = {"messages": [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Good day"}]}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("not json\n" + json.dumps(ROW) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def page(desk: Desk, dark: Theme, rows: Path, tiny_model: Callable[[str], Path]) -> DataPage:
    """The page with one sound row and a model that is ready."""
    changes = {"model.name_or_path": str(tiny_model("llama")), "data.train": (str(rows),), "data.on_bad_rows": "skip"}
    desk.workspace.draft.edit(changes, "start")
    made = DataPage(desk.workspace, desk.jobs, desk.run_view, desk.answers)
    desk.shown(made, 900, 900)
    desk.workspace.model.begin()
    desk.until(lambda: desk.workspace.data.check and desk.workspace.model.source and desk.workspace.model.source.ready)
    return made


@pytest.fixture
def dialog(desk: Desk, page: DataPage) -> TemplateDialog:
    desk.qtbot.mouseClick(page.findChild(QPushButton, "change_template_button"), LEFT)
    made = page.findChild(TemplateDialog)
    desk.until(made.rendered.toPlainText, 60_000)
    return made


def choose(dialog: TemplateDialog, data: str) -> None:
    dialog.choice.setCurrentIndex(dialog.choice.findData(data))
    dialog.choice.activated.emit(dialog.choice.currentIndex())


def underlined(dialog: TemplateDialog) -> list[str]:
    return [selection.cursor.selectedText() for selection in dialog.rendered.extraSelections()]


def test_the_models_own_template_is_shown_with_the_row_it_makes(dialog: TemplateDialog) -> None:
    assert "{%" in dialog.editor.toPlainText()
    assert "Hello there" in dialog.rendered.toPlainText()
    assert len(underlined(dialog)) == 1
    assert underlined(dialog)[0].startswith("Good day")
    dialog.reject()


def test_a_shipped_template_is_rendered_and_used_as_one_undo_step(desk: Desk, page: DataPage, dialog: TemplateDialog) -> None:
    name = "instruct"
    before = dialog.rendered.toPlainText()
    choose(dialog, name)
    assert dialog.editor.toPlainText() == shipped_template(name)
    desk.until(lambda: dialog.rendered.toPlainText() != before, 60_000)
    desk.qtbot.mouseClick(dialog.findChild(QPushButton, "template_use"), LEFT)
    assert desk.workspace.draft.config.data.chat_template == name
    assert page.findChild(QLabel, "template_told").text() == f"Chat template: {name}"
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.data.chat_template is None
    assert page.findChild(QLabel, "template_told").text() == "Chat template: the base model's own"


def test_a_template_is_written_and_its_fault_is_told_beside_it(desk: Desk, dialog: TemplateDialog) -> None:
    dialog.editor.setFocus()
    dialog.editor.selectAll()
    desk.qtbot.keyClicks(dialog.editor, "{% for m in messages %}")
    assert dialog.choice.currentText() == "Written here"
    error = dialog.findChild(ErrorLabel, "template_error")
    desk.until(lambda: "cannot be read" in error.text(), 60_000)
    desk.qtbot.keyClicks(dialog.editor, "<{{ m.role }}>{{ m.content }}{% endfor %}")
    desk.until(lambda: dialog.rendered.toPlainText() == "<user>Hello there<assistant>Good day", 60_000)
    assert error.text() == ""
    assert underlined(dialog) == ["Good day"]
    dialog.use()
    assert desk.workspace.draft.config.data.chat_template == "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def test_the_lens_shows_the_rows_real_tokens_and_follows_max_length(desk: Desk, page: DataPage) -> None:
    page.rows.table.selectRow(1)
    desk.qtbot.mouseClick(page.findChild(QPushButton, "detail_switch_tokens"), LEFT)
    lens = page.rows.detail.lens
    desk.until(lambda: len(lens.view.tokens), 60_000)
    tokens = lens.view.tokens
    trained = [text for text, state in zip(tokens.texts, tokens.states) if state == "trained"]
    assert "".join(trained).replace(" ", "").startswith("Goodday")
    assert tokens.counts["cut"] == 0
    desk.workspace.draft.edit({"data.max_length": 4}, "short")
    desk.until(lambda: lens.view.tokens.counts["cut"] == len(tokens) - 4, 60_000)
    page.rows.table.selectRow(0)
    desk.until(lambda: not len(lens.view.tokens))
    assert page.rows.detail.pills.current == "text"


def test_where_each_answer_is_a_row_of_its_own_lens_and_preview_go_from_one_to_the_next(desk: Desk, page: DataPage, rows: Path) -> None:
    talks = rows.with_name("talks.jsonl")
    talks.write_text(json.dumps(TALK) + "\n", encoding="utf-8")
    desk.workspace.draft.edit({"data.train": (str(talks),), "data.train_on": "each"}, "each")
    desk.until(lambda: desk.workspace.data.check and not desk.workspace.data.check.bad_count, 60_000)
    page.rows.table.selectRow(0)
    desk.qtbot.mouseClick(page.findChild(QPushButton, "detail_switch_tokens"), LEFT)
    lens = page.rows.detail.lens
    desk.until(lens.answer.isVisible, 60_000)

    def learned() -> str:
        tokens = lens.view.tokens
        return "".join(text for text, state in zip(tokens.texts, tokens.states) if state == "trained")

    first = learned()
    assert (first.startswith("Good day"), lens.answer.currentText()) == (True, "Answer 1 of 2")
    counted = lens.view.tokens.counts["trained"]
    desk.qtbot.keyClick(lens.answer, Qt.Key.Key_Down)
    assert learned().startswith("Good night")
    together = counted + lens.view.tokens.counts["trained"]
    assert f"{together} tokens in 2 rows" in page.findChild(QLabel, "lens_note").text()
    desk.qtbot.mouseClick(page.findChild(QPushButton, "change_template_button"), LEFT)
    dialog = page.findChild(TemplateDialog)
    desk.until(dialog.rendered.toPlainText, 60_000)
    assert "Good night" not in dialog.rendered.toPlainText()
    desk.qtbot.keyClick(dialog.answer, Qt.Key.Key_Down)
    assert underlined(dialog)[0].startswith("Good night")
    dialog.reject()
    desk.workspace.draft.edit({"data.train_on": "assistant"}, "all")
    desk.until(lambda: not lens.answer.isVisible(), 60_000)


def test_a_template_that_rewrites_history_is_cured_by_a_row_for_each_answer(desk: Desk, page: DataPage, rows: Path) -> None:
    rewriting = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last or m.role == 'user' else 'said' }}<|im_end|>\n"
    rows.with_name("talks.jsonl").write_text(json.dumps(TALK) + "\n", encoding="utf-8")
    desk.workspace.draft.edit(
        {
            "data.train": (str(rows.with_name("talks.jsonl")),),
            "data.chat_template": rewriting + "{% endfor %}",
            "data.on_bad_rows": "stop",
            "data.eval_fraction": 0.0,
        },
        "rewriting",
    )
    banner = page.findChild(Banner, "data_error")
    desk.until(banner.other.isVisible, 60_000)
    assert "to last" in banner.text
    assert "to each" in banner.text
    desk.qtbot.mouseClick(banner.other, LEFT)
    assert desk.workspace.draft.config.data.train_on == "each"
    desk.until(lambda: desk.workspace.data.report, 60_000)
    assert desk.workspace.data.report["rows"] == 2
    assert not banner.isVisible()


def test_a_base_model_without_a_template_gets_a_choice(
    desk: Desk,
    page: DataPage,
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny_model("llama").iterdir():
        (bare / file.name).write_bytes(file.read_bytes())
    save_tiny_tokenizer(bare, chat_template=None)
    for name in ("chat_template.jinja", "chat_template.json"):
        (bare / name).unlink(missing_ok=True)
    desk.workspace.draft.edit({"model.name_or_path": str(bare)}, "model")
    desk.until(
        lambda: (
            any(problem.leads_to == "template" for problem in page.problems.shown)
            or "chat template" in page.findChild(Banner, "data_error").text
        )
    )
    banner = next(banner for banner in page.findChildren(Banner) if banner.isVisible() and "chat template" in banner.text)
    desk.qtbot.mouseClick(banner.action, LEFT)
    dialog = page.findChild(TemplateDialog)
    choose(dialog, shipped_templates()[0])
    dialog.use()
    desk.until(lambda: not any(problem.leads_to == "template" for problem in page.problems.shown))


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("mode", ["dark", "light"])
def test_nothing_in_the_dialog_is_clipped(desk: Desk, dark: Theme, scale: float, mode: str) -> None:
    dark.set_mode(mode)
    dark.set_scale(scale)
    dialog = TemplateDialog(desk.workspace, desk.jobs, None)
    desk.qtbot.addWidget(dialog)
    dialog.show()
    settle(dialog)
    assert clipped_widgets(dialog) == []
    dialog.reject()


def thoughtful(number: int) -> str:
    answer = {"role": "assistant", "content": f"answer {number}", "reasoning_content": f"thinking about {number}"}
    return json.dumps({"messages": [{"role": "user", "content": f"question {number}"}, answer]})


@pytest.fixture
def refused(desk: Desk, page: DataPage, tmp_path: Path) -> DataPage:
    """The page with one sound row and two whose thoughts the template does not write."""
    rows = tmp_path / "thoughts.jsonl"
    rows.write_text("\n".join([json.dumps(ROW), thoughtful(1), thoughtful(2)]), encoding="utf-8")
    desk.workspace.draft.edit({"data.train": (str(rows),), "data.on_bad_rows": "stop", "data.eval_fraction": 0.0}, "data")
    desk.until(lambda: desk.workspace.data.report, 60_000)
    return page


def data_item(desk: Desk) -> ReadyItem:
    return next(item for item in desk.workspace.readiness.items if item.name == "data")


def banner_of_refused(page: DataPage) -> Banner:
    return page.problems.findChild(Banner, "problem_refused_on_unwritten")


def test_rows_that_the_template_refuses_stop_a_start_and_are_named(desk: Desk, refused: DataPage) -> None:
    item = data_item(desk)
    assert (item.ok, item.field) == (False, "data.on_unwritten")
    assert "2 bad rows" in item.message
    assert "thoughts.jsonl:2: the chat template does not write the thoughts" in item.message
    banner = banner_of_refused(refused)
    assert banner.level == "error"
    assert "Rows that stop a run: 2; the first: thoughts.jsonl:2: " in banner.text
    assert check_text(desk.workspace.data) == "messages · 1 rows · 2 bad"
    assert "thoughts.jsonl:2: " in fault_text(desk.workspace.data, desk.workspace.draft.config)
    listed = refused.rows.bad.model
    assert [listed.index(row, 0).data().split(" · ")[0].rpartition(":")[2] for row in range(listed.rowCount())] == ["2", "3"]


@pytest.mark.parametrize(("which", "setting"), [("action", "without"), ("other", "content")])
def test_one_click_takes_refused_rows_in(desk: Desk, refused: DataPage, which: str, setting: str) -> None:
    desk.qtbot.mouseClick(getattr(banner_of_refused(refused), which), LEFT)
    assert desk.workspace.draft.config.data.on_unwritten == setting
    desk.until(lambda: data_item(desk).ok, 60_000)
    assert "refused_on_unwritten" not in [problem.id for problem in refused.problems.shown]
    desk.workspace.draft.undo_stack.undo()
    assert desk.workspace.draft.config.data.on_unwritten == "refuse"


def test_refused_rows_that_are_skipped_are_still_told(desk: Desk, refused: DataPage) -> None:
    desk.workspace.draft.edit({"data.on_bad_rows": "skip"}, "skip")
    assert banner_of_refused(refused).level == "warning"
    assert "Rows that are left out: 2" in banner_of_refused(refused).text
    assert data_item(desk).ok
    assert "2 bad rows are left out; the first: " in data_item(desk).message


def test_data_of_which_every_row_is_refused_has_both_ways_out(desk: Desk, page: DataPage, tmp_path: Path) -> None:
    rows = tmp_path / "thoughts.jsonl"
    rows.write_text(thoughtful(1) + "\n", encoding="utf-8")
    desk.workspace.draft.edit({"data.train": (str(rows),)}, "data")
    desk.until(lambda: desk.workspace.data.error, 60_000)
    assert data_item(desk).field == "data.on_unwritten"
    banner = page.findChild(Banner, "data_error")
    assert (banner.action.text(), banner.other.text()) == ("Train without", "Keep in the content")
    desk.qtbot.mouseClick(banner.other, LEFT)
    assert desk.workspace.draft.config.data.on_unwritten == "content"
    desk.until(lambda: desk.workspace.data.report, 60_000)
    assert data_item(desk).ok
