"""Where the tokens of a row stand in lines of a width; made in slices, so that a long row never stops the window."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from lora_studio.gui.data_page.lens.lens_tokens import LensTokens

PADDING, GAP = 3, 2  # pixels at both sides of a token's text, and between tokens
_NARROWEST = 9


class LensLayout:
    """Breaks tokens into lines: before one that does not fit, and after one with a line end.

    Args:
        tokens: What to lay out.
        width: Room of a line in pixels.
        advance: Gives the width of a text in pixels.
    """

    def __init__(self, tokens: LensTokens, width: int, advance: Callable[[str], int]) -> None:
        self._tokens = tokens
        self._room = max(width, 1)
        self._advance = advance
        self._widths: dict[str, int] = {}
        self._starts: list[int] = [0]
        self._x = 0
        self.done = 0

    @property
    def complete(self) -> bool:
        """Whether every token has its place."""
        return self.done == len(self._tokens)

    @property
    def lines(self) -> int:
        """Lines so far."""
        return len(self._starts) if self.done else 0

    def go_on(self, tokens: int) -> None:
        """Place some more tokens."""
        texts = self._tokens.texts
        for position in range(self.done, min(self.done + tokens, len(texts))):
            width = self.width(position) + GAP
            if self._x and self._x + width - GAP > self._room:
                self._starts.append(position)
                self._x = 0
            self._x += width
            if "\n" in texts[position] and position + 1 < len(texts):
                self._starts.append(position + 1)
                self._x = 0
            self.done = position + 1

    def width(self, place: int) -> int:
        """Return a token's width in pixels."""
        text = self._tokens.texts[place]
        width = self._widths.get(text)
        if width is None:
            width = self._widths[text] = max(self._advance(self._tokens.shown(place)) + 2 * PADDING, _NARROWEST)
        return min(width, self._room)

    def line_of(self, place: int) -> int:
        """Return the line a token stands in."""
        return bisect_right(self._starts, place) - 1

    def span(self, line: int) -> range:
        """Return the tokens of a line."""
        end = self._starts[line + 1] if line + 1 < len(self._starts) else self.done
        return range(self._starts[line], end)

    def lefts(self, line: int) -> list[int]:
        """Return where each token of a line begins, in pixels from the line's left."""
        widths = [self.width(position) + GAP for position in self.span(line)]
        return list(accumulate(widths, initial=0))[:-1]

    def token_at(self, line: int, x: float) -> int | None:
        """Return the token at a place of a line, or None beside them."""
        span = self.span(line)
        number = bisect_right(self.lefts(line), x) - 1
        if number < 0 or not span:
            return None
        position = span[number]
        return position if x < self.lefts(line)[number] + self.width(position) else None

    def nearest(self, line: int, x: float) -> int:
        """Return the token of a line that is nearest to an x."""
        span = self.span(line)
        middles = [left + self.width(position) / 2 for left, position in zip(self.lefts(line), span)]
        return span[min(range(len(span)), key=lambda number: abs(middles[number] - x))]
