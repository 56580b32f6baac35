"""The window's event loop while a run trains beside it, off-screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.call import Row, Setting

_ROOT = Path(__file__).resolve().parents[2]


def window(setting: Setting) -> Iterator[Row]:
    """Open the real window, train a tiny model in its background thread, and measure how late the event loop is."""
    steps = 6 if setting.tiny else 200
    command = [sys.executable, str(_ROOT / "benchmarks" / "event_loop.py"), "--tiny", "--json", "--steps", str(steps)]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    for phase, figures in json.loads(done.stdout).items():
        yield Row(phase, figures, note="goal: p99 16.7 ms and no stall over 50 ms" if phase in ("training", "train") else "")
