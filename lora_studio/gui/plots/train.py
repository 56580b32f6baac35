"""The plots of the Train page. Each follows a `RunHistory`: it takes what is new, and starts over when that is another."""

from __future__ import annotations

import math

import numpy as np

from lora_studio.core.history import Curve, RunHistory
from lora_studio.gui.platform.text import tr
from lora_studio.gui.plots.curve_plot import CurvePlot
from lora_studio.gui.plots.curves import CurveStyle
from lora_studio.gui.plots.pyramid import Floats

GB = 1e9


class HistoryPlot(CurvePlot):
    """A plot that follows the curves of a run."""

    def __init__(self, title: str, x_label: str, name: str) -> None:
        super().__init__(title, x_label, name)
        self._history: RunHistory | None = None

    def show_history(self, history: RunHistory) -> None:
        """Take what is new in a run's history; another run, or a replay from an earlier step, starts over."""
        if history is not self._history:
            self._history = history
            self.clear()
        self._follow(history)

    def _follow(self, history: RunHistory) -> None:
        raise NotImplementedError

    def _follow_curve(self, curve: str, source: Curve, scale: float = 1.0) -> None:
        """Bring a curve up to its source, y divided by scale."""
        series = self.curves[curve]
        shown = len(series)
        if shown == len(source):
            if not shown or (series.x[-1] == source.x[-1] and _same(series.y[-1] * scale, source.y[-1])):
                return
            shown = 0
        elif shown > len(source) or (shown and series.x[shown - 1] != source.x[shown - 1]):
            shown = 0
        x, y = _tail(source.x, shown), _tail(source.y, shown) / scale
        if shown:
            self.append(curve, x, y)
        else:
            self.set_series(curve, x, y)


class LossPlot(HistoryPlot):
    """Loss of each step, its moving average, and evaluation loss, over steps."""

    def __init__(self) -> None:
        super().__init__(tr("Loss"), tr("step"), "loss_plot")
        self.add_curve(CurveStyle("train", tr("train"), "curve_grey"))
        self.add_curve(CurveStyle("smoothed", tr("smoothed"), "curve_blue", strong=True))
        self.add_curve(CurveStyle("eval", tr("eval"), "curve_orange", line="dash", marker=True))

    def _follow(self, history: RunHistory) -> None:
        self._follow_curve("train", history.loss)
        self._follow_curve("smoothed", history.smoothed_loss)
        self._follow_curve("eval", history.evaluation)


class MemoryPlot(HistoryPlot):
    """Memory in GB (10⁹ bytes) over seconds: CUDA allocated and reserved, or on a CPU what the process holds."""

    def __init__(self) -> None:
        super().__init__(tr("Memory, GB"), tr("second"), "memory_plot")
        self.add_curve(CurveStyle("allocated", tr("allocated"), "curve_green", filled=True))
        self.add_curve(CurveStyle("reserved", tr("reserved"), "curve_violet", line="dash"))
        self.add_curve(CurveStyle("device", tr("device"), "curve_blue"))
        self.add_curve(CurveStyle("resident", tr("process"), "curve_green", filled=True))
        self.add_curve(CurveStyle("estimate", tr("estimate"), "curve_grey", line="dot"))
        self._show_device(False)

    def set_estimate(self, peak_bytes: int | None) -> None:
        """Draw the plan's estimate of the peak, in bytes; None takes it away."""
        self.set_level("estimate", None if peak_bytes is None else peak_bytes / GB)
        self.legend.set_shown("estimate", peak_bytes is not None)

    def _follow(self, history: RunHistory) -> None:
        on_device = "cuda_allocated" in history.memory
        self._show_device(on_device)
        on_cuda = {"allocated": "cuda_allocated", "reserved": "cuda_reserved", "device": "device_used"}
        for curve, name in (on_cuda if on_device else {"resident": "resident"}).items():
            if name in history.memory:
                self._follow_curve(curve, history.memory[name], GB)

    def _show_device(self, on_device: bool) -> None:
        for curve in ("allocated", "reserved", "device"):
            self.legend.set_shown(curve, on_device)
        self.legend.set_shown("resident", not on_device)


class ScalarPlot(HistoryPlot):
    """One curve of a run over steps, such as the gradient norm; small numbers carry their power of ten in the title."""

    def __init__(self, title: str, field: str, color: str, name: str) -> None:
        """Make the plot of `RunHistory.<field>`, in a theme colour such as `curve_blue`."""
        super().__init__(title, tr("step"), name)
        self._plain_title = title
        self._field = field
        self._power = 0
        self._largest = 0.0
        self.add_curve(CurveStyle(field, title.lower(), color), in_legend=False)

    def _follow(self, history: RunHistory) -> None:
        source: Curve = getattr(history, self._field)
        fresh = source.y[len(self.curves[self._field]) :]
        self._largest = max([self._largest, *(abs(y) for y in fresh if math.isfinite(y))])
        power = _power_of(self._largest)
        if power != self._power:
            self._power = power
            self.curves[self._field].clear()
            self.set_title(f"{self._plain_title}, ×10{_superscript(power)}" if power else self._plain_title)
        self._follow_curve(self._field, source, 10.0**self._power)

    def clear(self) -> None:
        """Empty the curve and forget the power of ten."""
        self._power = 0
        self._largest = 0.0
        self.set_title(self._plain_title)
        super().clear()


def gradient_norm_plot() -> ScalarPlot:
    """Make the plot of the gradient's norm before clipping."""
    return ScalarPlot(tr("Gradient norm"), "grad_norm", "curve_orange", "grad_norm_plot")


def learning_rate_plot() -> ScalarPlot:
    """Make the plot of the learning rate."""
    return ScalarPlot(tr("Learning rate"), "learning_rate", "curve_blue", "learning_rate_plot")


def speed_plot() -> ScalarPlot:
    """Make the plot of tokens per second."""
    return ScalarPlot(tr("Tokens/s"), "tokens_per_second", "curve_green", "tokens_per_second_plot")


def _tail(column: object, start: int) -> Floats:
    """Copy an array('d') from a place on: a view would forbid the array to grow."""
    return np.frombuffer(column, np.float64)[start:].copy() if len(column) else np.empty(0)  # type: ignore[arg-type]


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))


def _power_of(largest: float) -> int:
    """Power of ten to write a curve by whose largest value is below 0.01; a curve that falls to zero keeps its own."""
    return math.floor(math.log10(largest)) if 0 < largest < 1e-2 else 0


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
