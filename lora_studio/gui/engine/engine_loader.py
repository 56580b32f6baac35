"""Loads torch, transformers and peft behind the window's back, and says so in the status bar."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from lora_studio.core.events import LastEvent, RunFailed
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.platform.text import tr
from lora_studio.jobs.spec import JobSpec

ENGINE_TASK = "lora_studio.models.engine:load_engine"


class EngineLoader(QObject):
    """Starts the import once, after the plots are up.

    Signals:
        changed: `text` or `ready` is another.
    """

    changed = Signal()

    def __init__(self, jobs: JobCenter, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("engine_loader")
        self._jobs = jobs
        self._started = False
        self._ready = False
        self._text = ""
        self._device = ""

    @property
    def ready(self) -> bool:
        """Whether the engine is in memory."""
        return self._ready

    @property
    def text(self) -> str:
        """For the status bar: nothing, "engine loading…", the versions, or why there is no engine."""
        return self._text

    @property
    def device(self) -> str:
        """Name of the device `auto` takes; empty until the engine is in memory."""
        return self._device

    def start(self) -> None:
        """Load the engine; a second call does nothing."""
        if self._started:
            return
        self._started = True
        self._show(tr("engine loading…"))
        self._jobs.start(JobSpec(ENGINE_TASK, title=tr("Load the engine")), on_done=self._on_done)

    def _on_done(self, last: LastEvent) -> None:
        if isinstance(last, RunFailed):
            self._show(tr("no engine: {message}", message=last.message))
            return
        self._ready = True
        self._device = str(last.result.get("device_name", ""))
        parts = ("torch", "transformers", "peft")
        self._show(" · ".join(f"{name} {str(last.result[name]).partition('+')[0]}" for name in parts if name in last.result))

    def _show(self, text: str) -> None:
        self._text = text
        self.changed.emit()
