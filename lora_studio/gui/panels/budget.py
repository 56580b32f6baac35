"""Budget: what the settings cost in parameters, file and memory, and whether it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QSize
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QWidget

from lora_studio.core.config import RunConfig
from lora_studio.gui.platform.formatting import format_bytes, format_count, format_gigabytes
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets import Card, ElidedLabel, ErrorLabel, Segment, SegmentBar, StatTile, label, set_role
from lora_studio.planning.plan import make_plan

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter
    from lora_studio.planning.plan import Plan

_COLORS = ("curve_blue", "curve_orange", "curve_violet", "curve_green", "curve_red", "curve_grey")
_TITLES = {
    "weights": "Weights",
    "adapter": "Adapter and gradients",
    "gradients": "Adapter and gradients",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "logits_and_loss": "Logits and loss",
    "runtime": "Runtime",
}


class BudgetPanel(Card):
    """Shows the plan of the draft, or of the run whose config is shown."""

    def __init__(self, workspace: Workspace, jobs: JobCenter) -> None:
        super().__init__(tr("Budget"), name="budget_panel")
        self._workspace = workspace
        self._run: RunConfig | None = None
        self._legend: dict[str, tuple[QLabel, ElidedLabel, QLabel]] = {}
        self._build()
        workspace.plan.changed.connect(self.refresh)
        theme().changed.connect(self.refresh)
        self.refresh()

    @property
    def summary(self) -> str:
        """One line of budget for where the panel does not show: "992,256 trainable · 1.9 of 24 GB"."""
        plan = self._workspace.plan.plan
        if plan is None:
            return ""
        return tr("{trainable} trainable · {memory}", trainable=format_count(plan.trainable_parameters), memory=_of_capacity(plan))

    def show_config(self, config: RunConfig | None) -> None:
        """Show what a run's config costs, or the draft's again."""
        self._run = config
        self.refresh()

    def compare_with(self, config: RunConfig | None) -> None:
        """Take the run that is shown; the budget has no field to mark."""

    def refresh(self) -> None:
        """Show the plan as it is now."""
        plan = self._plan()
        self._error.set_error("" if plan else self._why_not())
        for widget in (self._tiles, self._bar, self._legend_box):
            widget.setVisible(plan is not None)
        if plan is None:
            self.set_note("")
            return
        self._trainable.set_value(format_count(plan.trainable_parameters))
        self._share.set_value(share_text(plan.trainable_parameters, plan.all_parameters))
        self._file.set_value(format_bytes(plan.adapter_bytes))
        self._show_memory(plan)

    def _build(self) -> None:
        self._trainable, self._share, self._file = StatTile(tr("Trainable")), StatTile(tr("of model")), StatTile(tr("File"))
        self._tiles = QWidget()
        self._tiles.setObjectName("budget_tiles")
        line = QHBoxLayout(self._tiles)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        for tile, stretch in ((self._trainable, 11), (self._share, 7), (self._file, 7)):
            line.addWidget(tile, stretch)
        self._bar = SegmentBar("budget_bar")
        self._bar.setAccessibleName(tr("Memory by part"))
        self._legend_box = QWidget()
        self._legend_box.setObjectName("budget_legend")
        self._grid = QGridLayout(self._legend_box)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 1)
        self._error = ErrorLabel("budget_error")
        set_role(self._error, "note")
        for widget in (self._tiles, self._bar, self._legend_box, self._error):
            self.body.addWidget(widget)

    def _plan(self) -> Plan | None:
        workspace = self._workspace
        if self._run is None:
            return workspace.plan.plan
        if workspace.model.facts is None or workspace.model.tree is None or self._run.model != workspace.draft.config.model:
            return None
        return make_plan(self._run, workspace.model.facts, workspace.model.tree)

    def _why_not(self) -> str:
        if self._run is not None:
            return tr("This run has another base model than the draft.")
        planner = self._workspace.plan
        return f"{planner.error} {planner.hint}".strip() or tr("Told as soon as the modules are known.")

    def _show_memory(self, plan: Plan) -> None:
        memory = plan.memory
        reported = _of_capacity(plan)
        self.set_note(tr("fits: {told}", told=reported) if memory.fits else tr("does not fit: {told}", told=reported))
        set_role(self.note, "note" if memory.fits else "error")
        parts = [(title, size, color) for (title, size), color in zip(_shown_parts(plan).items(), _COLORS, strict=False)]
        self._bar.set_segments([Segment(title, size, color) for title, size, color in parts], memory.capacity_bytes)
        for row, (title, size, color) in enumerate(parts):
            self._show_part(row, title, size, color)
        for row, widgets in enumerate(self._legend.values()):
            for widget in widgets:
                widget.setVisible(row < len(parts))

    def _show_part(self, row: int, title: str, size: float, color: str) -> None:
        key = str(row)
        if key not in self._legend:
            mark, name, amount = QLabel(), ElidedLabel("", name=f"budget_part_{row}"), label("", "note", f"budget_size_{row}")
            mark.setObjectName(f"budget_mark_{row}")
            for column, widget in enumerate((mark, name, amount)):
                self._grid.addWidget(widget, row, column)
            self._legend[key] = (mark, name, amount)
        mark, name, amount = self._legend[key]
        mark.setPixmap(icon("square", getattr(colors(), color)).pixmap(QSize(10, 10)))
        name.setText(title)
        amount.setText(tr("{size} GB", size=format_gigabytes(size)))


def share_text(part: int, whole: int) -> str:
    """Write a share in percent with three digits that tell something: 1.48 %, 0.0012 %."""
    share = 100 * part / whole if whole else 0.0
    return f"{share:.2f} %" if share >= 0.1 else f"{share:.2g} %"


def _shown_parts(plan: Plan) -> dict[str, int]:
    """Return the parts of memory under the names a person reads; the adapter's together, and what of the layers is computed again."""
    every = plan.memory.checkpointing.every
    again = tr(" · one layer in {count} computed again", count=every) if every > 1 else tr(" · computed again") if every else ""
    shown: dict[str, int] = {}
    for name, size in plan.memory.parts.items():
        title = tr(_TITLES.get(name, name.replace("_", " ").capitalize())) + (again if name == "activations" else "")
        shown[title] = shown.get(title, 0) + size
    return {title: size for title, size in shown.items() if size}


def _of_capacity(plan: Plan) -> str:
    memory = plan.memory
    peak = format_gigabytes(memory.peak_bytes)
    if not memory.capacity_bytes:
        return tr("{peak} GB", peak=peak)
    return tr("{peak} of {capacity} GB", peak=peak, capacity=f"{memory.capacity_bytes / 1e9:.0f}")
