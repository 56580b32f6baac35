"""The look: named colours in light and dark, style sheet, fonts, icons."""

from lora_studio.gui.theme.colors import DARK, LIGHT, Colors
from lora_studio.gui.theme.icons import icon
from lora_studio.gui.theme.theme import Theme, colors, theme

__all__ = ["DARK", "LIGHT", "Colors", "Theme", "colors", "icon", "theme"]
