"""Closing with a run alive: handed over to a process, with nothing of it lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QProgressDialog, QWidget

from lora_studio.core.config import RunConfig
from lora_studio.core.events import RunResumed, RunStarted, Step
from lora_studio.core.runs import RunFolder
from lora_studio.gui.runs import run_control
from lora_studio.gui.shell.close_guard import Closing, ClosingChoice, ClosingQuestion
from lora_studio.jobs.spec import JobSpec
from tests.gui.desk import Desk, ended_runs

TinyModel = Callable[[str], Path]
LONG = 50_000


class Window(QWidget):
    """A window that asks what a test answers, and notes what it was asked."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.choice = ClosingChoice.CANCEL
        self.asked: list[ClosingQuestion] = []
        self.closing = Closing(self, desk.jobs, desk.starter, self._answer)

    def closeEvent(self, event: QCloseEvent) -> None:
        event.setAccepted(self.closing.may_close())

    def close_with(self, choice: ClosingChoice) -> bool:
        self.choice = choice
        return self.close()

    def _answer(self, _parent: QWidget, question: ClosingQuestion) -> ClosingChoice:
        self.asked.append(question)
        return self.choice


@pytest.fixture
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_control, "TRAIN_TASK", "tests.gui.tasks:train")


@pytest.fixture(autouse=True)
def no_child_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the runs that outlive a test's window, and their processes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    with ended_runs():
        yield


@pytest.fixture
def window(desk: Desk, no_child_left: None) -> Iterator[Window]:
    made = Window(desk)
    made.show()
    yield made
    desk.jobs.close()
    made.close()
    made.deleteLater()


def training(desk: Desk, step: int = 1) -> None:
    desk.until(lambda: desk.run_view.state == "running" and desk.run_view.history.step >= step)


def start(desk: Desk, steps: int = LONG) -> RunFolder:
    desk.workspace.draft.edit({"training.max_steps": steps}, "steps")
    return RunFolder(desk.starter.start_run())


@pytest.mark.usefixtures("quick_training")
def test_a_run_in_the_window_can_be_saved_or_handed_over(desk: Desk, window: Window) -> None:
    start(desk)
    training(desk)
    assert not window.close_with(ClosingChoice.CANCEL)
    assert window.asked[0].choices == (ClosingChoice.STOP_AND_SAVE, ClosingChoice.KEEP_RUNNING)
    assert desk.run_view.state == "running"


def test_a_merge_cannot_be_handed_over(desk: Desk, window: Window) -> None:
    job = desk.jobs.start(JobSpec("tests.gui.tasks:wait", title="Merge", device=True))
    desk.until(lambda: job.state == "running")
    window.close_with(ClosingChoice.CANCEL)
    assert window.asked[0].choices == (ClosingChoice.STOP_AND_SAVE,)


@pytest.mark.usefixtures("quick_training")
def test_a_run_in_a_process_goes_on_without_a_question(desk: Desk, window: Window) -> None:
    desk.starter.set_host("process")
    run = start(desk)
    training(desk)
    assert window.close_with(ClosingChoice.CANCEL)
    assert window.asked == []
    desk.jobs.close()
    assert run.state == "running"


@pytest.mark.usefixtures("quick_training")
def test_a_queue_that_will_not_start_is_asked_about_even_where_the_run_goes_on(desk: Desk, window: Window) -> None:
    desk.starter.set_host("process")
    start(desk)
    training(desk)
    waiting = start(desk)
    assert not window.close_with(ClosingChoice.CANCEL)
    assert window.asked[0].text == "support-triage goes on in its own process."
    assert window.asked[0].details.startswith("1 run in the queue will not start")
    assert window.close_with(ClosingChoice.CLOSE)
    desk.jobs.close()
    assert waiting.state == "new"


@pytest.mark.usefixtures("quick_training")
def test_the_window_closes_when_the_child_has_the_run(desk: Desk, window: Window) -> None:
    run = start(desk)
    training(desk, 6)
    assert not window.close_with(ClosingChoice.KEEP_RUNNING)
    assert window.findChild(QProgressDialog, "saving_dialog").labelText() == "Handing over support-triage to a process of its own…"
    desk.until(lambda: not window.isVisible())
    assert desk.run_view.in_own_process
    assert run.state == "running"
    desk.jobs.close()
    assert run.state == "running"
    desk.until(lambda: any(isinstance(event, RunResumed) for event in run.events()))


