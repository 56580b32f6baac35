"""The bar above Train: the run's state and settings, and what can be done with it. It names the run's config, never the draft's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QMenu, QPushButton, QSizePolicy, QToolButton, QWidget

from lora_studio.core.config import RunConfig, field_info
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.shown_run import LIVE_STATES, ShownRun, ShownState
from lora_studio.gui.widgets import ElidedLabel, label, set_role

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace

TONES: dict[ShownState, str] = {
    "running": "good",
    "finished": "good",
    "failed": "error",
    "interrupted": "warning",
    "stopped": "warning",
    "stopping": "warning",
    "abandoning": "warning",
    "paused": "warning",
}

_WIDE = 1 << 16  # pixels: room for everything, while nobody can see that there is none


def state_text(state: ShownState) -> str:
    """Name a run's state in one word or two."""
    return {
        "none": tr("No run"),
        "new": tr("Not started"),
        "waiting": tr("Waiting"),
        "loading": tr("Loading"),
        "running": tr("Running"),
        "paused": tr("Paused"),
        "stopping": tr("Stopping"),
        "abandoning": tr("Stopping"),
        "finished": tr("Finished"),
        "stopped": tr("Stopped"),
        "failed": tr("Failed"),
        "interrupted": tr("Interrupted"),
    }[state]


def settings_text(config: RunConfig) -> str:
    """Return what tells runs apart: rank, alpha, and the base's dtype where it was chosen."""
    adapter = config.adapter
    short = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(config.model.dtype)
    return " · ".join([f"r {adapter.r}", f"α {adapter.lora_alpha:g}", *([short] if short else [])])


def place_text(pid: int | None) -> str:
    """Name the place of a run that lives in a process of its own."""
    return tr("own process") if pid is None else tr("process {pid}", pid=pid)


def different_fields(run: RunConfig, draft: RunConfig) -> list[str]:
    """Name the paths at which the draft differs from the run, the name apart: it decides nothing."""
    return [path for path in run.differences(draft) if path != "name"]


