"""The cards at the window's sides: the draft's settings, compared with the shown run's, or the run's own."""

from __future__ import annotations

from PySide6.QtCore import QObject

from lora_studio.gui.draft.workspace import Workspace
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.panels import AdapterPanel, BudgetPanel, DataPanel, ModelPanel, TargetsPanel, TrainingPanel
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.main_window import MainWindow

_TARGETS = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "rank_pattern", "alpha_pattern")
_RIGHT = ("adapter", "training", "budget")


class SidePanels(QObject):
    """Makes the panels, and says which settings they show.

    Attributes:
        budget: The panel that says what a run would take.
    """

    def __init__(self, window: MainWindow, workspace: Workspace, jobs: JobCenter, run_view: ShownRun, dialogs: FileDialogs) -> None:
        super().__init__(window)
        self.setObjectName("side_panels")
        self._window = window
        self._run_view = run_view
        window.remove_placeholders()
        self.budget = BudgetPanel(workspace, jobs)
        self._right = (AdapterPanel(workspace, jobs), TrainingPanel(workspace, jobs), self.budget)
        left = (ModelPanel(workspace, jobs, dialogs), DataPanel(workspace, jobs, dialogs), TargetsPanel(workspace, jobs))
        for identity, panel, stretch in zip(("model", "data", "targets"), left, (0, 0, 1), strict=True):
            window.columns.left.add_card(identity, panel, stretch)
        for identity, panel in zip(_RIGHT, self._right, strict=True):
            window.columns.right.add_card(identity, panel)
        workspace.draft.field_requested.connect(self._reveal_field)
        run_view.changed.connect(self._on_run)
        window.view_switch.selected.connect(self._show_side)
        self._on_run()

    def _on_run(self) -> None:
        switch, config = self._window.view_switch, self._run_view.config
        switch.button("run").setEnabled(config is not None)
        if config is None and switch.current == "run":
            switch.set_current("draft")
        self._show_side(switch.current or "draft")

    def _show_side(self, which: str) -> None:
        config = self._run_view.config
        self._window.reset_button.setVisible(config is not None)
        for panel in self._right:
            panel.compare_with(config if which == "draft" else None)
            panel.show_config(config if which == "run" else None)

    def _reveal_field(self, path: str) -> None:
        """Open the side that holds a field; its panel puts the cursor there."""
        identity = "targets" if path.removeprefix("adapter.") in _TARGETS else path.split(".")[0]
        columns = self._window.columns
        (columns.right if identity in _RIGHT else columns.left).open_at(identity)
