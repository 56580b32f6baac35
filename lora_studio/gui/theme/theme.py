"""`Theme`: the one place that gives the application its palette, fonts and style sheet."""

from __future__ import annotations

from string import Template

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

from lora_studio.core.paths import resources_folder
from lora_studio.gui.theme.colors import DARK, LIGHT, Colors
from lora_studio.gui.theme.fonts import MONO_FAMILY, UI_FAMILY, base_points, load_fonts, ui_font
from lora_studio.gui.theme.icons import place_icons

MODES = ("system", "light", "dark")
SMALLEST_SCALE, LARGEST_SCALE = 0.8, 1.6


class Theme(QObject):
    """The application's look, a child of the `QApplication`.

    Signals:
        changed: Colours or text size are new; style sheet and palette are in place already.
    """

    changed = Signal()

    def __init__(self, app: QApplication, mode: str = "system", scale: float = 1.0) -> None:
        super().__init__(app)
        self._app = app
        self._mode = mode
        self._scale = scale
        if app.style().name() != "fusion":
            app.setStyle("Fusion")
        load_fonts(resources_folder() / "fonts")
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._follow_system)
        self._apply()

    @property
    def mode(self) -> str:
        """`system`, `light` or `dark`, as chosen."""
        return self._mode

    @property
    def scale(self) -> float:
        """Text size as a factor of the usual one."""
        return self._scale

    @property
    def colors(self) -> Colors:
        """The colours in use."""
        if self._mode == "system":
            return LIGHT if QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Light else DARK
        return LIGHT if self._mode == "light" else DARK

    def set_mode(self, mode: str) -> None:
        """Choose `system`, `light` or `dark`.

        Raises:
            ValueError: There is no such mode.
        """
        if mode not in MODES:
            raise ValueError(f"no theme named {mode!r}")
        if mode != self._mode:
            self._mode = mode
            self._apply()

    def set_scale(self, scale: float) -> None:
        """Choose the text size; values outside 0.8 to 1.6 are brought inside."""
        scale = min(max(scale, SMALLEST_SCALE), LARGEST_SCALE)
        if scale != self._scale:
            self._scale = scale
            self._apply()

    def _follow_system(self) -> None:
        if self._mode == "system":
            self._apply()

    def _apply(self) -> None:
        self._app.setPalette(palette(self.colors))
        self._app.setFont(ui_font(self._scale))
        self._app.setStyleSheet(style_sheet(self.colors, self._scale))
        self.changed.emit()


def style_sheet(colors: Colors, scale: float) -> str:
    """Return the window's style sheet: `resources/theme/studio.qss` with colours, icons and point sizes filled in."""
    template = (resources_folder() / "theme" / "studio.qss").read_text(encoding="utf-8")
    points = {name: f"{base_points() * scale * factor:.2f}pt" for name, factor in _SIZES.items()}
    return Template(place_icons(template, colors)).substitute(colors.as_fields(), ui=UI_FAMILY, mono=MONO_FAMILY, **points)


_SIZES = {"pt_small": 0.92, "pt_base": 1.0, "pt_title": 1.0, "pt_large": 1.2, "pt_value": 1.5, "pt_mono": 0.9}


def palette(colors: Colors) -> QPalette:
    """Return Qt's palette in our colours, for what the style sheet does not reach."""
    result = QPalette()
    role, group = QPalette.ColorRole, QPalette.ColorGroup
    for target, color in (
        (role.Window, colors.window),
        (role.Base, colors.surface),
        (role.AlternateBase, colors.field),
        (role.Button, colors.field),
        (role.ToolTipBase, colors.field),
        (role.Highlight, colors.accent),
        (role.Link, colors.accent),
        (role.WindowText, colors.text),
        (role.Text, colors.text),
        (role.ButtonText, colors.text),
        (role.ToolTipText, colors.text),
        (role.HighlightedText, colors.on_primary),
        (role.PlaceholderText, colors.muted),
        (role.Mid, colors.border),
        (role.Light, colors.border),
        (role.Dark, colors.border),
        (role.Midlight, colors.border),
        (role.Accent, colors.accent),
    ):
        result.setColor(target, QColor(color))
    for target in (role.WindowText, role.Text, role.ButtonText):
        result.setColor(group.Disabled, target, QColor(colors.disabled))
    return result


def theme() -> Theme:
    """Return the application's theme; an application without one gets one that follows the system."""
    app = QApplication.instance()
    if not isinstance(app, QApplication):
        raise RuntimeError("a theme needs a QApplication")  # noqa: TRY004 - nothing was passed: the order of calls is wrong
    detected = app.findChild(Theme, options=Qt.FindChildOption.FindDirectChildrenOnly)
    return detected if isinstance(detected, Theme) else Theme(app)


def colors() -> Colors:
    """Return the colours in use: for a widget that paints itself, asked anew at each paint."""
    return theme().colors
