"""Tokenized rows in three flat arrays, so that a million rows cost what their tokens cost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenRow:
    """One row: its token ids and which of them are trained, both of shape (length,)."""

    input_ids: TokenIds
    trained: Mask


@dataclass(frozen=True)
class TokenRows:
    """Rows one after the other.

    Attributes:
        input_ids: All ids, shape (tokens,).
        trained: Which of them are trained, shape (tokens,). A row's first token never is: nothing predicts it.
        offsets: Where each row starts and the last one ends, shape (rows + 1,).
    """

    input_ids: TokenIds
    trained: Mask
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, row: int) -> TokenRow:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        start, end = self.offsets[row % len(self)], self.offsets[row % len(self) + 1]
        return TokenRow(self.input_ids[start:end], self.trained[start:end])

    def __iter__(self) -> Iterator[TokenRow]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self.offsets)

    @property
    def trained_counts(self) -> NDArray[np.int64]:
        """Trained tokens of each row, shape (rows,)."""
        sums = np.concatenate([[0], np.cumsum(self.trained, dtype=np.int64)])
        return np.diff(sums[self.offsets])

    def fingerprint(self) -> str:
        """Give a SHA-256 over ids, masks and row borders, as hexadecimal digits: equal only for equal rows."""
        digest = hashlib.sha256()
        for array, kind in ((self.offsets, "<i8"), (self.input_ids, "<i4"), (self.trained, "u1")):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()


@dataclass
class TokenRowsBuilder:
    """Gathers rows, then lays them out flat."""

    _ids: list[TokenIds] = field(default_factory=list[TokenIds])
    _trained: list[Mask] = field(default_factory=list[Mask])

    def add(self, row: TokenRow) -> None:
        """Take one more row."""
        self._ids.append(row.input_ids)
        self._trained.append(row.trained)

    def build(self) -> TokenRows:
        """Give all rows taken so far."""
        lengths = [0, *(ids.size for ids in self._ids)]
        return TokenRows(
            np.concatenate([np.empty(0, np.int32), *self._ids]),
            np.concatenate([np.empty(0, np.bool_), *self._trained]),
            np.cumsum(lengths, dtype=np.int64),
        )
