"""A run's loss curves as a picture: an SVG of our own, to stand beside a model card. No torch here.

A script or a link to elsewhere would be taken out by those who show such a picture, so it holds shapes and plain text alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from lora_studio.core.history import Curve, RunHistory

WIDTH, HEIGHT = 760, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 28, 40, 44
_INK, _FAINT, _GRID = "#1f2328", "#59636e", "#d8dee4"
_RAW, _SMOOTH, _EVAL = "#9ec5f4", "#1f6feb", "#bc4c00"
_ENTRY = 134  # pixels of one entry of the legend
_MOST_POINTS = 600
_TICKS = 5
_SPIKES = 0.01  # share of the raw losses, at either end, for which the axis is not stretched

Point = tuple[float, float]


@dataclass(frozen=True)
class _Frame:
    """What part of the plane the picture shows."""

    x0: float
    x1: float
    y0: float
    y1: float

    def place(self, x: float, y: float) -> Point:
        """Return a point's place in the picture, in pixels from its upper left corner; what is beyond the axis lies on the edge."""
        across = (x - self.x0) / (self.x1 - self.x0)
        up = (min(max(y, self.y0), self.y1) - self.y0) / (self.y1 - self.y0)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)


def curves_svg(history: RunHistory, title: str) -> str:
    """Draw training loss, its moving average and evaluation loss over the steps; empty where fewer than two losses are finite.

    Args:
        history: A replay of the run's events.
        title: What stands above the plot.
    """
    raw, smooth, evaluation = (_finite(curve) for curve in (history.loss, history.smoothed_loss, history.evaluation))
    if len(raw) < 2:
        return ""
    frame = _frame_of(raw, evaluation)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
        *_axes(frame),
        *_lines(frame, raw, smooth, evaluation),
        *_legend(title, has_evaluation=bool(evaluation)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _finite(curve: Curve) -> list[Point]:
    return [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)]


def _frame_of(raw: Sequence[Point], evaluation: Sequence[Point]) -> _Frame:
    """Show every step and every evaluation; a few spikes of the raw losses, and what they do to the average, may leave the picture."""
    losses = sorted(y for _x, y in raw)
    beyond = int(len(losses) * _SPIKES)
    shown = [*losses[beyond : len(losses) - beyond], *(y for _x, y in evaluation)]
    steps = [x for x, _y in (*raw, *evaluation)]
    low, high = min(shown), max(shown)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    bottom = max(0.0, low - margin) if low >= 0 else low - margin
    return _Frame(min(steps), max(*steps, min(steps) + 1), bottom, high + margin)


def _axes(frame: _Frame) -> Iterable[str]:
    bottom = HEIGHT - _BOTTOM
    for value in ticks(frame.y0, frame.y1):
        _x, y = frame.place(frame.x0, value)
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{_FAINT}">{value:g}</text>'
    for value in ticks(frame.x0, frame.x1):
        if value == int(value):
            x, _y = frame.place(value, frame.y0)
            yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="{_FAINT}">{value:,.0f}</text>'
    yield f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="{_FAINT}">step</text>'


def ticks(low: float, high: float) -> list[float]:
    """Return some five round numbers within a range: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9)
    return [round(number * apart, 12) for number in range(first, last + 1)]


def _lines(frame: _Frame, raw: Sequence[Point], smooth: Sequence[Point], evaluation: Sequence[Point]) -> Iterable[str]:
    yield '<g fill="none" stroke-linejoin="round">'
    yield _line(frame, raw, _RAW, 1.0)
    yield _line(frame, smooth, _SMOOTH, 2.0)
    if evaluation:
        yield _line(frame, evaluation, _EVAL, 2.0)
        if len(evaluation) <= 50:
            places = (frame.place(x, y) for x, y in evaluation)
            yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_EVAL}"/>' for x, y in places)
    yield "</g>"


def _line(frame: _Frame, points: Sequence[Point], color: str, width: float) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.place(*point) for point in thinned(points)))
    return f'<polyline points="{places}" stroke="{color}" stroke-width="{width:g}"/>'


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Leave at most some `most` points of a curve, with the lowest and the highest of every stretch among them."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2
    kept: list[Point] = []
    for number in range(stretches):
        stretch = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return kept


def _legend(title: str, *, has_evaluation: bool) -> Iterable[str]:
    yield f'<text x="{_LEFT}" y="24" font-size="14" font-weight="600" fill="{_INK}">{escape(title)}</text>'
    entries = [("loss of a step", _RAW), ("moving average", _SMOOTH), *([("evaluation", _EVAL)] if has_evaluation else [])]
    x = WIDTH - _RIGHT - _ENTRY * len(entries)
    for name, color in entries:
        yield f'<line x1="{x}" y1="20" x2="{x + 16}" y2="20" stroke="{color}" stroke-width="3"/>'
        yield f'<text x="{x + 22}" y="24" fill="{_FAINT}">{name}</text>'
        x += _ENTRY
