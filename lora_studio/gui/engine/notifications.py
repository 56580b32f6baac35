"""What happened, kept: the result of every job, newest first, after its toast is gone."""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from lora_studio.core.events import LastEvent, RunFailed, RunStopped
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.formatting import format_when
from lora_studio.gui.platform.text import tr
from lora_studio.jobs.job import Job

Level = Literal["info", "good", "warning", "error"]
Index = QModelIndex | QPersistentModelIndex
_MOST = 200


@dataclass(frozen=True)
class Notification:
    """One thing that happened.

    Attributes:
        details: A traceback to copy; empty for what was foreseen.
        action_text: What a person may do about it, as a button; empty for nothing.
    """

    level: Level
    text: str
    details: str = ""
    action_text: str = ""
    action: Callable[[], None] | None = None
    time: float = field(default_factory=clock.time)


class Notifications(QAbstractListModel):
    """The list; `added` is the moment for a toast.

    Signals:
        added: A notification came; carries it.
    """

    added = Signal(object)

    def __init__(self, jobs: JobCenter, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("notifications")
        self._entries: list[Notification] = []
        self._quiet: set[str] = set()
        jobs.ended.connect(self._on_job_ended)

    @property
    def entries(self) -> tuple[Notification, ...]:
        """Newest first."""
        return tuple(self._entries)

    def keep_quiet(self, job: Job) -> None:
        """Leave this job's good end out: whoever started it shows the result itself. A failure is told all the same."""
        self._quiet.add(job.id)

    def add(self, notification: Notification) -> None:
        """Put one at the head of the list, and tell it."""
        self.beginInsertRows(QModelIndex(), 0, 0)
        self._entries.insert(0, notification)
        self.endInsertRows()
        if len(self._entries) > _MOST:
            self.beginRemoveRows(QModelIndex(), _MOST, len(self._entries) - 1)
            del self._entries[_MOST:]
            self.endRemoveRows()
        self.added.emit(notification)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008  Qt's own signature
        """Count the notifications."""
        return 0 if parent.isValid() else len(self._entries)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Return a row as text, its details as tooltip, itself as user data."""
        entry = self._entries[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{format_when(entry.time)}  {entry.text}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return entry.details or entry.text
        return entry if role == Qt.ItemDataRole.UserRole else None

    def _on_job_ended(self, job: Job, last: LastEvent) -> None:
        """Tell how runs and exports ended; small helpers, such as counting tokens, show theirs where they were asked for."""
        quiet = job.id in self._quiet
        self._quiet.discard(job.id)
        title = job.spec.title
        if isinstance(last, RunFailed):
            if job.spec.device or last.details:
                self.add(Notification("error", f"{title}: {last.message} {last.hint}".strip(), last.details))
        elif quiet or not job.spec.device or not job.began:  # one that was taken out of the queue says nothing of its own
            return
        elif isinstance(last, RunStopped):
            self.add(Notification("warning", tr("{title} stopped", title=title)))
        else:
            self.add(Notification("good", tr("{title} finished", title=title)))
