"""What nobody foresaw: every exception of every thread ends in one dialog that says what, means what, cures how."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QPlainTextEdit, QVBoxLayout, QWidget

from lora_studio import __version__
from lora_studio.core.errors import StudioError
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import label

_PACKAGES = ("torch", "transformers", "peft", "PySide6-Essentials", "pyqtgraph", "pydantic", "huggingface_hub", "safetensors", "numpy")
_SECRETS = (
    re.compile(r"\b(hf|api|sk|gh[pousr])_[A-Za-z0-9]{8,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{12,}"),
    re.compile(r"(?i)\b(authorization|bearer|token|password|secret|api[_-]?key)\b(\s*[:=]\s*|\s+)(?:bearer\s+)?['\"]?[^\s'\",;]{6,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def without_secrets(text: str) -> str:
    """Return text with everything that looks like a token, a password or a key replaced by ‹hidden›."""
    for pattern in _SECRETS:
        text = pattern.sub("‹hidden›", text)
    return text


def diagnostics(details: str = "") -> str:
    """Describe program, system and packages for a bug report; no token, no environment variable, no data."""
    import platform  # with the next, a tenth of the time to the first paint: only a report pays for it
    from importlib import metadata

    lines = [f"LoRA Studio {__version__}", f"Python {platform.python_version()} · {platform.platform()}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    lines.append(f"Qt platform: {QGuiApplication.platformName()}")
    return without_secrets("\n".join([*lines, "", details]).rstrip() + "\n")


class CrashDialog(QDialog):
    """Says what happened, what it means and what to do, with details to copy."""

    def __init__(self, error: BaseException, details: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("problem_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(tr("Something went wrong"))
        self._report = diagnostics(details)
        what, meaning, cure = explain(error)
        layout = QVBoxLayout(self)
        layout.setSpacing(10)
        layout.addWidget(label(what, "heading", "problem_what", wrap=True))
        layout.addWidget(label(meaning, "", "problem_meaning", wrap=True))
        layout.addWidget(label(cure, "", "problem_cure", wrap=True))
        self.details = QPlainTextEdit(self._report)
        self.details.setObjectName("problem_details")
        self.details.setProperty("role", "mono")
        self.details.setReadOnly(True)
        self.details.setAccessibleName(tr("Details"))
        layout.addWidget(self.details, 1)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        copy = buttons.addButton(tr("Copy details"), QDialogButtonBox.ButtonRole.ActionRole)
        copy.setObjectName("copy_details")
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._report))
        buttons.rejected.connect(self.reject)
        layout.addWidget(buttons)
        self.resize(620, 440)


def explain(error: BaseException) -> tuple[str, str, str]:
    """Say of an exception what happened, what it means and what to do."""
    if isinstance(error, StudioError):
        return error.message, tr("What was asked could not be done; nothing else is touched."), error.hint or tr("Change it and try again.")
    if isinstance(error, MemoryError):
        return tr("There is no memory left."), tr("The draft and all runs are safe on disk."), tr("Close other programs and try again.")
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return (
            tr("A file or folder could not be used: {reason}{place}.", reason=error.strerror or str(error), place=where),
            tr("The draft and all runs are safe on disk."),
            tr("Check that the place exists, may be written and has room, then try again."),
        )
    return (
        without_secrets(f"{type(error).__name__}: {error}"),
        tr("This is a mistake in LoRA Studio, not in what you did. The draft and all runs are safe on disk."),
        tr("You can go on. If it comes again, copy the details into a bug report."),
    )


class ExceptionHook(QObject):
    """Takes what falls through in any thread and shows it in the window's own.

    Signals:
        caught: An exception fell through (exception, details); sent from whatever thread it fell in.
    """

    caught = Signal(object, str)

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._window = window
        self._before: Hook = sys.excepthook
        self._before_in_thread = threading.excepthook
        self.dialog: CrashDialog | None = None
        self.caught.connect(self._show, Qt.ConnectionType.QueuedConnection)

    def install(self) -> None:
        """Take the hooks of Python and of its threads."""
        sys.excepthook = self._on_exception
        threading.excepthook = self._on_thread_exception

    def remove(self) -> None:
        """Put the hooks of before back."""
        sys.excepthook = self._before
        threading.excepthook = self._before_in_thread

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._before(kind, error, trace)
            return
        import traceback

        details = without_secrets("".join(traceback.format_exception(kind, error, trace)))
        sys.stderr.write(details)
        self.caught.emit(error, details)

    def _on_thread_exception(self, arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            self._on_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    def _show(self, error: BaseException, details: str) -> None:
        if self.dialog is not None:
            return  # one dialog at a time: a mistake in a timer would pile them up
        self.dialog = CrashDialog(error, details, self._window)
        self.dialog.destroyed.connect(self._forget)
        self.dialog.show()

    def _forget(self) -> None:
        self.dialog = None
