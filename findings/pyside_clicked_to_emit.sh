#!/usr/bin/env bash
# PySide6 6.11.3: a button's `clicked(bool)` connected to the `emit` of a Python signal calls it without the argument that a slot of Python's own
# gets, and fails with a TypeError in the event loop at every press; the same signal declared in Python hands its argument on. So a check box
# connected to `edited.emit` never tells. Exits 0 while that is so, 1 where it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "PySide6-Essentials==6.11.3"
cd "$folder"
QT_QPA_PLATFORM=offscreen "$folder/venv/bin/python" - <<'PYTHON'
import sys

import PySide6
from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QApplication, QCheckBox

app = QApplication([])
failures = []
sys.excepthook = lambda kind, error, trace: failures.append(str(error))


class Row(QObject):
    given = Signal(bool)
    edited = Signal(object)


def heard(signal, press):
    """Give what arrives at `edited` when `signal` is connected to its `emit`, and at a function."""
    row, by_emit, by_function = Row(), [], []
    signal = signal(row)
    row.edited.connect(by_emit.append)
    signal.connect(row.edited.emit)
    signal.connect(lambda checked: by_function.append(checked))
    press(row)
    return by_emit, by_function


box = QCheckBox()
from_qt = heard(lambda row: box.clicked, lambda row: box.click())
from_python = heard(lambda row: row.given, lambda row: row.given.emit(True))
print(f"PySide6 {PySide6.__version__}: clicked gives emit {from_qt[0]} and a function {from_qt[1]} ({failures[:1]}); a Python signal {from_python}")
sys.exit(0 if from_qt == ([], [True]) and failures and from_python == ([True], [True]) else 1)
PYTHON
