"""Named colours. A widget names what a colour is for; nothing else in the window spells one out."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Colors:
    """One theme's colours, each `#rrggbb`.

    Text reaches a contrast of 4.5 on `window`, `surface` and `field`; marks and curves reach 3 on `surface`; the
    `curve_…` colours stay apart (CIEDE2000 ≥ 15) under simulated colour blindness. Tests compute all three.

    Attributes:
        name: `light` or `dark`.
        window: Behind everything.
        surface: Cards, header, menu and status bar.
        field: Inputs, tracks, read-out boxes.
        hover: What lies under the pointer.
        border: Hairline of a card, an input, a splitter.
        control: Outline of a check box or slider: a mark one has to see.
        text: What is read first.
        muted: Notes, units, axis numbers.
        disabled: Text of what cannot be used now.
        accent: Links, selection, progress, focus.
        primary: Fill of the one main button.
        on_primary: Text on `primary`.
        selection: Behind a selected row.
        good: Done, fits, running.
        warning: Look here.
        bad: Failed, wrong.
        grid: Grid lines of a plot: meant to be faint.
    """

    name: str
    window: str
    surface: str
    field: str
    hover: str
    border: str
    control: str
    text: str
    muted: str
    disabled: str
    accent: str
    primary: str
    primary_hover: str
    on_primary: str
    selection: str
    good: str
    warning: str
    bad: str
    grid: str
    curve_blue: str
    curve_orange: str
    curve_green: str
    curve_violet: str
    curve_red: str
    curve_grey: str

    def curves(self) -> dict[str, str]:
        """Return the curve colours by their short names, such as `blue`."""
        return {f.name.removeprefix("curve_"): getattr(self, f.name) for f in fields(self) if f.name.startswith("curve_")}

    def as_fields(self) -> dict[str, str]:
        """Return every colour by name, for the style sheet's template."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


DARK = Colors(
    name="dark",
    window="#15171c",
    surface="#1b1e25",
    field="#232730",
    hover="#2b303b",
    border="#2d323d",
    control="#727b8c",
    text="#e6e9ef",
    muted="#9aa3b2",
    disabled="#646c7a",
    accent="#5b9dff",
    primary="#2a67e0",
    primary_hover="#316ee6",
    on_primary="#ffffff",
    selection="#20345a",
    good="#3ddc97",
    warning="#ffb04d",
    bad="#ff7b7b",
    grid="#262b35",
    curve_blue="#589bfe",
    curve_orange="#ffb341",
    curve_green="#40ebad",
    curve_violet="#f1c6fd",
    curve_red="#f56165",
    curve_grey="#8d939f",
)

LIGHT = Colors(
    name="light",
    window="#f4f5f8",
    surface="#ffffff",
    field="#f7f8fb",
    hover="#eceff5",
    border="#dfe3ea",
    control="#7d8697",
    text="#1b1f27",
    muted="#5c6473",
    disabled="#9aa2b0",
    accent="#2563eb",
    primary="#2563eb",
    primary_hover="#1d55d3",
    on_primary="#ffffff",
    selection="#dbe7ff",
    good="#0a7f55",
    warning="#9a5b00",
    bad="#c81e1e",
    grid="#eef0f4",
    curve_blue="#556dfa",
    curve_orange="#b66f03",
    curve_green="#0f9d6b",
    curve_violet="#89009b",
    curve_red="#ac0009",
    curve_grey="#8a909c",
)
THEMES = {"light": LIGHT, "dark": DARK}
