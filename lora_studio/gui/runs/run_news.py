"""What a person should hear of runs that are not in front: found alive, come to their turn, taken out, left over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject

from lora_studio.core.config import RunConfig
from lora_studio.gui.engine.job_center import HostName
from lora_studio.gui.engine.notifications import Notification, Notifications
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs.shown_run import ShownRun

ShowErrors = Callable[[Callable[[], object]], None]
Show = Callable[[Path], object]


class RunNews(QObject):
    """Turns them into notifications, with what can be done as a button.

    Args:
        notifications: Where they are kept.
        starter: Starts and follows runs.
        queue: The runs that wait.
        run_view: The run that is shown.
        show: Brings a run and its page to the front.
        show_errors: Does something that may fail for a reason a person can act on, and tells that.
        parent: Its owner.
    """

    def __init__(
        self,
        notifications: Notifications,
        starter: RunControl,
        queue: RunQueue,
        run_view: ShownRun,
        show: Show,
        show_errors: ShowErrors,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("run_news")
        self._notifications = notifications
        self._starter = starter
        self._queue = queue
        self._run_view = run_view
        self._show = show
        self._show_errors = show_errors
        queue.began.connect(self._on_began)
        queue.removed.connect(self._on_removed)

    def find_living(self, remembered: str) -> None:
        """Follow the runs that are alive in processes and show the newest, unless a person asked for another than the remembered one."""
        living: list[Path] = []
        self._show_errors(lambda: living.extend(self._starter.follow_living()))
        if not living:
            return
        if self._run_view.path in (None, Path(remembered)) and self._run_view.path != living[0]:
            self._show_errors(lambda: self._run_view.open(living[0]))
        for path in reversed(living):  # the newest last, on top
            self._tell(tr("{run} went on in a process of its own", run=path.name), tr("Show"), lambda at=path: self._show(at))

    def tell_left_over(self, folders: tuple[str, ...]) -> None:
        """Tell of queued runs that did not begin when the window was closed."""
        count = sum(self._queue.can_start(folder) for folder in folders)
        if count:
            text = (
                tr("1 run waited in the queue when the window was closed")
                if count == 1
                else tr("{count} runs waited in the queue when the window was closed", count=count)
            )
            self._tell(text, tr("Start") if count == 1 else tr("Start them"), lambda: self._queue.start_again(folders))

    def _on_began(self, path: Path, name: str) -> None:
        """The run that is shown stays: a person may be reading it."""
        if self._run_view.path != path:
            self._tell(tr("{name} trains now", name=name), tr("Show"), lambda: self._show(path))

    def _on_removed(self, config: RunConfig, host: HostName) -> None:
        text = tr("{name} was removed from the queue", name=config.name)
        self._tell(text, tr("Put back"), lambda: self._starter.start_new(config, host))

    def _tell(self, text: str, cure: str, action: Callable[[], object]) -> None:
        self._notifications.add(Notification("info", text, "", cure, lambda: self._show_errors(action)))
