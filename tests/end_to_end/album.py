"""Screenshots of the window as it stands: at three sizes, in both themes, with what is clipped in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.person import Program

SIZES = ((1440, 900), (1100, 700), (1000, 600))
THEMES = ("dark", "light")


@dataclass
class Picture:
    """One screenshot: where it is, its size in pixels, how many colours a sample of its pixels has, and which widgets are clipped."""

    path: str
    size: tuple[int, int]
    shades: int
    clipped: list[str]


@dataclass
class Album:
    """Takes pictures named `<page>_<theme>_<width>x<height>.png` into a folder."""

    folder: Path
    pictures: list[Picture] = field(default_factory=list)

    def take(self, program: Program, page: str, sizes: Sequence[tuple[int, int]] = SIZES, show: str = "") -> None:
        """Photograph the window at each size in each theme, then put it back; `show` names a widget to scroll to."""
        before = program.see("program")
        for theme in THEMES:
            program.see("wear", theme)
            for width, height in sizes:
                program.see("resize", width, height)
                if show:
                    program.see("reveal", show)
                path = self.folder / f"{page}_{theme}_{width}x{height}.png"
                seen = program.see("picture", str(path))
                self.pictures.append(Picture(str(path), tuple(seen["size"]), seen["shades"], program.see("clipped")))
        program.see("wear", before["theme"])
        program.see("resize", *before["size"])
