"""`build` puts a window's services together: the draft, the jobs, the shown run, panels, pages, and what the actions do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QObject

from lora_studio.gui.compose.draft_actions import DraftActions
from lora_studio.gui.compose.error_toasts import ErrorToasts
from lora_studio.gui.compose.open_actions import OpenActions
from lora_studio.gui.compose.pages import Pages
from lora_studio.gui.compose.run_actions import RunActions
from lora_studio.gui.compose.shutdown import Shutdown
from lora_studio.gui.compose.side_panels import SidePanels
from lora_studio.gui.draft.workspace import Workspace, open_workspace
from lora_studio.gui.engine.engine_loader import EngineLoader
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.engine.notifications import Notifications
from lora_studio.gui.export.adapter_import import AdapterImport
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.run_news import RunNews
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.close_guard import Closing
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.shell.status_feed import StatusFeed


@dataclass(frozen=True)
class Services:
    """Everything behind a window that has painted; the window owns it.

    Attributes:
        window: The window.
        workspace: The draft, and what follows from it.
        jobs: What runs.
        engine: Loads torch and what comes with it.
        run_view: The run that is shown.
        starter: Makes runs of the draft.
        queue: The jobs that wait for the device.
        notifications: What happened.
        adapter_import: Takes in adapters made elsewhere.
        opening: Opens what is dropped, named or chosen.
        pages: The pages, once they are made.
        close: Saves the draft and the window's look, stops and joins what runs; does nothing the second time.
    """

    window: MainWindow
    workspace: Workspace
    jobs: JobCenter
    engine: EngineLoader
    run_view: ShownRun
    starter: RunControl
    queue: RunQueue
    notifications: Notifications
    adapter_import: AdapterImport
    opening: OpenActions
    pages: Pages
    close: Callable[[], None]

    def begin(self) -> None:
        """Let the engine load and what needs it start."""
        self.engine.start()
        self.workspace.model.begin()


def build(window: MainWindow, dialogs: FileDialogs | None = None) -> Services:
    """Fill a window: panels at once, pages when `pages.make` is called.

    Args:
        window: A window that has painted.
        dialogs: Asks for files; None for the system's own dialogs.
    """
    dialogs = dialogs or FileDialogs()
    owner = QObject(window)
    owner.setObjectName("services")
    jobs = JobCenter(owner)
    workspace = open_workspace(jobs, owner)
    run_view = ShownRun(jobs, owner)
    starter = RunControl(workspace, jobs, run_view, owner)
    starter.set_host("process" if window.state.host == "process" else "thread")
    queue = RunQueue(jobs, starter, owner)
    engine = EngineLoader(jobs, owner)
    notifications = Notifications(jobs, owner)
    toasts = ErrorToasts(window, workspace.draft, notifications)
    adapter_import = AdapterImport(window, jobs, notifications, dialogs, owner)
    StatusFeed(window, workspace, jobs, run_view, engine)
    panels = SidePanels(window, workspace, jobs, run_view, dialogs)
    pages = Pages(window, workspace, jobs, run_view, starter, queue, adapter_import, dialogs, toasts)
    draft = DraftActions(window, workspace, run_view, dialogs, toasts)
    opening = OpenActions(window, workspace, run_view, starter, adapter_import, dialogs, toasts)
    runs = RunActions(window, workspace, run_view, starter, pages, toasts)
    for commands in (draft.commands(), opening.commands(), runs.commands()):
        window.actions_.register(commands)
    for changed in (run_view.changed, starter.changed, workspace.readiness.changed, workspace.draft.undo_stack.indexChanged):
        changed.connect(window.actions_.refresh)
    window.header.bind(workspace, starter, panels.budget, runs.start)
    window.reset_button.clicked.connect(draft.reset_to_run)
    news = RunNews(notifications, starter, queue, run_view, opening.show_run, toasts.show_errors, owner)
    pages.ready_for_runs.connect(lambda: _find_runs(window, news))
    closing = Closing(window, jobs, starter)
    closing.handing_over.connect(notifications.keep_quiet)
    shutdown = Shutdown(window, workspace, jobs, run_view, starter, queue)
    window.guard_closing(closing.may_close, shutdown.close)
    return Services(
        window, workspace, jobs, engine, run_view, starter, queue, notifications, adapter_import, opening, pages, shutdown.close
    )


def _find_runs(window: MainWindow, news: RunNews) -> None:
    """See what went on, and what waited, while no window was open."""
    news.find_living(window.state.run)
    news.tell_left_over(window.state.queue)