@pytest.mark.usefixtures("quick_training")
def test_a_paused_run_is_handed_over_paused(desk: Desk, window: Window) -> None:
    run = start(desk)
    training(desk, 6)
    desk.starter.pause()
    desk.until(lambda: desk.run_view.state == "paused")
    window.close_with(ClosingChoice.KEEP_RUNNING)
    desk.until(lambda: not window.isVisible())
    desk.until(lambda: desk.run_view.state == "paused" and desk.run_view.pid is not None)
    assert list(run.events())[-1].attempt == 2


@pytest.mark.usefixtures("quick_training")
def test_a_hand_over_taken_back_leaves_the_run_in_the_window(desk: Desk, window: Window) -> None:
    run = start(desk)
    training(desk, 6)
    window.close_with(ClosingChoice.KEEP_RUNNING)
    window.findChild(QProgressDialog, "saving_dialog").canceled.emit()
    desk.until(lambda: any(isinstance(event, RunResumed) for event in run.events()))
    training(desk)
    assert window.isVisible()
    assert not desk.run_view.in_own_process
    assert not window.closing.is_waiting


@pytest.mark.usefixtures("quick_training")
def test_the_run_that_is_handed_over_goes_before_the_queue(desk: Desk, window: Window) -> None:
    start(desk)
    training(desk, 6)
    waiting = start(desk)
    window.close_with(ClosingChoice.KEEP_RUNNING)
    desk.until(lambda: not window.isVisible())
    desk.jobs.close()
    assert waiting.state == "new"


@pytest.mark.usefixtures("quick_training")
def test_saving_taken_back_lets_the_queue_go_on(desk: Desk, window: Window) -> None:
    start(desk)
    training(desk)
    waiting = start(desk, steps=3)
    window.close_with(ClosingChoice.STOP_AND_SAVE)
    window.findChild(QProgressDialog, "saving_dialog").canceled.emit()
    desk.until(lambda: waiting.state == "finished")
    assert window.isVisible()


@pytest.mark.usefixtures("quick_training")
def test_a_process_that_cannot_start_keeps_the_window_and_the_run_can_be_resumed(
    desk: Desk, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_studio.jobs.process.child_command", lambda _spec: ["/nowhere/python"])
    run = start(desk)
    training(desk, 6)
    window.close_with(ClosingChoice.KEEP_RUNNING)
    desk.until(lambda: not window.closing.is_waiting)
    assert window.isVisible()
    assert desk.run_view.can_resume
    assert run.checkpoints


def test_a_run_that_was_handed_over_ends_bit_for_bit_as_one_that_was_not(
    desk: Desk, window: Window, tiny_model: TinyModel, chat_rows: Path
) -> None:
    config = RunConfig().replace(
        {
            "name": "moved",
            "model.name_or_path": str(tiny_model("llama")),
            "data.train": (str(chat_rows),),
            "data.max_length": 128,
            "adapter.lora_dropout": 0.2,
            "adapter.target_modules": ("q_proj", "v_proj"),
            "training.max_steps": 24,
            "training.per_device_train_batch_size": 2,
            "training.gradient_accumulation_steps": 2,
            "training.sample_rows": 0,
            "training.device": "cpu",
        }
    )
    whole = RunFolder(desk.starter.start_new(config, "thread"))
    desk.until(lambda: whole.state == "finished" and not desk.jobs.jobs, timeout=120_000)
    moved = RunFolder(desk.starter.start_new(config, "thread"))
    desk.until(lambda: desk.run_view.path == moved.path and desk.run_view.history.step >= 2, timeout=60_000)
    window.close_with(ClosingChoice.KEEP_RUNNING)
    desk.until(lambda: not window.isVisible(), timeout=60_000)
    desk.until(lambda: moved.state == "finished", timeout=120_000)
    attempts = {event.attempt for event in moved.events() if isinstance(event, Step)}
    assert attempts == {1, 2}
    assert [event for event in moved.events() if isinstance(event, RunStarted)]
    assert adapter_bytes(moved) == adapter_bytes(whole)


def adapter_bytes(run: RunFolder) -> bytes:
    return (run.adapter_path / "adapter_model.safetensors").read_bytes()
