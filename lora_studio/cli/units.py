"""Numbers as a person reads them. GB is 10⁹ bytes."""

from __future__ import annotations

from collections.abc import Sequence


def in_bytes(count: float) -> str:
    """Write a size, such as `1.23 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}" if count < 10 * size else f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def in_time(seconds: float) -> str:
    """Write a duration, such as `2 h 05 min`, `3 min 20 s` or `8 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lay rows of text out in columns, two spaces between; columns in `right` are aligned right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(_padded(cell, widths[column], column in right) for column, cell in enumerate(row)).rstrip() for row in rows]


def _padded(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
