"""How long the window's event loop waits, by phase, while the engine is imported, a model loads, trains and is exported.

The real window runs off-screen (`QT_QPA_PLATFORM=offscreen` unless set), a 4 ms timer in its thread measures how late it is called,
and every wait over 50 ms is counted under the phase it fell in.

    python benchmarks/event_loop.py            the starter project
    python benchmarks/event_loop.py --tiny     a model of a few thousand parameters
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Qt reads its platform when it is loaded.
from PySide6.QtCore import QElapsedTimer, QEventLoop, QObject, Qt, QTimer  # noqa: E402

if TYPE_CHECKING:
    from lora_studio.gui.app import Opened
    from lora_studio.gui.runs.shown_run import ShownRun

STALL_MS = 50.0
_INTERVAL_MS = 4
_GIVE_UP_S = 1800.0


class DelayMeter(QObject):
    """Records how late a precise timer is called, under the phase of the moment."""

    def __init__(self) -> None:
        super().__init__()
        self.phase: Callable[[], str] = lambda: "start"
        self.delays: dict[str, list[float]] = defaultdict(list)
        self._clock = QElapsedTimer()
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.timeout.connect(self._look)

    def start(self) -> None:
        self._clock.start()
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()

    def _look(self) -> None:
        late = self._clock.nsecsElapsed() / 1e6 - _INTERVAL_MS
        self._clock.start()
        self.delays[self.phase()].append(max(0.0, late))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Run the event loop until something holds."""
    loop = QEventLoop()
    timer = QTimer()
    timer.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > until else None)
    until = time.monotonic() + _GIVE_UP_S
    timer.start(20)
    loop.exec()
    timer.stop()
    if not condition():
        raise TimeoutError(f"waited {_GIVE_UP_S:.0f} s for {what}")


def tiny_project(folder: Path) -> dict[str, object]:
    """Make a tiny model and rows, in a child so that torch is still to be imported here; give the edits that make them the draft."""
    model, rows = folder / "tiny", folder / "chat.jsonl"
    made = "from pathlib import Path; from tests.tiny import *; save_tiny_model(Path({!r})); write_chat_rows(Path({!r}), 96)"
    subprocess.run([sys.executable, "-c", made.format(str(model), str(rows))], check=True, cwd=ROOT, capture_output=True)
    return {
        "name": "tiny",
        "model.name_or_path": str(model),
        "data.train": (str(rows),),
        "training.num_train_epochs": 12,
        "training.sample_max_new_tokens": 24,
    }


def measure(arguments: argparse.Namespace, home: Path) -> dict[str, list[float]]:
    """Go through the phases in the real window; give the delays in ms of each."""
    from lora_studio.gui.app import open_window

    changes = tiny_project(home) if arguments.tiny else None
    opened = open_window()
    assert opened is not None
    meter = DelayMeter()
    meter.start()
    try:
        _go_through(opened, meter, arguments, changes)
    finally:
        meter.stop()
        opened.close()
    return meter.delays


def _go_through(opened: Opened, meter: DelayMeter, arguments: argparse.Namespace, changes: dict[str, object] | None) -> None:
    wait_until(lambda: opened.services is not None and hasattr(opened.services.pages, "train"), "the pages")
    services = opened.services
    assert services is not None
    meter.phase = lambda: "import"
    if changes is None:
        services.workspace.draft.open_starter()
    else:
        services.workspace.draft.edit(changes, "tiny")
    if arguments.steps:
        services.workspace.draft.edit({"training.max_steps": arguments.steps}, "steps")
    wait_until(lambda: services.engine.ready, "the engine")
    meter.phase = lambda: "prepare"
    wait_until(lambda: services.workspace.readiness.ready and not services.jobs.jobs, "a draft that can start")
    run_view = services.run_view
    meter.phase = lambda: _phase_of(run_view)
    services.starter.start_run()
    wait_until(lambda: not run_view.is_live, "the run")
    if run_view.state != "finished":
        raise RuntimeError(f"the run ended as {run_view.state}: {run_view.failure}")
    meter.phase = lambda: "merge"
    dialog = services.pages.train.export("merged")
    assert dialog is not None
    dialog.begin()
    wait_until(lambda: dialog.job is None, "the merge")
    dialog.close()


def _phase_of(run_view: ShownRun) -> str:
    history = run_view.history
    if history.phase is None:
        return "train" if history.started else "load"
    names = {"loading": "load", "preparing": "load"}
    return names.get(history.phase.name, history.phase.name)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(delays: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Sum up each phase: looks, p50, p99 and maximum in ms, waits over 50 ms."""
    return {
        phase: {
            "looks": len(values),
            "p50": percentile(values, 0.5),
            "p99": percentile(values, 0.99),
            "max": max(values),
            "stalls": sum(value > STALL_MS for value in values),
        }
        for phase, values in delays.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="train a model of a few thousand parameters instead of the starter")
    parser.add_argument("--steps", type=int, default=0, help="train this many steps only")
    parser.add_argument("--home", type=Path, help="settings, cache and runs (a temporary folder unless given)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        os.environ["LORA_STUDIO_HOME"] = str(home)
        found = report(measure(arguments, home))
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    print(f"event-loop delay in ms · {machine}")
    print(f"{'phase':<12}{'looks':>8}{'p50':>9}{'p99':>9}{'max':>9}{'over 50 ms':>12}")
    for phase, row in found.items():
        print(f"{phase:<12}{row['looks']:>8.0f}{row['p50']:>9.2f}{row['p99']:>9.2f}{row['max']:>9.1f}{row['stalls']:>12.0f}")


if __name__ == "__main__":
    main()
