"""Several rows in one block: best fit, longest row first, without a loop over rows.

Rows of one length are laid at a time: into the fullest blocks that still have room, then into new ones. That is what best-fit
decreasing does row by row (a block that took a row and has room for another of that length is the fullest with room), in as many
moves as there are lengths and rooms, not rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_studio.data.token_rows import Rows, TokenRow, end_to_end

Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Move:
    """Rows of one length laid into blocks with one room.

    Attributes:
        length: Tokens of each row.
        room: Tokens free in each block before.
        blocks: How many blocks.
        rows: Rows laid into each of them.
        new: Whether the blocks were empty.
    """

    length: int
    room: int
    blocks: int
    rows: int
    new: bool


def best_fit(counts: Lengths, capacity: int) -> Iterator[Move]:
    """Lay rows into blocks.

    Args:
        counts: How many rows have each length, shape (capacity + 1,); none has length 0.
        capacity: Tokens of a block.
    """
    free = [0] * (capacity + 1)
    rooms = 0  # bit r is set while a block has room r
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            above = rooms >> length
            new = not above
            room = capacity if new else length + (above & -above).bit_length() - 1
            fitting = room // length
            rows = min(fitting, left)
            blocks = max(1, left // fitting) if new else min(free[room], max(1, left // fitting))
            yield Move(length, room, blocks, rows, new)
            left -= blocks * rows
            if not new:
                free[room] -= blocks
                rooms &= ~(1 << room) if not free[room] else -1
            rest = room - rows * length
            free[rest] += blocks
            rooms |= 1 << rest
            rooms &= ~1  # a full block takes nothing


def count_blocks(counts: Lengths, capacity: int) -> int:
    """Return the number of blocks that `best_fit` comes to."""
    return sum(move.blocks for move in best_fit(counts, capacity) if move.new)


def assign_blocks(lengths: Lengths, capacity: int) -> Lengths:
    """Return the block of each row, shape (rows,); every length is within 1 and `capacity`."""
    order = np.argsort(-lengths, kind="stable")
    in_order = np.empty(lengths.size, dtype=np.int64)
    with_room: dict[int, list[Lengths]] = {}
    blocks = done = 0
    for move in best_fit(np.bincount(lengths, minlength=capacity + 1), capacity):
        if move.new:
            chosen = np.arange(blocks, blocks + move.blocks)
            blocks += move.blocks
        else:
            chosen = _take(with_room[move.room], move.blocks)
        count = move.blocks * move.rows
        in_order[done : done + count] = np.repeat(chosen, move.rows)
        done += count
        with_room.setdefault(move.room - move.rows * move.length, []).append(chosen)
    found = np.empty_like(in_order)
    found[order] = in_order
    return found


def _take(groups: list[Lengths], count: int) -> Lengths:
    """Take `count` blocks off the end of a list of groups of them."""
    taken: list[Lengths] = []
    while count:
        group = groups.pop()
        if group.size > count:
            groups.append(group[:-count])
            group = group[-count:]
        taken.append(group)
        count -= group.size
    return np.concatenate(taken)


class PackedRows(Rows):
    """Rows seen as blocks: item `b` is one long `TokenRow` whose `borders` say where each further row begins."""

    def __init__(self, rows: Rows, capacity: int) -> None:
        """Pack rows, none of which is longer than `capacity` tokens."""
        self._rows = rows
        self._capacity = capacity
        lengths = rows.lengths
        block_of = assign_blocks(lengths, capacity) if lengths.size else lengths
        self._order = np.argsort(block_of, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(block_of))]).astype(np.int64) if lengths.size else np.zeros(1, np.int64)
        self._lengths = self._sums(lengths)
        self._trained_counts = self._sums(rows.trained_counts)

    def __len__(self) -> int:
        return self._starts.size - 1

    def __getitem__(self, block: int) -> TokenRow:
        return end_to_end([self._rows[int(row)] for row in self.members(block)])

    @property
    def rows(self) -> Rows:
        """The rows in the blocks."""
        return self._rows

    def members(self, block: int) -> Lengths:
        """Return the numbers of the rows in a block, in their order."""
        if not 0 <= block < len(self):
            raise IndexError(f"block {block} of {len(self)}")
        return self._order[self._starts[block] : self._starts[block + 1]]

    def documents(self, row: int) -> Lengths:
        """Return the lengths of the rows in a block."""
        return self._rows.lengths[self.members(row)]

    @property
    def lengths(self) -> Lengths:
        """Tokens of each block, shape (blocks,)."""
        return self._lengths

    @property
    def trained_counts(self) -> Lengths:
        """Trained tokens of each block, shape (blocks,)."""
        return self._trained_counts

    @property
    def efficiency(self) -> float:
        """Share of the blocks' room that tokens fill."""
        return float(self._lengths.sum()) / (self._capacity * max(1, len(self)))

    def fingerprint(self) -> str:
        """Return a SHA-256 that is equal only for equal rows in equal blocks."""
        return hashlib.sha256(f"packed {self._capacity} {self._rows.fingerprint()}".encode()).hexdigest()

    def _sums(self, values: Lengths) -> Lengths:
        if not values.size:
            return values
        return np.add.reduceat(values[self._order], self._starts[:-1])
