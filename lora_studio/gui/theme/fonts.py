"""The bundled fonts: Inter for the window, JetBrains Mono for the log and for code."""

from __future__ import annotations

import sys
from pathlib import Path

from PySide6.QtGui import QFont, QFontDatabase

UI_FAMILY = "Inter"
MONO_FAMILY = "JetBrains Mono"
_UI_FILES = ("Inter-Regular.otf", "Inter-Bold.otf")
_MONO_FILES = ("JetBrainsMono-Regular.ttf",)


def base_points() -> float:
    """Return the size of ordinary text: 13 pixels at the system's usual density."""
    return 13.0 if sys.platform == "darwin" else 9.75


def load_fonts(folder: Path) -> list[str]:
    """Register the bundled fonts with the application; give their families, without those that are missing."""
    families: list[str] = []
    for name in (*_UI_FILES, *_MONO_FILES):
        number = QFontDatabase.addApplicationFont(str(folder / name))
        families += QFontDatabase.applicationFontFamilies(number) if number >= 0 else []
    return families


def ui_font(scale: float = 1.0) -> QFont:
    """Return the window's font at a text scale, 1.3 for text 30% larger."""
    font = QFont([UI_FAMILY, "Noto Sans", "Segoe UI", "Helvetica Neue", "DejaVu Sans"])
    font.setPointSizeF(base_points() * scale)
    # Numbers that change must not make their neighbours jump.
    font.setFeature(QFont.Tag("tnum"), 1)
    return font


def mono_font(scale: float = 1.0) -> QFont:
    """Return the font of the log, of YAML and of commands."""
    font = QFont([MONO_FAMILY, "DejaVu Sans Mono", "Consolas", "Menlo"])
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPointSizeF(base_points() * 0.93 * scale)
    return font
