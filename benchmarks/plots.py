"""What a tick of the Train page costs: all its curves appended to and repainted, at several lengths of a run.

    python benchmarks/plots.py [TICKS]

Prints, for a history of so many steps, the milliseconds that one tick with a new step and a new look at memory keeps the
window's thread busy, and how many points the loss curve is drawn with.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication, QGridLayout, QWidget  # noqa: E402

from lora_studio.core.history import RunHistory  # noqa: E402
from lora_studio.gui.plots.train import HistoryPlot, LossPlot, MemoryPlot, gradient_norm_plot, learning_rate_plot, speed_plot  # noqa: E402
from lora_studio.gui.theme import Theme  # noqa: E402

LENGTHS = (300, 10_000, 100_000, 1_000_000)


def grow(history: RunHistory, steps: int, random_numbers: random.Random) -> None:
    """Add steps to a history's columns, as `RunHistory.add` does, without making an event of each."""
    memory = history.memory
    for name in ("cuda_allocated", "cuda_reserved", "device_used"):
        if name not in memory:
            memory[name] = type(history.loss)()
    first = len(history.loss) + 1
    for step in range(first, first + steps):
        loss = 1.1 + 2.9 * math.exp(-step / 50) + random_numbers.gauss(0, 0.08)
        history.loss.append(step, loss)
        history.smoothed_loss.append(step, 1.1 + 2.9 * math.exp(-step / 60))
        history.learning_rate.append(step, 2e-4 * (1 + math.cos(step / 1e6)))
        history.grad_norm.append(step, 0.5 + abs(random_numbers.gauss(0, 0.2)))
        history.tokens_per_second.append(step, 11_400 + random_numbers.gauss(0, 150))
        memory["cuda_allocated"].append(step / 4, 1.6e9 + 2e8 * math.sin(step / 2))
        memory["cuda_reserved"].append(step / 4, 1.93e9)
        memory["device_used"].append(step / 4, 2.2e9)


def page() -> tuple[QWidget, list[HistoryPlot]]:
    """Lay the five plots out as the Train page does at 1440 pixels."""
    plots: list[HistoryPlot] = [LossPlot(), MemoryPlot(), gradient_norm_plot(), learning_rate_plot(), speed_plot()]
    holder = QWidget()
    grid = QGridLayout(holder)
    for number, plot in enumerate(plots):
        grid.addWidget(plot, 0 if number < 2 else 1, number * 3 if number < 2 else (number - 2) * 2, 1, 3 if number < 2 else 2)
    holder.resize(700, 420)
    holder.show()
    return holder, plots


def main(ticks: int) -> None:
    """Print a line for each length."""
    app = QApplication([])
    Theme(app, "dark")
    holder, plots = page()
    for length in LENGTHS:
        random_numbers, history = random.Random(0), RunHistory()
        grow(history, length, random_numbers)
        busy: list[float] = []
        for _ in range(ticks):
            grow(history, 1, random_numbers)
            start = time.process_time()
            for plot in plots:
                plot.show_history(history)
            app.processEvents()
            app.processEvents()
            busy.append((time.process_time() - start) * 1000)
        drawn = len(plots[0].curves["train"].thinned(0, length, 150)[0])
        steady = sorted(busy[3:])
        median, at_99 = statistics.median(steady), steady[min(int(len(steady) * 0.99), len(steady) - 1)]
        print(f"{length:>9,} steps: first {busy[0]:6.1f} ms, then median {median:5.1f}, p99 {at_99:5.1f}; {drawn:,} points drawn")
    holder.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 120)
