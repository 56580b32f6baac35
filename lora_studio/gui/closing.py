"""Closing the window while something lives: ask, save, and only then go."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QMessageBox, QProgressDialog, QWidget

from lora_studio.gui.job_center import JobCenter
from lora_studio.gui.text import tr
from lora_studio.jobs.job import Job


class ClosingChoice(Enum):
    """What a person wants of the jobs that live."""

    STOP_AND_SAVE = "stop and save"
    CANCEL = "cancel"


AskClosing = Callable[[QWidget, str, str], ClosingChoice]


def ask_closing(parent: QWidget, text: str, details: str) -> ClosingChoice:
    """Ask with a modal box whose safe answer is the default."""
    box = QMessageBox(QMessageBox.Icon.Question, tr("Close LoRA Studio?"), text, QMessageBox.StandardButton.NoButton, parent)
    box.setObjectName("closing_question")
    box.setInformativeText(details)
    stop = box.addButton(tr("Stop and save"), QMessageBox.ButtonRole.AcceptRole)
    cancel = box.addButton(tr("Cancel"), QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(cancel)
    box.setEscapeButton(cancel)
    box.exec()
    return ClosingChoice.STOP_AND_SAVE if box.clickedButton() is stop else ClosingChoice.CANCEL


class Closing(QObject):
    """Decides whether the window may close now, and closes it later when it may not yet."""

    def __init__(self, window: QWidget, jobs: JobCenter, ask: AskClosing = ask_closing) -> None:
        super().__init__(window)
        self._window = window
        self._jobs = jobs
        self._ask = ask
        self._saving: QProgressDialog | None = None
        jobs.jobs_changed.connect(self._on_jobs_changed)

    @property
    def is_saving(self) -> bool:
        """Whether the window waits for jobs to save before it closes."""
        return self._saving is not None

    def may_close(self) -> bool:
        """Call this in `closeEvent`: True lets the window go; False keeps it, for now or for good.

        After "Stop and save" the window closes by itself when the last job has ended.
        """
        if self._saving is not None:
            return False
        worth = self._worth_asking()
        if not worth:
            return True
        if self._ask(self._window, self._text(worth), self._details(worth)) is ClosingChoice.STOP_AND_SAVE:
            self._stop_and_wait()
        return not self._worth_asking() and self._saving is None

    def _worth_asking(self) -> list[Job]:
        """Jobs whose end would lose something: runs and whatever else holds the device, such as a merge."""
        return list(self._jobs.device_jobs)

    @staticmethod
    def _text(jobs: list[Job]) -> str:
        titles = ", ".join(job.spec.title for job in jobs if job.state != "queued") or jobs[0].spec.title
        return tr("{titles} is still under way.", titles=titles)

    @staticmethod
    def _details(jobs: list[Job]) -> str:
        told = tr("Stop and save keeps every step taken in a checkpoint; the run can be resumed later.")
        waiting = sum(job.state == "queued" for job in jobs)
        return told + (tr(" {count} in the queue will not start.", count=waiting) if waiting else "")

    def _stop_and_wait(self) -> None:
        dialog = QProgressDialog(tr("Saving…"), tr("Keep the window open"), 0, 0, self._window)
        dialog.setObjectName("saving_dialog")
        dialog.setWindowTitle(tr("Saving…"))
        dialog.setMinimumDuration(0)
        dialog.canceled.connect(self._keep_open)
        self._saving = dialog
        dialog.show()
        for job in reversed(self._worth_asking()):  # the queue first, or the next in it would start
            job.control.stop()
        self._on_jobs_changed()

    def _keep_open(self) -> None:
        """The jobs stop all the same; the window stays."""
        dialog, self._saving = self._saving, None
        if dialog is not None:
            dialog.deleteLater()

    def _on_jobs_changed(self) -> None:
        if self._saving is not None and not self._worth_asking():
            dialog, self._saving = self._saving, None
            dialog.canceled.disconnect(self._keep_open)
            dialog.close()
            dialog.deleteLater()
            self._window.close()
