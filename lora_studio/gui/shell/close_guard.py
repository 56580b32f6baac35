"""Closing the window while something lives: ask, save or hand over, and only then go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtWidgets import QMessageBox, QProgressDialog, QWidget

from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.hand_over import HandOver
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.jobs.job import Job


class ClosingChoice(Enum):
    """What a person wants of the jobs that live."""

    STOP_AND_SAVE = "stop and save"
    KEEP_RUNNING = "keep running"
    CLOSE = "close"
    CANCEL = "cancel"


@dataclass(frozen=True)
class ClosingQuestion:
    """What closing would end, and what can be done about it.

    Attributes:
        text: What is under way, as a sentence.
        details: What each way of closing does.
        choices: The ways, the recommended one first; cancelling is always possible.
    """

    text: str
    details: str
    choices: tuple[ClosingChoice, ...]


AskClosing = Callable[[QWidget, ClosingQuestion], ClosingChoice]


def ask_closing(parent: QWidget, question: ClosingQuestion) -> ClosingChoice:
    """Ask with a modal box whose safe answer is the default."""
    box = QMessageBox(QMessageBox.Icon.Question, tr("Close LoRA Studio?"), question.text, QMessageBox.StandardButton.NoButton, parent)
    box.setObjectName("closing_question")
    box.setInformativeText(question.details)
    titles = {
        ClosingChoice.STOP_AND_SAVE: tr("Stop and save"),
        ClosingChoice.KEEP_RUNNING: tr("Keep running in a process"),
        ClosingChoice.CLOSE: tr("Close"),
    }
    buttons = {box.addButton(titles[choice], QMessageBox.ButtonRole.AcceptRole): choice for choice in question.choices}
    cancel = box.addButton(tr("Cancel"), QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(cancel)
    box.setEscapeButton(cancel)
    box.exec()
    return next((choice for button, choice in buttons.items() if button is box.clickedButton()), ClosingChoice.CANCEL)


class Closing(QObject):
    """Decides whether the window may close now, and closes it later when it may not yet.

    Runs in processes of their own go on, so nothing is asked about them: the person chose that when they were started, and
    the next window finds them.

    Signals:
        handing_over: A run is about to stop here, to go on in a process; carries its job.
    """

    handing_over = Signal(object)

    def __init__(self, window: QWidget, jobs: JobCenter, starter: RunControl, ask: AskClosing = ask_closing) -> None:
        super().__init__(window)
        self._window = window
        self._jobs = jobs
        self._starter = starter
        self._ask = ask
        self._agreed = False
        self._dialog: QProgressDialog | None = None
        self._hand_over: HandOver | None = None
        jobs.jobs_changed.connect(self._on_jobs_changed)

    @property
    def is_waiting(self) -> bool:
        """Whether the window waits for a run to be saved or handed over before it closes."""
        return self._dialog is not None

    def may_close(self) -> bool:
        """Call this in `closeEvent`: True lets the window go; False keeps it, for now or for good.

        After "Stop and save" and "Keep running" the window closes by itself when that is done.
        """
        if self.is_waiting:
            return False
        question = None if self._agreed else self._question()
        if question is None:
            return True
        match self._ask(self._window, question):
            case ClosingChoice.STOP_AND_SAVE:
                self._stop_and_wait()
            case ClosingChoice.KEEP_RUNNING:
                self._hand_on()
            case ClosingChoice.CLOSE:
                return True
            case ClosingChoice.CANCEL:
                return False
        return self._agreed

    def _at_work(self) -> list[Job]:
        """Jobs on the device that end with the window: a run in its thread, or something else there, such as a merge."""
        return [job for job in self._jobs.device_jobs if job.state != "queued" and not job.spec.survives]

    def _question(self) -> ClosingQuestion | None:
        """Make the question; None where nothing would be lost and nothing be left waiting."""
        at_work, waiting = self._at_work(), len(self._jobs.queue)
        if not at_work and not waiting:
            return None
        reported = [*self._ways(at_work), *([self._what_waits()] if waiting else [])]
        return ClosingQuestion(self._text(at_work), "\n\n".join(reported), self._choices(at_work))

    def _text(self, at_work: list[Job]) -> str:
        goes_on = ", ".join(job.spec.title for job in self._jobs.device_jobs if job.state != "queued" and job.spec.survives)
        if at_work:
            return tr("{titles} is still under way.", titles=", ".join(job.spec.title for job in at_work))
        return tr("{titles} goes on in its own process.", titles=goes_on) if goes_on else tr("A job is about to start.")

    def _what_waits(self) -> str:
        queue = self._jobs.queue
        if any(job.spec.run_dir is None for job in queue):
            return tr("{count} jobs in the queue will not start; the runs among them are kept and can be started later.", count=len(queue))
        if len(queue) == 1:
            return tr("1 run in the queue will not start; it is kept and can be started later.")
        return tr("{count} runs in the queue will not start; they are kept and can be started later.", count=len(queue))

    @staticmethod
    def _choices(at_work: list[Job]) -> tuple[ClosingChoice, ...]:
        if not at_work:
            return (ClosingChoice.CLOSE,)
        can_move = [job for job in at_work if job.spec.run_dir is not None]
        return (ClosingChoice.STOP_AND_SAVE, ClosingChoice.KEEP_RUNNING) if can_move else (ClosingChoice.STOP_AND_SAVE,)

    @staticmethod
    def _ways(at_work: list[Job]) -> list[str]:
        if not at_work:
            return []
        if all(job.spec.run_dir is None for job in at_work):
            return [tr("It is stopped, and nothing half-written is left.")]
        return [
            tr("Stop and save keeps every step taken in a checkpoint; the run can be resumed later."),
            tr("Keep running saves it too, and goes on from there in a process of its own; the next window finds it."),
        ]

    def _stop_and_wait(self) -> None:
        self._show_dialog(tr("Saving…"), self._keep_open)
        self._jobs.hold_back()  # or the next in the queue would start
        for job in self._at_work():
            job.control.stop()
        self._on_jobs_changed()

    def _hand_on(self) -> None:
        job = next(job for job in self._at_work() if job.spec.run_dir is not None)
        self._show_dialog(tr("Handing over {title} to a process of its own…", title=job.spec.title), self._take_back)
        self._hand_over = HandOver(self._jobs, self._starter, job, self)
        self._hand_over.done.connect(self._go)
        self._hand_over.failed.connect(self._stay)
        self.handing_over.emit(job)
        self._hand_over.begin()

    def _show_dialog(self, text: str, cancel: Callable[[], None]) -> None:
        dialog = QProgressDialog(text, tr("Keep the window open"), 0, 0, self._window)
        dialog.setObjectName("saving_dialog")
        dialog.setWindowTitle(text)
        dialog.setWindowModality(Qt.WindowModality.WindowModal)
        dialog.setMinimumDuration(0)
        dialog.canceled.connect(cancel)
        self._dialog = dialog
        dialog.show()

    def _hide_dialog(self) -> None:
        dialog, self._dialog = self._dialog, None
        if dialog is not None:
            dialog.canceled.disconnect()
            dialog.close()
            dialog.deleteLater()

    def _keep_open(self) -> None:
        """The run stops all the same; the window stays, and so does the queue."""
        self._hide_dialog()
        self._jobs.hold_back(False)

    def _take_back(self) -> None:
        """The window stays; the run goes on here, or in its process where it has one already."""
        if self._hand_over is not None:
            self._hand_over.take_back()
            self._hand_over.done.disconnect(self._go)
            self._hand_over.failed.disconnect(self._stay)
            self._hand_over = None
        self._hide_dialog()

    def _stay(self, _why: str) -> None:
        """The hand-over failed, which the run's own end has told: the window stays, where the run can be resumed."""
        self._hand_over = None
        self._hide_dialog()

    def _go(self) -> None:
        self._agreed = True
        self._hand_over = None
        self._hide_dialog()
        self._window.close()

    def _on_jobs_changed(self) -> None:
        if self.is_waiting and self._hand_over is None and not self._at_work():
            self._go()
