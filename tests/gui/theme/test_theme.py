"""The theme's colours are computed, not judged by eye."""

from __future__ import annotations

import re
from string import Template

import pytest
from PySide6.QtGui import QFontInfo, QImage
from PySide6.QtWidgets import QApplication, QLabel
from pytestqt.qtbot import QtBot

from lora_studio.core.paths import resources_folder
from lora_studio.gui.theme import DARK, LIGHT, Colors, Theme
from lora_studio.gui.theme.fonts import base_points, mono_font, ui_font
from lora_studio.gui.theme.icons import icons_folder, pixmap, place_icons
from lora_studio.gui.theme.theme import style_sheet
from tests.gui.colour_vision import contrast, distance, distances, seen

BOTH = pytest.mark.parametrize("colors", [DARK, LIGHT], ids=lambda colors: colors.name)
TEXT_ON = ("window", "surface", "field", "hover")


@BOTH
@pytest.mark.parametrize("text", ["text", "muted", "accent", "good", "warning", "bad"])
def test_text_reaches_a_contrast_of_4_5_wherever_it_stands(colors: Colors, text: str) -> None:
    grounds = TEXT_ON if text in ("text", "muted") else ("window", "surface", "field")
    too_faint = {ground: contrast(getattr(colors, text), getattr(colors, ground)) for ground in grounds}
    assert {ground: ratio for ground, ratio in too_faint.items() if ratio < 4.5} == {}


@BOTH
def test_text_on_fills_reaches_a_contrast_of_4_5(colors: Colors) -> None:
    assert contrast(colors.on_primary, colors.primary) >= 4.5
    assert contrast(colors.on_primary, colors.primary_hover) >= 4.5
    assert contrast(colors.text, colors.selection) >= 4.5


@BOTH
def test_marks_reach_a_contrast_of_3_on_a_card(colors: Colors) -> None:
    marks = {**colors.curves(), "control": colors.control, "accent": colors.accent, "primary": colors.primary}
    assert {name: contrast(color, colors.surface) for name, color in marks.items() if contrast(color, colors.surface) < 3} == {}


@BOTH
def test_curve_colors_stay_apart_under_every_color_blindness(colors: Colors) -> None:
    close = [(vision, one, other, round(found, 1)) for vision, one, other, found in distances(colors.curves()) if found < 15]
    assert close == []


def test_color_difference_agrees_with_published_pairs() -> None:
    """Rows 1, 7, 10 and 17 of table 1 in Sharma, Wu and Dalal 2005."""
    assert distance((50, 2.6772, -79.7751), (50, 0, -82.7485)) == pytest.approx(2.0425, abs=1e-4)
    assert distance((50, 0, 0), (50, -1, 2)) == pytest.approx(2.3669, abs=1e-4)
    assert distance((50, 2.49, -0.001), (50, -2.49, 0.0011)) == pytest.approx(7.2195, abs=1e-4)
    assert distance((50, 2.5, 0), (73, 25, -18)) == pytest.approx(27.1492, abs=1e-4)


def test_white_is_seen_as_white() -> None:
    assert seen("#ffffff", "normal") == pytest.approx((100, 0, 0), abs=0.1)
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


@BOTH
def test_the_style_sheet_names_only_colors_of_the_theme(colors: Colors) -> None:
    sheet = style_sheet(colors, 1.0)
    spelled = set(re.findall(r"#[0-9a-fA-F]{6}\b", sheet))
    assert spelled <= set(colors.as_fields().values())
    assert "$" not in sheet
    assert "@icon" not in sheet


def test_the_style_sheet_gives_text_in_points() -> None:
    template = (resources_folder() / "theme" / "studio.qss").read_text(encoding="utf-8")
    assert re.findall(r"font-size:\s*(?!\$pt_)\S+", template) == []
    assert Template(template).is_valid()


def test_larger_text_enlarges_every_size_of_the_style_sheet() -> None:
    def sizes(scale: float) -> list[float]:
        return [float(size) for size in re.findall(r"font-size: ([\d.]+)pt", style_sheet(DARK, scale))]

    assert sizes(1.3) == pytest.approx([1.3 * size for size in sizes(1.0)], abs=0.02)


def test_every_icon_is_drawn_in_the_current_color_alone() -> None:
    for path in icons_folder().glob("*.svg"):
        if path.name != "app.svg":
            drawing = path.read_text(encoding="utf-8")
            assert "currentColor" in drawing, path.name
            assert re.findall(r"#[0-9a-fA-F]{3,6}", drawing) == [], path.name


def test_every_icon_paints_something_in_the_color_asked(qapp: QApplication) -> None:
    for path in icons_folder().glob("*.svg"):
        if path.name != "app.svg":
            image = pixmap(path.stem, "#ff0000", 32).toImage().convertToFormat(QImage.Format.Format_ARGB32)
            colors = {image.pixelColor(x, y).name() for x in range(32) for y in range(32) if image.pixelColor(x, y).alpha() == 255}
            assert colors == {"#ff0000"}, path.name


def test_a_cache_that_cannot_be_written_costs_no_icon(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("LORA_STUDIO_HOME", "/dev/null/nowhere")
    sheet = place_icons("image: @icon(check, accent);", DARK)
    path = re.search(r'url\("(.+?)"\)', sheet)
    assert path is not None
    assert DARK.accent in open(path[1], encoding="utf-8").read()  # noqa: SIM115, PTH123


def test_the_bundled_fonts_are_the_ones_used(dark: Theme) -> None:
    assert QFontInfo(ui_font()).family() == "Inter"
    assert QFontInfo(mono_font()).family() == "JetBrains Mono"
    assert ui_font(1.3).pointSizeF() == pytest.approx(1.3 * base_points())


def test_switching_the_theme_restyles_what_is_shown(dark: Theme, qtbot: QtBot) -> None:
    label = QLabel("text")
    qtbot.addWidget(label)
    label.show()
    before = label.palette().windowText().color().name()
    with qtbot.waitSignal(dark.changed):
        dark.set_mode("light")
    assert (before, label.palette().windowText().color().name()) == (DARK.text, LIGHT.text)


def test_an_unknown_theme_is_refused(dark: Theme) -> None:
    with pytest.raises(ValueError, match="no theme named 'sepia'"):
        dark.set_mode("sepia")


def test_text_size_stays_within_bounds(dark: Theme) -> None:
    dark.set_scale(9)
    assert dark.scale == 1.6
    dark.set_scale(0)
    assert dark.scale == 0.8