class RunBar(QFrame):
    """One line: dot, state, run, settings, where it lives, difference to the draft, buttons.

    Signals:
        export_requested: Export… was pressed.
        merge_requested: Merge… was pressed.
        resume_requested: Resume was pressed.
    """

    export_requested = Signal()
    merge_requested = Signal()
    resume_requested = Signal()

    def __init__(self, workspace: Workspace, run_view: ShownRun, starter: RunControl, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("run_bar")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self._workspace = workspace
        self._run_view = run_view
        self._starter = starter
        self._differing = 0
        self._fitted: tuple[object, ...] = ()
        self._build()
        self._connect()
        self.refresh()

    def refresh(self) -> None:
        """Show the run as it is now."""
        state, config = self._run_view.state, self._run_view.config
        self.setVisible(config is not None)
        self._show_state(state)
        self._name.setText(self._run_view.name)
        self._settings.setText(settings_text(config) if config else "")
        self._show_place()
        self._show_buttons(state)
        self._show_differences()

    def _build(self) -> None:
        self._dot = label("●", "note", "run_dot")
        self._state = label("", "title", "run_state")
        self._name = ElidedLabel("", "", "run_name", Qt.TextElideMode.ElideMiddle)  # its date and its name both tell runs apart
        self._settings = label("", "note", "run_settings")
        self._place = label("", "note", "run_place")
        self._doing = ElidedLabel("", "note", "run_doing")
        self._differs = QToolButton()
        self._differs.setObjectName("draft_differs")
        self._differs.setProperty("role", "warning")
        self._differs.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._menu = QMenu(self)
        self._menu.setObjectName("draft_differs_menu")
        self._menu.aboutToShow.connect(self._fill_menu)
        self._differs.setMenu(self._menu)
        self._pause = _button(tr("Pause"), "pause_button")
        self._stop = _button(tr("Stop"), "stop_button")
        self._resume = _button(tr("Resume"), "resume_button")
        self._export = _button(tr("Export…"), "export_button")
        self._merge = _button(tr("Merge…"), "merge_button")
        row = self._row = QHBoxLayout(self)
        row.setContentsMargins(12, 6, 6, 6)
        row.setSpacing(7)
        for widget in (self._dot, self._state, self._name, self._settings, self._place, self._differs, self._doing):
            row.addWidget(widget)
        row.addStretch(1)
        for button in (self._pause, self._stop, self._resume, self._export, self._merge):
            row.addWidget(button)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def _connect(self) -> None:
        self._pause.clicked.connect(self._on_pause)
        self._stop.clicked.connect(self._starter.stop)
        self._resume.clicked.connect(self.resume_requested)
        self._export.clicked.connect(self.export_requested)
        self._merge.clicked.connect(self.merge_requested)
        self._run_view.changed.connect(self.refresh)
        self._run_view.updated.connect(self._on_updated)
        self._starter.changed.connect(self.refresh)
        self._workspace.draft.config_changed.connect(self._show_differences)

    def _on_pause(self) -> None:
        if self._run_view.is_pause_asked:
            self._starter.go_on()
        else:
            self._starter.pause()

    def showEvent(self, event: QShowEvent) -> None:
        """Leave out what there is no room for."""
        super().showEvent(event)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Leave out what there is no room for."""
        super().resizeEvent(event)
        self._fit()

    def _on_updated(self) -> None:
        self._show_state(self._run_view.state)
        self._show_place()
        self._fit()

    def _show_place(self) -> None:
        """Say where the run lives, unless that is the window: the usual needs no word."""
        config, apart = self._run_view.config, self._run_view.in_own_process
        text = place_text(self._run_view.pid) if apart else ""
        _set_text(self._place, text)
        lives = tr("It lives in a process of its own ({place}) and goes on when this window closes.", place=text) if apart else ""
        base = tr("Base model: {base}", base=config.model.name_or_path) if config else ""
        for widget, tip in ((self._place, lives), (self._settings, "\n".join(filter(None, (base, lives))))):
            if widget.toolTip() != tip:
                widget.setToolTip(tip)

    def _fit(self) -> None:
        """Where it is narrow, say less: first the place goes, which the tooltip has too, then words about the draft."""
        shown = tuple(widget.isHidden() for widget in (self._doing, self._pause, self._stop, self._resume, self._export))
        width = self.width() if self.isVisible() else _WIDE
        texts = (self._place.text(), self._state.text(), self._stop.text(), self._differing)
        fitted = (width, texts, shown, self.fontInfo().pointSizeF())
        if fitted == self._fitted:  # this is asked at every tick
            return
        self._fitted = fitted
        self._place.hide()
        text = tr("draft differs: {count}", count=self._differing)
        self._differs.setText(text)
        self._differs.setAccessibleName(text)
        room = width - self._row.minimumSize().width()
        if room < 0:
            self._differs.setText(f"≠ {self._differing}")
        self._place.setVisible(bool(self._place.text()) and room >= self._place.sizeHint().width() + self._row.spacing())

    def _show_state(self, state: ShownState) -> None:
        set_role(self._dot, TONES.get(state, "note"))
        _set_text(self._state, state_text(state))
        doing = self._doing_text(state)
        _set_text(self._doing, doing)
        self._doing.setVisible(bool(doing))

    def _doing_text(self, state: ShownState) -> str:
        """Say what the run waits for or is busy with, where that is not plain training."""
        if state == "waiting":
            return tr("waits for {titles}", titles=", ".join(self._run_view.jobs_before))
        if state in ("stopping", "abandoning"):
            return self._starter.stop_text
        if state == "running" and self._run_view.is_pause_asked:
            return tr("pausing after this micro-batch")
        phase = self._run_view.history.phase
        if phase is None or state not in LIVE_STATES or (state == "running" and phase.name == "training"):
            return ""
        share = f" {phase.done / phase.total:.0%}" if phase.done is not None and phase.total else ""
        return (phase.message or phase.name) + share

    def _show_differences(self, *_configs: object) -> None:
        config = self._run_view.config
        self._differing = len(different_fields(config, self._workspace.draft.config)) if config else 0
        self._differs.setToolTip(tr("Settings of the draft that are not this run's. The run keeps its own."))
        self._differs.setVisible(self._differing > 0)
        self._fit()

    def _fill_menu(self) -> None:
        config = self._run_view.config
        self._menu.clear()
        if config is None:
            return
        for path in different_fields(config, self._workspace.draft.config):
            text = tr(
                "{title}: {run} here, {draft} in the draft",
                title=field_info(path).title or path,
                run=_short(config.get(path)),
                draft=_short(self._workspace.draft.config.get(path)),
            )
            self._menu.addAction(text).triggered.connect(lambda _checked=False, at=path: self._workspace.draft.request_field(at))

    def _show_buttons(self, state: ShownState) -> None:
        live = state in LIVE_STATES
        self._pause.setVisible(state in ("loading", "running", "paused"))
        self._pause.setText(tr("Continue") if self._run_view.is_pause_asked else tr("Pause"))
        self._stop.setVisible(live)
        self._stop.setEnabled(state != "abandoning")
        stopping = state == "stopping"
        self._stop.setText(tr("Abandon step") if stopping else tr("Stop"))
        self._stop.setToolTip(
            tr("Drop the step under way and keep the last checkpoint.")
            if stopping
            else tr("End after this micro-batch and save a checkpoint.")
        )
        self._resume.setVisible(self._run_view.can_resume)
        self._resume.setText(tr("Start") if state == "new" else tr("Resume"))
        exportable = self._run_view.has_weights
        for button in (self._export, self._merge):
            button.setVisible(not stopping and state != "abandoning")
            button.setEnabled(exportable)
            nothing = tr("Nothing is saved yet: the first checkpoint can be exported.")
            button.setToolTip(tr("Of {run}", run=self._run_view.name) if exportable else nothing)


def _set_text(shown: QLabel, text: str) -> None:
    """Set a label's text where it is another: measuring it anew takes time, and this is asked at every tick."""
    if shown.text() != text:
        shown.setText(text)


def _button(text: str, name: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName(name)
    button.setAutoDefault(False)
    return button


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
