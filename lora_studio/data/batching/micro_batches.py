"""A step's rows cut into micro-batches: rows beside each other, padded to the longest, or end to end, without padding.

Rows are given by number with their lengths, from the longest down. Whichever way they are cut, a step learns from the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


def cut_by_length(
    rows: Sequence[int],
    lengths: Sequence[int],
    size: int,
    pass_tokens: int,
    most_tokens: int | None = None,
) -> list[tuple[int, ...]]:
    """Cut rows that will be padded into the micro-batches that take the least time.

    Args:
        rows: Their numbers.
        lengths: Tokens of each.
        size: Rows of a micro-batch at most.
        pass_tokens: How many tokens' time a pass takes however few it holds.
        most_tokens: Tokens of a micro-batch at most, padding and all; a longer row stands alone. None for no bound.
    """

    def cost(number: int, longest: int) -> float:
        tokens = number * longest
        return math.inf if number > 1 and most_tokens is not None and tokens > most_tokens else tokens + pass_tokens

    ends = cheapest_cuts(lengths, cost, size)
    return [tuple(rows[start:end]) for start, end in zip([0, *ends], ends)]


def cheapest_cuts(lengths: Sequence[int], cost: Callable[[int, int], float], size: int | None = None) -> list[int]:
    """Return the ends of the parts into which it is cheapest to cut what lies in order, from the longest down.

    The cheapest way to cut up to each place is built on the cheapest ways up to the places before it.

    Args:
        lengths: From the longest down.
        cost: Of a part, by how many are in it and the length of its longest; infinite where it must not be, but never of one alone.
        size: How many a part holds at most; None for no bound.
    """
    costs, cut_before = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        first = 0 if size is None else max(0, end - size)
        least, start = min((costs[start] + cost(end - start, lengths[start]), start) for start in range(first, end))
        costs.append(least)
        cut_before.append(start)
    ends: list[int] = []
    end = len(lengths)
    while end:
        ends.append(end)
        end = cut_before[end]
    return ends[::-1]


@dataclass
class _Part:
    room: int
    rows: list[int] = field(default_factory=list)


def cut_end_to_end(rows: Sequence[int], lengths: Sequence[int], size: int, most_tokens: int) -> list[tuple[int, ...]]:
    """Cut rows that will be laid end to end into few micro-batches: each row goes into the first that has room for it.

    Args:
        rows: Their numbers.
        lengths: Tokens of each.
        size: Rows of a micro-batch at most.
        most_tokens: Tokens of a micro-batch at most; a longer row stands alone.
    """
    parts: list[_Part] = []
    for row, length in zip(rows, lengths):
        part = next((part for part in parts if part.room >= length and len(part.rows) < size), None)
        if part is None:
            part = _Part(most_tokens)
            parts.append(part)
        part.rows.append(row)
        part.room -= length
    return [tuple(part.rows) for part in parts]
