"""Icons: SVG files drawn in `currentColor`, painted in the theme's colours."""

from __future__ import annotations

import re
import zlib
from functools import cache
from pathlib import Path

from PySide6.QtCore import QByteArray, QDir, QRectF, QSize, Qt
from PySide6.QtGui import QGuiApplication, QIcon, QPainter, QPixmap

from lora_studio.core.paths import resources_folder, studio_paths
from lora_studio.gui.theme.colors import Colors

_REFERENCE = re.compile(r"@icon\((?P<icon>[\w-]+),\s*(?P<color>\w+)\)")


@cache
def icons_folder() -> Path:
    """Return the folder of the SVG files."""
    return resources_folder() / "icons"


def svg_in_color(name: str, color: str) -> bytes:
    """Return an icon's SVG with `currentColor` replaced by `#rrggbb`."""
    return _svg(name).replace("currentColor", color).encode()


@cache
def _svg(name: str) -> str:
    return (icons_folder() / f"{name}.svg").read_text(encoding="utf-8")


def pixmap(name: str, color: str, size: int, ratio: float = 1.0) -> QPixmap:
    """Paint an icon in a colour; `size` is in logical pixels, `ratio` the screen's device pixel ratio."""
    from PySide6.QtSvg import QSvgRenderer

    image = QPixmap(QSize(round(size * ratio), round(size * ratio)))
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    QSvgRenderer(QByteArray(svg_in_color(name, color))).render(painter, QRectF(image.rect()))
    painter.end()
    image.setDevicePixelRatio(ratio)
    return image


def icon(name: str, color: str, disabled: str = "", size: int = 16) -> QIcon:
    """Return an icon in a colour, for ordinary screens and for the densest one there is, with its look while disabled."""
    result = QIcon()
    densest = max((screen.devicePixelRatio() for screen in QGuiApplication.screens()), default=1.0)
    for ratio in {1.0, densest}:
        result.addPixmap(pixmap(name, color, size, ratio))
        if disabled:
            result.addPixmap(pixmap(name, disabled, size, ratio), QIcon.Mode.Disabled)
    return result


def place_icons(sheet: str, colors: Colors) -> str:
    """Replace each `@icon(name, color)` of a style sheet by a `url(…)` of that icon in the theme's colour.

    A style sheet can only name files, so the coloured icons are written to the cache once for each theme.
    """
    wanted = sorted({(match["icon"], match["color"]) for match in _REFERENCE.finditer(sheet)})
    drawings = {f"{name}-{color}.svg": svg_in_color(name, getattr(colors, color)) for name, color in wanted}
    folder = _written(drawings, colors.name)
    return _REFERENCE.sub(lambda match: f'url("{folder.as_posix()}/{match["icon"]}-{match["color"]}.svg")', sheet)


def _written(drawings: dict[str, bytes], theme_name: str) -> Path:
    digest = f"{zlib.crc32(b''.join(name.encode() + drawing for name, drawing in drawings.items())):08x}"
    folder = studio_paths().cache / "theme" / f"{theme_name}-{digest}"
    try:
        _write_missing(folder, drawings)
    except OSError:  # a cache that cannot be written costs a temporary folder, not the window
        folder = Path(QDir.tempPath()) / f"lora-studio-theme-{theme_name}-{digest}"
        _write_missing(folder, drawings)
    return folder


def _write_missing(folder: Path, drawings: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != len(drawing):
            path.write_bytes(drawing)
