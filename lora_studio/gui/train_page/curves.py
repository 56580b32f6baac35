"""The plots of the Train page, side by side where there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QSize, QTimer, Signal
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import QGridLayout, QWidget

from lora_studio.gui.engine.job_center import TICK_MS
from lora_studio.gui.runs.shown_run import ShownRun

if TYPE_CHECKING:
    from lora_studio.gui.plots.train import HistoryPlot, MemoryPlot

ONE_COLUMN_BELOW = 620  # of this area: a centre of 820 less its margins holds two plots, a narrower one does not
_TALL, _LOW = 225, 165
_COLUMNS = 6


class CurvesArea(QWidget):
    """Loss and memory above, gradient norm, learning rate and speed below; all in one column where it is narrow.

    The plots, and pyqtgraph with them, come a moment after the area is first shown. While a run goes on they are painted
    in turn, one a tick: five paints in a row, against a training thread that wants the interpreter too, would hold the
    event loop for longer than a person fails to notice.

    Signals:
        plots_ready: The plots are there.
    """

    plots_ready = Signal()

    def __init__(self, run_view: ShownRun) -> None:
        super().__init__()
        self.setObjectName("curves_area")
        self._run_view = run_view
        self._plots: list[HistoryPlot] = []
        self._memory: MemoryPlot | None = None
        self._estimate: int | None = None
        self._one_column: bool | None = None
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(10)
        for column in range(_COLUMNS):
            self._grid.setColumnStretch(column, 1)
        self.setMinimumHeight(_TALL + _LOW + 10)
        self._behind: list[HistoryPlot] = []
        self._turns = QTimer(self)
        self._turns.setInterval(TICK_MS)
        self._turns.timeout.connect(self._next_turn)
        run_view.changed.connect(self._follow)
        run_view.updated.connect(self._mark_behind)

    @property
    def plots(self) -> tuple[HistoryPlot, ...]:
        """The plots, in reading order; none before they are made."""
        return tuple(self._plots)

    def make_plots(self) -> None:
        """Make the plots now; a second call does nothing."""
        if self._plots:
            return
        from lora_studio.gui.plots.train import LossPlot, MemoryPlot, gradient_norm_plot, learning_rate_plot, speed_plot

        self._memory = MemoryPlot()
        self._memory.set_estimate(self._estimate)
        self._plots = [LossPlot(), self._memory, gradient_norm_plot(), learning_rate_plot(), speed_plot()]
        self._arrange(self.width() < ONE_COLUMN_BELOW)
        self._follow()
        self.plots_ready.emit()

    def set_estimate(self, peak_bytes: int | None) -> None:
        """Draw the plan's estimate of the peak into the memory plot, in bytes; None for none."""
        self._estimate = peak_bytes
        if self._memory is not None:
            self._memory.set_estimate(peak_bytes)

    def hasHeightForWidth(self) -> bool:
        """A plot is as high as there is room, whatever its legend would like."""
        return False

    def sizeHint(self) -> QSize:
        """No more than the plots need; room that is left is theirs."""
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def showEvent(self, event: QShowEvent) -> None:
        """Make the plots once the event loop comes round."""
        super().showEvent(event)
        if not self._plots:
            QTimer.singleShot(0, self, self.make_plots)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Change between one column and several."""
        super().resizeEvent(event)
        if self._plots:
            self._arrange(event.size().width() < ONE_COLUMN_BELOW)

    def _arrange(self, one_column: bool) -> None:
        if one_column == self._one_column:
            return
        self._one_column = one_column
        wide = [(0, 0, 3), (0, 3, 3), (1, 0, 2), (1, 2, 2), (1, 4, 2)]
        positions = [(number, 0, _COLUMNS) for number in range(len(self._plots))] if one_column else wide
        for number, (plot, (row, column, span)) in enumerate(zip(self._plots, positions, strict=True)):
            plot.setMinimumHeight(_TALL if number < 2 else _LOW)
            self._grid.addWidget(plot, row, column, 1, span)
        for row in range(len(self._plots)):
            used = one_column or row < 2
            self._grid.setRowStretch(row, (3 if row < (2 if one_column else 1) else 2) if used else 0)
        rows = 2 * _TALL + 3 * _LOW + 4 * 10 if one_column else _TALL + _LOW + 10
        self.setMinimumHeight(rows)

    def _follow(self) -> None:
        """Bring all plots up to the run at once."""
        self._behind.clear()
        for plot in self._plots:
            plot.show_history(self._run_view.history)

    def _mark_behind(self) -> None:
        self._behind += [plot for plot in self._plots if plot not in self._behind]
        if self._behind and not self._turns.isActive():
            self._next_turn()
            self._turns.start()

    def _next_turn(self) -> None:
        """Bring the plot that waits longest up to the run."""
        if self._behind:
            self._behind.pop(0).show_history(self._run_view.history)
        else:
            self._turns.stop()
