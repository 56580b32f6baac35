from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QMessageBox, QProgressDialog, QWidget

from lora_studio.gui.shell.close_guard import Closing, ClosingChoice, ClosingQuestion, ask_closing
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Desk

WAIT = JobSpec("tests.gui.tasks:wait", title="support-triage", device=True)


class Window(QWidget):
    closing: Closing

    def closeEvent(self, event: QCloseEvent) -> None:
        event.setAccepted(self.closing.may_close())


@pytest.fixture
def window(desk: Desk) -> Iterator[Window]:
    made = Window()
    made.closing = Closing(made, desk.jobs, desk.starter, lambda *_asked: ClosingChoice.STOP_AND_SAVE)
    made.show()
    yield made
    desk.jobs.close()
    made.closing = Closing(made, desk.jobs, desk.starter)
    made.close()
    made.deleteLater()


def answer(window: Window, desk: Desk, choice: ClosingChoice) -> list[ClosingQuestion]:
    """Let the window's question be answered so; give what is asked."""
    asked: list[ClosingQuestion] = []

    def reply(_window: QWidget, question: ClosingQuestion) -> ClosingChoice:
        asked.append(question)
        return choice

    window.closing = Closing(window, desk.jobs, desk.starter, reply)
    return asked


def test_a_window_without_jobs_closes_at_once(window: Window) -> None:
    assert window.close()


def test_small_jobs_are_not_asked_about(desk: Desk, window: Window) -> None:
    desk.jobs.start(JobSpec("tests.gui.tasks:wait", title="Load the engine"))
    assert window.close()


def test_cancel_keeps_window_and_run(desk: Desk, window: Window) -> None:
    asked = answer(window, desk, ClosingChoice.CANCEL)
    job = desk.jobs.start(WAIT)
    desk.until(lambda: job.state == "running")
    assert not window.close()
    assert [question.text for question in asked] == ["support-triage is still under way."]
    assert not job.control.stopping


def test_stop_and_save_shows_saving_and_closes_when_the_run_has_ended(desk: Desk, window: Window) -> None:
    job = desk.jobs.start(WAIT)
    desk.until(lambda: job.state == "running")
    assert not window.close()
    assert window.findChild(QProgressDialog, "saving_dialog").labelText() == "Saving…"
    desk.until(lambda: not window.isVisible())
    assert job.state == "stopped"


def test_the_queue_does_not_start_while_the_window_closes(desk: Desk, window: Window) -> None:
    first, second = desk.jobs.start(WAIT), desk.jobs.start(WAIT)
    desk.until(lambda: first.state == "running")
    window.close()
    desk.until(lambda: not window.isVisible())
    desk.jobs.close()
    assert second.state == "stopped"
    assert all(event.event == "run_stopped" for event in second.drain())


def test_saving_can_be_cancelled_so_that_the_window_stays(desk: Desk, window: Window) -> None:
    job = desk.jobs.start(WAIT)
    desk.until(lambda: job.state == "running")
    window.close()
    window.findChild(QProgressDialog, "saving_dialog").canceled.emit()
    desk.until(lambda: not desk.jobs.jobs)
    assert window.isVisible()


def test_the_question_is_answered_by_escape_with_cancel(desk: Desk, window: Window) -> None:
    from PySide6.QtCore import QTimer

    def press_escape() -> None:
        box = window.findChild(QMessageBox, "closing_question")
        assert box.defaultButton().text() == "Cancel"
        box.reject()

    QTimer.singleShot(50, window, press_escape)
    question = ClosingQuestion("support-triage is still under way.", "…", (ClosingChoice.STOP_AND_SAVE, ClosingChoice.KEEP_RUNNING))
    assert ask_closing(window, question) is ClosingChoice.CANCEL
