"""A small job of the Data page that is stopped or fails leaves no "reading…" behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_studio.data.check import check_files
from lora_studio.data.rows.row import Message, Row
from lora_studio.gui.data_page.issues.bad_line import BadLines
from lora_studio.gui.data_page.lens.lens_reader import LensReader
from lora_studio.gui.data_page.template_dialog import TemplateDialog
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.widgets import ErrorLabel
from lora_studio.jobs.job import Job
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Desk

ROW = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]}


class OtherTasks(JobCenter):
    """Runs another task in the place of every one that is asked for."""

    task = "tests.gui.tasks:wait"

    def start(self, spec: JobSpec, *listeners: Any, **more: Any) -> Job:
        return super().start(JobSpec(self.task, title=spec.title), *listeners, **more)


@pytest.fixture
def others(desk: Desk) -> Iterator[OtherTasks]:
    made = OtherTasks()
    yield made
    made.close()


@pytest.fixture
def row(desk: Desk, tmp_path: Path, tiny_model: Callable[[str], Path]) -> Row:
    """A sound row of a draft whose model is ready."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    desk.workspace.draft.edit({"model.name_or_path": str(tiny_model("llama")), "data.train": (str(path),)}, "start")
    desk.workspace.model.begin()
    desk.until(lambda: desk.workspace.data.check and desk.workspace.model.source and desk.workspace.model.source.ready)
    return Row(str(path), 1, "messages", tuple(Message(said["role"], said["content"]) for said in ROW["messages"]))


@pytest.fixture
def reader(desk: Desk, others: OtherTasks, row: Row) -> LensReader:
    made = LensReader(desk.workspace, others, others)
    made.set_wanted(True)
    made.read(row)
    desk.until(lambda: others.jobs)
    assert made.note == "reading the tokens…"
    return made


def test_a_lens_whose_reading_was_stopped_says_so_and_reads_the_row_when_asked_again(
    desk: Desk, others: OtherTasks, reader: LensReader, row: Row
) -> None:
    others.jobs[0].control.stop()
    desk.until(lambda: not others.jobs)
    assert reader.note == "The reading was stopped. Select the row again to see its tokens."
    assert reader.tokens is None
    reader.read(row)
    desk.until(lambda: others.jobs)
    assert reader.note == "reading the tokens…"


def test_a_rendering_that_was_stopped_says_so(desk: Desk, others: OtherTasks, row: Row) -> None:
    dialog = TemplateDialog(desk.workspace, others, row)
    desk.shown(dialog)
    desk.until(lambda: others.jobs)
    others.jobs[0].control.stop()
    desk.until(lambda: not others.jobs)
    assert dialog.findChild(ErrorLabel, "template_error").text() == "The rendering was stopped. Choose the template again to see the row."
    assert dialog.findChild(ErrorLabel, "template_error").isVisible()


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("wait", "The reading was stopped. Select the row again to see its line."),
        ("fail", "There is no such thing. Give another."),
    ],
)
def test_a_bad_line_that_was_not_read_says_why(desk: Desk, others: OtherTasks, tmp_path: Path, task: str, told: str) -> None:
    others.task = f"tests.gui.tasks:{task}"
    path = tmp_path / "large.jsonl"
    path.write_text((json.dumps(ROW) + " " * 4_000_000 + "\n") + "not json\n", encoding="utf-8")
    check = check_files(desk.workspace.draft.config.replace({"data.train": (str(path),)}).data)
    shown: list[str] = []
    BadLines(others, others).read(check.bad_rows[0], check, "utf-8", shown.append)
    assert shown == ["reading…"]
    for job in others.jobs if task == "wait" else ():
        job.control.stop()
    desk.until(lambda: not others.jobs)
    assert shown == ["reading…", told]
