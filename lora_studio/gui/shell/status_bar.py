"""The status bar: the engine, the device, the jobs, the versions."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QPushButton, QStatusBar

from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import ElidedLabel, label, set_role


class StatusBar(QStatusBar):
    """Four texts; the jobs are a button that opens what happened.

    Signals:
        jobs_pressed: The jobs were pressed.
    """

    jobs_pressed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("status_bar")
        self.setSizeGripEnabled(False)
        self._dot = label("●", "note", "engine_dot")
        self._engine = ElidedLabel(tr("starting…"), "note", "engine_state")
        self._device = ElidedLabel("", "note", "device")
        self._jobs = QPushButton()
        self._jobs.setObjectName("jobs_button")
        self._jobs.setProperty("role", "status")
        self._jobs.setToolTip(tr("What happened, and what runs"))
        self._versions = ElidedLabel("", "note", "versions")
        self._jobs.clicked.connect(self.jobs_pressed)
        self.addWidget(self._dot)
        self.addWidget(self._engine)
        self.addWidget(self._device, 1)
        self.addPermanentWidget(self._jobs)
        self.addPermanentWidget(self._versions)
        self.setContentsMargins(10, 0, 10, 0)
        self.set_jobs(0, 0)

    def set_engine(self, text: str, role: str = "note") -> None:
        """Say what the engine does; `role` colours its dot: note, good, warning or error."""
        if text != self._engine.text():
            self._engine.setText(text)
        set_role(self._dot, role)

    def set_device(self, text: str) -> None:
        """Name the device and how it is."""
        if text != self._device.text():
            self._device.setText(text)

    def set_jobs(self, running: int, queued: int) -> None:
        """Count the jobs."""
        self._jobs.setText(tr("Jobs: {running} running, {queued} queued", running=running, queued=queued))

    def set_versions(self, text: str) -> None:
        """Name the versions of the engine's parts."""
        self._versions.setText(text)
