"""What any `max_length` makes of a data set, answered from lengths alone: no token is read again. Light.

Tokens left at a length are a sum over sorted lengths; trained tokens left are those at positions below it, over all rows. So each
answer is exact, whatever the lengths.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_studio.data.batching.packing import count_blocks

Numbers = NDArray[np.int64]
LENGTHS, FIRST_TRAINED, TRAINED_AT = "lengths.npy", "first_trained.npy", "trained_at.npy"
_BINS = 60


@dataclass(frozen=True)
class Cut:
    """Rows cut to one length.

    Attributes:
        max_length: The length.
        rows: Rows in all.
        cut_rows: Rows longer than it.
        untrained_rows: Rows of which nothing trained is left; a run leaves them out.
        tokens: Tokens left of all rows.
        trained: Trained ones among them.
        blocks: Blocks of `max_length` that the rows which train something are packed into.
        efficiency: Share of the blocks' room that tokens fill.
    """

    max_length: int
    rows: int
    cut_rows: int
    untrained_rows: int
    tokens: int
    trained: int
    blocks: int
    efficiency: float

    @property
    def share_trained(self) -> float:
        """Share of the tokens left that is trained."""
        return self.trained / self.tokens if self.tokens else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**asdict(self), "share_trained": self.share_trained}


@dataclass(frozen=True)
class LengthTable:
    """Lengths of rows before any cut.

    Attributes:
        lengths: Tokens of each row, shape (rows,).
        first_trained: Position of each row's first trained token; its length where there is none, shape (rows,).
        trained_at: In how many rows the token at a position is trained, shape (longest row,).
    """

    lengths: Numbers
    first_trained: Numbers
    trained_at: Numbers

    @classmethod
    def open(cls, folder: Path) -> LengthTable:
        """Read the table of a prepared data set: `lengths` of its report.

        Raises:
            OSError: It is gone; the data set is to be prepared again.
        """
        return cls(*(np.load(folder / name, allow_pickle=False) for name in (LENGTHS, FIRST_TRAINED, TRAINED_AT)))

    def save(self, folder: Path) -> None:
        """Write the table into a folder."""
        for name, array in ((LENGTHS, self.lengths), (FIRST_TRAINED, self.first_trained), (TRAINED_AT, self.trained_at)):
            np.save(folder / name, array, allow_pickle=False)

    def at(self, max_length: int) -> Cut:
        """Say what a `max_length` makes of the rows; some milliseconds for a million of them."""
        counts = self.packable(max_length)
        blocks = count_blocks(counts, max_length)
        packed = int(counts @ np.arange(max_length + 1))
        fitting = int(np.searchsorted(self._sorted, max_length, side="right"))
        below = self._trained_below[min(max_length, self.trained_at.size)]
        return Cut(
            max_length=max_length,
            rows=self.lengths.size,
            cut_rows=self.lengths.size - fitting,
            untrained_rows=self.lengths.size - int(counts.sum()),
            tokens=int(self._sums[fitting]) + (self.lengths.size - fitting) * max_length,
            trained=int(below),
            blocks=blocks,
            efficiency=packed / (blocks * max_length) if blocks else 0.0,
        )

    def packable(self, max_length: int) -> Numbers:
        """Count the rows that train something by the length they are cut to, shape (max_length + 1,)."""
        kept = np.minimum(self.lengths[self.trains(max_length)], max_length)
        return np.bincount(kept, minlength=max_length + 1)

    def trains(self, max_length: int) -> NDArray[np.bool_]:
        """Say of each row whether something trained is left of it, shape (rows,)."""
        return self.first_trained < np.minimum(self.lengths, max_length)

    def histogram(self) -> dict[str, list[int]]:
        """Return `edges` and `counts` of the uncut lengths, for a plot: at most 60 bins of equal width on whole numbers."""
        longest = int(self.lengths.max(initial=1))
        width = -(-longest // _BINS)
        edges = np.arange(0, longest + width, width)
        counts, _ = np.histogram(self.lengths, bins=np.append(edges[:-1], edges[-1] + 1))
        return {"edges": edges.tolist(), "counts": counts.tolist()}

    @cached_property
    def _sorted(self) -> Numbers:
        return np.sort(self.lengths)

    @cached_property
    def _sums(self) -> Numbers:
        return np.concatenate([[0], np.cumsum(self._sorted)])

    @cached_property
    def _trained_below(self) -> Numbers:
        return np.concatenate([[0], np.cumsum(self.trained_at)])
