"""Numbers as a person reads them. GB means 10⁹ bytes, and it is written so."""

from __future__ import annotations

import time as clock


def format_bytes(count: float) -> str:
    """Write bytes with the unit that leaves one to three digits before the point: 269 MB, 1.9 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    return f"{count:.0f} bytes"


def format_gigabytes(count: float) -> str:
    """Write bytes as a bare number of GB: 1.9, 0.27."""
    value = count / 1e9
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def format_flops(rate: float) -> str:
    """Write floating-point operations a second: 840 GFLOP/s, 612 TFLOP/s."""
    return f"{rate / 1e12:.0f} TFLOP/s" if rate >= 1e13 else f"{rate / 1e9:.0f} GFLOP/s"


def format_seconds(seconds: float) -> str:
    """Write a duration: 41 ms, 8 s, 1 m 12 s, 2 h 05 m."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def format_count(count: int) -> str:
    """Write a whole number with separators: 992,256."""
    return f"{count:,}"


def format_time(time: float) -> str:
    """Write the local time of day of an instant in seconds since the epoch: 18:02:11."""
    return clock.strftime("%H:%M:%S", clock.localtime(time))


def format_when(time: float, now: float | None = None) -> str:
    """Write an instant as short as is clear: 18:04 today, "23 Nov 18:04" this year, else with the year."""
    then, today = clock.localtime(time), clock.localtime(clock.time() if now is None else now)
    if then[:3] == today[:3]:
        return clock.strftime("%H:%M", then)
    return clock.strftime("%d %b %H:%M" if then.tm_year == today.tm_year else "%d %b %Y", then)


def one_line(text: str, most: int = 80) -> str:
    """Return text on one line, cut to `most` characters with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1].rstrip() + "…"
