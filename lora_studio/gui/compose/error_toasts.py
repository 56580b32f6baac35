"""What the window tells in passing: errors a person can act on, what the draft announces, what happened."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject

from lora_studio.core.errors import StudioError
from lora_studio.gui.draft.draft_store import Announcement, DraftStore
from lora_studio.gui.engine.notifications import Notification, Notifications
from lora_studio.gui.platform.text import tr
from lora_studio.gui.shell.main_window import MainWindow


class ErrorToasts(QObject):
    """Shows toasts over a window."""

    def __init__(self, window: MainWindow, draft: DraftStore, notifications: Notifications) -> None:
        super().__init__(window)
        self.setObjectName("error_toasts")
        self._window = window
        self._draft = draft
        self._shown_error = ""
        draft.notice.connect(self._on_notice)
        draft.saved_changed.connect(self._on_saved)
        notifications.added.connect(self._on_notification)
        self._on_saved()

    def show_errors(self, action: Callable[[], object]) -> None:
        """Do something; an error a person can act on becomes a toast."""
        try:
            action()
        except StudioError as error:
            self._window.toasts.show("error", str(error))
        except OSError as error:
            self._window.toasts.show("error", tr("{path}: {reason}", path=error.filename or "", reason=error.strerror or str(error)))

    def _on_notice(self, notice: Announcement) -> None:
        self._window.toasts.show(notice.level, notice.text)

    def _on_saved(self) -> None:
        """Tell once why the draft is not saved."""
        error = self._draft.files.error
        if error and error != self._shown_error:
            self._window.toasts.show("error", error)
        self._shown_error = error

    def _on_notification(self, notification: Notification) -> None:
        toast = self._window.toasts.show(notification.level, notification.text, notification.action_text)
        if notification.action is not None:
            toast.action_clicked.connect(notification.action)
