"""Tokenized rows in flat arrays, in memory or mapped from a file, so that a million rows cost what their tokens cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenRow:
    """One row: its token ids and which of them are trained, both of shape (length,).

    Attributes:
        input_ids: The tokens.
        trained: Which of them are trained; never a row's first, which nothing predicts.
        borders: Of rows packed into one: where each but the first begins. Rows do not attend across a border.
    """

    input_ids: TokenIds
    trained: Mask
    borders: tuple[int, ...] = ()


def end_to_end(rows: Sequence[TokenRow]) -> TokenRow:
    """Lay rows one behind the other into a long one, whose borders say where each further row begins."""
    borders = np.cumsum([row.input_ids.size for row in rows])[:-1]
    return TokenRow(np.concatenate([row.input_ids for row in rows]), np.concatenate([row.trained for row in rows]), tuple(borders.tolist()))


@dataclass(frozen=True)
class TokenBlock:
    """Rows side by side, as they come from a tokenizer.

    Attributes:
        input_ids: Tokens of all rows, shape (tokens,).
        trained: Which of them are trained, shape (tokens,); never a row's first.
        sizes: How many tokens each row has, shape (rows,).
    """

    input_ids: TokenIds
    trained: Mask
    sizes: Numbers

    @classmethod
    def of(cls, rows: Sequence[TokenRow]) -> TokenBlock:
        """Put rows side by side."""
        ids, trained = [row.input_ids for row in rows], [row.trained for row in rows]
        nothing = (np.empty(0, np.int32), np.empty(0, np.bool_))
        return cls(np.concatenate([nothing[0], *ids]), np.concatenate([nothing[1], *trained]), np.array(list(map(len, ids)), np.int64))

    def rows(self) -> list[TokenRow]:
        """Return each row by itself."""
        ends = np.cumsum(self.sizes).tolist()
        return [TokenRow(self.input_ids[start:end], self.trained[start:end]) for start, end in zip([0, *ends], ends)]


class Rows(ABC):
    """Rows by number: single ones, or packed into blocks."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, row: int) -> TokenRow: ...

    def __iter__(self) -> Iterator[TokenRow]:
        return (self[row] for row in range(len(self)))

    @property
    @abstractmethod
    def lengths(self) -> Numbers:
        """Tokens of each row, shape (rows,)."""

    @property
    @abstractmethod
    def trained_counts(self) -> Numbers:
        """Trained tokens of each row, shape (rows,)."""

    def documents(self, row: int) -> Numbers:
        """Return the lengths of what attends to itself alone within a row: the row's own, or those packed into it."""
        return self.lengths[row : row + 1]

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 as hexadecimal digits: equal only for equal rows."""


@dataclass(frozen=True)
class TokenRows(Rows):
    """Stretches of flat arrays, each a row; what lies between them belongs to no row.

    Attributes:
        input_ids: Token ids, shape (tokens,).
        trained: Which of them are trained, shape (tokens,).
        starts: Where each row starts, shape (rows,).
        row_lengths: How many tokens it has, shape (rows,).
        counts: How many of those are trained, shape (rows,).
        identity: SHA-256 of all this, as hexadecimal digits.
    """

    input_ids: TokenIds
    trained: Mask
    starts: Numbers
    row_lengths: Numbers
    counts: Numbers
    identity: str

    def __len__(self) -> int:
        return self.starts.size

    def __getitem__(self, row: int) -> TokenRow:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        start = int(self.starts[row])
        end = start + int(self.row_lengths[row])
        return TokenRow(self.input_ids[start:end], self.trained[start:end])

    @property
    def lengths(self) -> Numbers:
        """Tokens of each row, shape (rows,)."""
        return self.row_lengths

    @property
    def trained_counts(self) -> Numbers:
        """Trained tokens of each row, shape (rows,)."""
        return self.counts

    def fingerprint(self) -> str:
        """Return the rows' identity: equal only for equal ids, masks and row borders."""
        return self.identity
