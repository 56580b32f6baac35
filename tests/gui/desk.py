"""A workspace with its jobs and its shown run, without the window around them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from lora_studio.core.config import RunConfig
from lora_studio.core.events import RunEvent, event_to_json
from lora_studio.core.paths import studio_paths
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from lora_studio.gui.draft.workspace import Workspace, open_workspace
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.jobs.mailbox import send_request


@dataclass
class Answers(FileDialogs):
    """Answers at once what a person would be asked, and notes what it was asked."""

    file: Path | None = None
    files: list[Path] | None = None
    folder: Path | None = None
    saved: Path | None = None
    yes: bool = True
    asked: list[str] = field(default_factory=list)
    shown: list[Path] = field(default_factory=list)

    def open_file(self, parent: QWidget | None, title: str, start: Path, filters: object = ()) -> Path | None:
        self.asked.append(title)
        return self.file

    def open_files(self, parent: QWidget | None, title: str, start: Path, filters: object = ()) -> list[Path] | None:
        self.asked.append(title)
        return self.files

    def open_folder(self, parent: QWidget | None, title: str, start: Path) -> Path | None:
        self.asked.append(title)
        return self.folder

    def save_file(self, parent: QWidget | None, title: str, suggestion: Path, filters: object = ()) -> Path | None:
        self.asked.append(title)
        return self.saved

    def confirm(self, parent: QWidget | None, title: str, text: str, yes: str) -> bool:
        self.asked.append(title)
        return self.yes

    def show_folder(self, folder: Path) -> bool:
        self.shown.append(folder)
        return True


@dataclass
class Desk:
    """What pages are given."""

    qtbot: QtBot
    jobs: JobCenter
    workspace: Workspace
    run_view: ShownRun
    starter: RunControl
    queue: RunQueue
    answers: Answers
    notices: list[tuple[str, str]]

    @classmethod
    def make(cls, qtbot: QtBot) -> Desk:
        jobs = JobCenter()
        workspace = open_workspace(jobs)
        run_view = ShownRun(jobs)
        notices: list[tuple[str, str]] = []
        workspace.draft.notice.connect(lambda notice: notices.append((notice.level, notice.text)))
        starter = RunControl(workspace, jobs, run_view)
        return cls(qtbot, jobs, workspace, run_view, starter, RunQueue(jobs, starter), Answers(), notices)

    def close(self) -> None:
        self.jobs.close()
        self.workspace.draft.close()
        for owner in (self.workspace.draft, self.run_view, self.queue, self.starter, self.jobs):
            owner.deleteLater()

    def until(self, condition: Callable[[], object], timeout: int = 20_000) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=timeout)

    def shown(self, page: QWidget, width: int = 760, height: int = 800) -> QWidget:
        """Show a page, to be closed with the test."""
        self.qtbot.addWidget(page)
        page.resize(width, height)
        with self.qtbot.waitExposed(page):
            page.show()
        return page

    def past_run(self, events: list[RunEvent], **changes: object) -> RunFolder:
        """Make a run's folder with these events, as a run of yesterday left it."""
        folder = RunStore(studio_paths().runs).create(RunConfig().replace({"name": "yesterday", **changes}))
        lines = [event_to_json(event.model_copy(update={"seq": number, "time": 1e9 + number})) for number, event in enumerate(events)]
        folder.events_path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder


@contextlib.contextmanager
def ended_runs() -> Generator[None]:
    """End the runs that outlive a block, and see that no process of theirs is left."""
    before = set(psutil.Process().children())
    yield
    for run in RunStore(studio_paths().runs).list():
        if run.state == "running":
            send_request(RunFolder(run.path).control_path, "abandon")
    _gone, alive = psutil.wait_procs([child for child in psutil.Process().children() if child not in before], timeout=20)
    assert not alive
