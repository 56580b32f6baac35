"""Curves keep their extremes, grow cheaply, follow a run's history, and can be read without seeing them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor, QGuiApplication
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from lora_studio.core.events import Evaluation, Memory, RunResumed, Step
from lora_studio.core.history import RunHistory
from lora_studio.gui.plots.curve_plot import CurvePlot
from lora_studio.gui.plots.curves import CurveStyle
from lora_studio.gui.plots.legend import LegendEntry
from lora_studio.gui.plots.pyramid import Series
from lora_studio.gui.plots.train import LossPlot, MemoryPlot, gradient_norm_plot, learning_rate_plot
from lora_studio.gui.theme import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from lora_studio.gui.plots.pyramid import Floats


def series_of(y: Floats) -> Series:
    series = Series()
    series.append(np.arange(len(y), dtype=np.float64), y)
    return series


def step(number: int, loss: float, **fields: float) -> Step:
    return Step(
        step=number,
        time=float(number),
        loss=loss,
        learning_rate=fields.get("learning_rate", 1e-4),
        grad_norm=fields.get("grad_norm", 1.0),
        tokens=1,
        trained_tokens=1,
        tokens_per_second=100.0,
        epoch=0.1,
        seconds=1.0,
    )


@pytest.fixture
def plot(qtbot: QtBot, dark: Theme) -> CurvePlot:
    made = CurvePlot("Loss", "step")
    made.add_curve(CurveStyle("train", "train", "curve_grey"))
    made.add_curve(CurveStyle("eval", "eval", "curve_orange", line="dash", marker=True))
    qtbot.addWidget(made)
    made.resize(420, 260)
    made.show()
    return made


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=3000),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_thinning_keeps_the_extremes_however_points_came(values: list[float], columns: int, pieces: int) -> None:
    series = Series()
    for part in np.array_split(np.array(values), pieces):
        series.append(np.arange(len(series), len(series) + len(part), dtype=np.float64), part)
        series.thinned(0, len(values), columns)  # fills the pyramid in between, as a live curve does
    _, y = series.thinned(-1, len(values), columns)
    finite = np.array(values)[np.isfinite(values)]
    if len(finite):
        assert (np.nanmin(y), np.nanmax(y)) == (finite.min(), finite.max())
        assert series.bounds == (finite.min(), finite.max())
    else:
        assert series.bounds is None


def test_a_single_spike_in_a_million_points_is_drawn() -> None:
    y = np.sin(np.arange(1_000_000) / 1000)
    y[723_451], y[100_003] = 50.0, -50.0
    x, drawn = series_of(y).thinned(0, 1_000_000, 600)
    assert {(723_451.0, 50.0), (100_003.0, -50.0)} <= set(zip(x, drawn, strict=True))


def test_a_million_points_draw_as_few_as_ten_thousand() -> None:
    few, many = (len(series_of(np.random.default_rng(0).normal(size=count)).thinned(0, count, 500)[0]) for count in (10_000, 1_000_000))
    assert many <= 8 * 500 + 8
    assert many <= 2 * few


def test_thinned_points_stay_in_order() -> None:
    x, _ = series_of(np.random.default_rng(1).normal(size=50_000)).thinned(1_234, 45_678, 300)
    assert np.all(np.diff(x) >= 0)
    assert x[0] <= 1_234
    assert x[-1] >= 45_678


def test_zooming_in_shows_every_point() -> None:
    x, _ = series_of(np.arange(100_000.0)).thinned(500, 520, 600)
    assert list(x) == list(range(499, 522))


def test_appending_touches_each_point_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = 0
    real = np.resize

    def counted(array: Floats, size: int) -> Floats:
        nonlocal moved
        moved += len(array)
        return real(array, size)

    monkeypatch.setattr(np, "resize", counted)
    series = Series()
    for number in range(20_000):
        series.append(np.array([float(number)]), np.array([0.0]))
    assert moved <= 4 * 20_000


@pytest.mark.parametrize(("x", "y", "said"), [([1.0], [1.0, 2.0], "1 x for 2 y"), ([2.0, 1.0], [0.0, 0.0], "x falls")])
def test_columns_that_make_no_curve_are_refused(x: list[float], y: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Series().append(np.array(x), np.array(y))


def test_a_point_left_of_the_last_is_refused(plot: CurvePlot) -> None:
    plot.append("train", [5.0], [1.0])
    with pytest.raises(ValueError, match="x falls"):
        plot.append("train", [4.0], [1.0])


def test_the_nearest_point_is_found() -> None:
    series = series_of(np.arange(10.0))
    assert [series.nearest(x) for x in (-5, 3.4, 3.6, 99)] == [0, 3, 4, 9]
    assert Series().nearest(1) is None


def test_many_appends_are_painted_once(plot: CurvePlot, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    qtbot.wait(0)
    monkeypatch.setattr(plot.canvas, "draw", lambda shown: drawn.append(len(shown["train"])))
    for number in range(50):
        plot.append("train", [float(number)], [1.0])
    qtbot.waitUntil(lambda: bool(drawn))
    qtbot.wait(0)
    assert drawn == [50]


def test_a_hidden_plot_draws_when_it_is_shown(qtbot: QtBot, dark: Theme) -> None:
    plot = CurvePlot("Loss")
    plot.add_curve(CurveStyle("train", "train", "curve_grey"))
    qtbot.addWidget(plot)
    plot.append("train", [0.0, 1.0], [1.0, 2.0])
    plot.refresh()
    assert plot.accessibleName() == "Loss"
    plot.show()
    qtbot.waitUntil(lambda: plot.accessibleName() == "Loss: train 2")


def test_curves_are_painted_in_the_colors_of_the_theme(plot: CurvePlot, qtbot: QtBot, dark: Theme) -> None:
    def colors() -> set[str]:
        plot.refresh()
        image = plot.canvas.grab().toImage()
        return {image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())}

    plot.append("train", [0.0, 1.0], [1.0, 1.0])
    qtbot.waitUntil(lambda: DARK.curve_grey in colors() or _near(DARK.curve_grey, colors()))
    dark.set_mode("light")
    found = colors()
    assert LIGHT.surface in found
    assert DARK.surface not in found
    assert _near(LIGHT.curve_grey, found)


def _near(color: str, found: set[str]) -> bool:
    wanted = np.array(QColor(color).getRgb())
    return any(np.abs(np.array(QColor(name).getRgb()) - wanted).max() < 40 for name in found)


def test_the_crosshair_reads_out_the_nearest_points(plot: CurvePlot) -> None:
    plot.set_series("train", [0.0, 142.0, 300.0], [4.0, 1.32, 1.0])
    plot.set_series("eval", [150.0], [1.4])
    plot.refresh()
    plot.show_crosshair_at(140.0)
    assert plot.canvas.read_out_text == "step 142\ntrain 1.32\neval 1.4"
    plot.show_crosshair_at(None)
    assert plot.canvas.read_out_text == ""


def test_the_pointer_moves_the_crosshair(plot: CurvePlot, qtbot: QtBot) -> None:
    plot.set_series("train", np.arange(100.0), np.arange(100.0))
    plot.refresh()
    qtbot.mouseMove(plot.canvas, QPoint(plot.canvas.width() // 2, plot.canvas.height() // 2))
    qtbot.mouseMove(plot.canvas, QPoint(plot.canvas.width() // 2 + 5, plot.canvas.height() // 2))
    qtbot.waitUntil(lambda: plot.canvas.read_out_text.startswith("step "))


def test_the_keyboard_moves_the_crosshair(plot: CurvePlot, qtbot: QtBot) -> None:
    plot.set_series("train", [0.0, 1.0, 2.0], [5.0, 6.0, 7.0])
    plot.refresh()
    qtbot.keyClick(plot, Qt.Key.Key_End)
    assert plot.canvas.read_out_text == "step 2\ntrain 7"
    qtbot.keyClick(plot, Qt.Key.Key_Left)
    assert plot.accessibleDescription() == "step 1, train 6"
    qtbot.keyClick(plot, Qt.Key.Key_Home)
    assert plot.canvas.read_out_text.startswith("step 0")


def test_the_legend_hides_a_curve(plot: CurvePlot, qtbot: QtBot) -> None:
    plot.set_series("train", [0.0], [5.0])
    plot.set_series("eval", [0.0], [6.0])
    qtbot.mouseClick(plot.legend.findChild(LegendEntry, "legend_train"), Qt.MouseButton.LeftButton)
    assert plot.read_out(0.0) == "step 0\neval 6"


def test_the_table_holds_every_point_of_every_curve(plot: CurvePlot, qtbot: QtBot) -> None:
    plot.set_series("train", [1.0, 2.0], [0.5, 0.25])
    plot.set_series("eval", [2.0, 3.0], [0.75, 1e-7])
    dialog = plot.open_table()
    qtbot.addWidget(dialog)
    qtbot.mouseClick(dialog.findChild(QPushButton, "copy_table"), Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text() == "step\ttrain\teval\n1\t0.5\t\n2\t0.25\t0.75\n3\t\t1e-07\n"
    dialog.close()


def test_a_plot_says_aloud_what_it_shows(plot: CurvePlot, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: plot.accessibleName() == "Loss: no data yet")
    plot.append("train", [1.0], [0.5])
    plot.refresh()
    assert plot.accessibleName() == "Loss: train 0.5"


def test_the_loss_plot_follows_a_run(qtbot: QtBot, dark: Theme) -> None:
    plot, history = LossPlot(), RunHistory()
    qtbot.addWidget(plot)
    for number in range(1, 41):
        history.add(step(number, 4 / number))
        plot.show_history(history)
    history.add(Evaluation(step=40, time=41, loss=0.5, rows=1, trained_tokens=1, seconds=1))
    plot.show_history(history)
    assert list(plot.curves["train"].y) == list(history.loss.y)
    assert list(plot.curves["smoothed"].y) == list(history.smoothed_loss.y)
    assert list(plot.curves["eval"].y) == [0.5]


def test_a_resumed_run_draws_its_replay_alone(qtbot: QtBot, dark: Theme) -> None:
    plot, history = LossPlot(), RunHistory()
    qtbot.addWidget(plot)
    for number in range(1, 11):
        history.add(step(number, 1.0))
    plot.show_history(history)
    history.add(RunResumed(attempt=2, time=20, step=4, from_step=4, total_steps=10))
    for number in range(5, 11):
        history.add(step(number, 9.0).model_copy(update={"attempt": 2}))
    plot.show_history(history)
    assert list(plot.curves["train"].y) == [1.0] * 4 + [9.0] * 6


def test_another_run_starts_the_plot_over(qtbot: QtBot, dark: Theme) -> None:
    plot, one, other = LossPlot(), RunHistory(), RunHistory()
    qtbot.addWidget(plot)
    one.add(step(1, 1.0))
    other.add(step(1, 2.0))
    plot.show_history(one)
    plot.show_history(other)
    assert list(plot.curves["train"].y) == [2.0]


def test_memory_is_drawn_in_decimal_gigabytes(qtbot: QtBot, dark: Theme) -> None:
    plot, history = MemoryPlot(), RunHistory()
    qtbot.addWidget(plot)
    plot.show()
    on_cuda = {"cuda_allocated": 2_500_000_000, "cuda_reserved": 3 * 10**9, "device_used": 4 * 10**9, "device_total": 24 * 10**9}
    history.add(Memory(time=1, resident=10**9, **on_cuda))
    plot.show_history(history)
    drawn = {name: list(series.y) for name, series in plot.curves.items() if len(series)}
    assert drawn == {"allocated": [2.5], "reserved": [3.0], "device": [4.0]}


def test_on_a_processor_the_memory_plot_shows_what_the_process_holds(qtbot: QtBot, dark: Theme) -> None:
    plot, history = MemoryPlot(), RunHistory()
    qtbot.addWidget(plot)
    plot.show()
    history.add(Memory(time=1, resident=1_800_000_000))
    plot.show_history(history)
    plot.set_estimate(2_000_000_000)
    plot.refresh()
    shown = [entry.objectName() for entry in plot.legend.findChildren(LegendEntry) if entry.isVisibleTo(plot)]
    assert shown == ["legend_resident", "legend_estimate"]
    assert list(plot.curves["resident"].y) == [1.8]


def test_small_numbers_carry_their_power_of_ten_in_the_title(qtbot: QtBot, dark: Theme) -> None:
    plot, history = learning_rate_plot(), RunHistory()
    qtbot.addWidget(plot)
    for number, rate in enumerate((1e-5, 1e-4, 2e-4, 1e-4), start=1):
        history.add(step(number, 1.0, learning_rate=rate))
        plot.show_history(history)
    assert plot.title.text() == "Learning rate, ×10⁻⁴"
    assert list(plot.curves["learning_rate"].y) == pytest.approx([0.1, 1, 2, 1])


def test_a_curve_with_infinite_points_is_drawn_from_its_finite_ones(qtbot: QtBot, dark: Theme) -> None:
    plot, history = gradient_norm_plot(), RunHistory()
    qtbot.addWidget(plot)
    plot.show()
    for number, norm in enumerate((1.0, math.inf, 2.0, math.nan, 1.5), start=1):
        history.add(step(number, 1.0, grad_norm=norm))
    plot.show_history(history)
    plot.refresh()
    plot.grab()
    assert plot.curves["grad_norm"].bounds == (1.0, 2.0)
