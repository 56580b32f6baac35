"""How long the window takes to its first paint and to its plots, beside a bare PySide6 window.

The two are started in turns, each in a fresh process; times run from before the process is started. The
processor time beside them is what a machine without other work would take.

    python benchmarks/first_paint.py [REPEATS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BARE = """
import json, sys, time
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QMainWindow

class Window(QMainWindow):
    def paintEvent(self, event):
        super().paintEvent(event)
        QTimer.singleShot(0, tell)

def tell():
    print(json.dumps({"paint": time.time(), "paint_cpu": time.process_time()}))
    app.quit()

app = QApplication([])
window = Window()
window.resize(1440, 900)
window.show()
app.exec()
"""

OURS = """
import json, sys, time
import lora_studio.gui.app as app

def told(opened, target):
    times = {"paint": time.time(), "paint_cpu": time.process_time()}
    times["imported"] = sorted({"pydantic", "pyqtgraph", "torch"} & set(sys.modules))
    fill(opened, target)
    def ready():
        times.update(plots=time.time(), plots_cpu=time.process_time())
        times["torch"] = "torch" in sys.modules
        print(json.dumps(times))
        opened.window.close()
        opened.app.quit()
    times.update(panels=time.time(), panels_cpu=time.process_time())
    opened.services.pages.made.connect(ready)

fill, app._fill = app._fill, told
from lora_studio.cli.main import main
main([], app.run)
"""


def measure(code: str, home: str) -> dict[str, object]:
    """Run a window in a fresh process; give seconds from before its start to each of its marks."""
    environment = {**os.environ, "LORA_STUDIO_HOME": home, "LORA_STUDIO_NO_ENGINE": "1", "PYTHONPATH": str(ROOT)}
    environment.setdefault("QT_QPA_PLATFORM", "offscreen")
    # Compiled once, as installed programs are, whatever this shell is set to.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(Path(home) / "compiled")
    start = time.time()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    marks = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {"failed": done.stderr[-2000:]}
    return {name: mark - start if isinstance(mark, float) and not name.endswith("_cpu") else mark for name, mark in marks.items()}


def main(repeats: int) -> None:
    """Print medians and spread."""
    with tempfile.TemporaryDirectory() as home:
        measure(BARE, home)
        measure(OURS, home)
        rows = [(measure(BARE, home), measure(OURS, home)) for _ in range(repeats)]
    for title, side in (("bare window, paint", 0), ("ours, paint", 1), ("ours, panels", 1), ("ours, plots", 1)):
        mark = title.rpartition(" ")[2]
        seconds = sorted(float(str(row[side][mark])) for row in rows)
        spent = statistics.median(float(str(row[side][f"{mark}_cpu"])) for row in rows)
        median = statistics.median(seconds)
        print(f"{title:20} median {median:.3f} s   least {seconds[0]:.3f}   greatest {seconds[-1]:.3f}   CPU {spent:.3f}")
    behind = [float(str(ours["paint"])) - float(str(bare["paint"])) for bare, ours in rows]
    print(f"{'behind bare, paint':20} median {statistics.median(behind) * 1000:.0f} ms   least {min(behind) * 1000:.0f}")
    print(f"imported before the first paint: {rows[-1][1]['imported']}; torch when the plots are ready: {rows[-1][1]['torch']}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
