"""Six figures and a line of progress: the run at a glance."""

from __future__ import annotations

import psutil
from PySide6.QtGui import QResizeEvent

from lora_studio.core.history import RunHistory
from lora_studio.gui.platform.formatting import format_count, format_flops, format_gigabytes, format_seconds
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.widgets import Card, ProgressLine, StatTile, TileGrid

_NARROW = 560
_NONE = "–"


class TilesCard(Card):
    """Loss, evaluation loss, step, tokens/s, memory, time left."""

    def __init__(self, run_view: ShownRun) -> None:
        super().__init__(name="tiles_card")
        self._run_view = run_view
        self._machine_memory = psutil.virtual_memory().total
        names = {
            "loss": tr("Loss"),
            "eval_loss": tr("Eval loss"),
            "step": tr("Step"),
            "speed": tr("Tokens/s"),
            "memory": tr("Memory, GB"),
            "time_left": tr("Time left"),
        }
        self.tiles = {name: StatTile(title, name=f"tile_{name}") for name, title in names.items()}
        self._grid = TileGrid(list(self.tiles.values()))
        self._grid.setHorizontalSpacing(12)
        self.body.addLayout(self._grid)
        self.progress = ProgressLine(name="run_progress")
        self.body.addWidget(self.progress)
        run_view.changed.connect(self.refresh)
        run_view.updated.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the run as it is now."""
        history = self._run_view.history
        self.tiles["loss"].set_value(_number(history.loss.last))
        self.tiles["eval_loss"].set_value(_number(history.evaluation.last))
        self.tiles["step"].set_value(f"{history.step} / {history.total_steps}" if history.total_steps else _NONE)
        self._show_speed(history)
        self.tiles["memory"].set_value(self._memory(history))
        self._show_time(history)
        self.progress.set_fraction(self._progress(history))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the figures in two rows where one lacks room."""
        super().resizeEvent(event)
        self._grid.arrange(3 if event.size().width() < _NARROW else 6)

    def _show_speed(self, history: RunHistory) -> None:
        """Show tokens a second and, where the run measured it, the share of the device they take."""
        tile, speed, share, started = self.tiles["speed"], history.tokens_per_second.last, history.utilization.last, history.started
        text = _NONE if speed is None else format_count(round(speed))
        if share is None:
            tile.set_title(tr("Tokens/s"))
            tile.set_note(tr("Tokens without padding, of the latest step"))
        else:
            tile.set_title(tr("Tokens/s, use"))
            text = f"{text}, {share:.0%}"
            peak = tr(" of {dtype}, {rate}", dtype=started.compute_dtype, rate=format_flops(started.peak_flops or 0)) if started else ""
            tile.set_note(tr("Use: what the step's matrix products need, against the fastest one measured on this device{peak}", peak=peak))
        tile.set_value(text)

    def _memory(self, history: RunHistory) -> str:
        curve = history.memory.get("cuda_allocated") or history.memory.get("resident")
        if curve is None or curve.last is None:
            return _NONE
        total = history.device_total or self._machine_memory
        return f"{format_gigabytes(curve.last)} / {total / 1e9:.0f}"

    def _show_time(self, history: RunHistory) -> None:
        tile, left = self.tiles["time_left"], history.seconds_left
        if history.last_event is not None:
            tile.set_title(tr("Took"))
            tile.set_value(format_seconds(history.elapsed))
        else:
            tile.set_title(tr("Time left"))
            tile.set_value(_NONE if left is None or left != left else format_seconds(left))

    @staticmethod
    def _progress(history: RunHistory) -> float:
        """Share of the steps taken; before the first, of the phase under way."""
        phase = history.phase
        if not history.step and phase is not None and phase.done is not None and phase.total:
            return min(1.0, phase.done / phase.total)
        return history.step / history.total_steps if history.total_steps else 0.0


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"
