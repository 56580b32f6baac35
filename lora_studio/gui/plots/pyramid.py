"""Points of one curve, and a pyramid of their extremes, so that a million draw as cheaply as ten thousand.

Level k of the pyramid keeps, for each whole block of 4^k points, where its least and its greatest value are. Points are
appended in amortised constant time; blocks are filled in when they are first asked for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

_FANOUT = 4
_LEVELS = 12
_FIRST_CAPACITY = 1024


class _Level:
    """Places of the least and greatest value of each block of one size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.blocks = 0
        self.least: Places = np.empty(64, np.int64)
        self.greatest: Places = np.empty(64, np.int64)

    def put(self, least: Places, greatest: Places) -> None:
        """Add blocks at the end."""
        end = self.blocks + len(least)
        if end > len(self.least):
            self.least = np.resize(self.least, max(end, 2 * len(self.least)))
            self.greatest = np.resize(self.greatest, len(self.least))
        self.least[self.blocks : end] = least
        self.greatest[self.blocks : end] = greatest
        self.blocks = end


class Series:
    """Points of a curve, x never falling. A y that is not finite is a gap."""

    def __init__(self) -> None:
        self._x: Floats = np.empty(_FIRST_CAPACITY)
        self._y: Floats = np.empty(_FIRST_CAPACITY)
        self._count = 0
        self._levels = [_Level(_FANOUT**power) for power in range(1, _LEVELS)]
        self._bounds = (np.inf, -np.inf)

    def __len__(self) -> int:
        return self._count

    @property
    def x(self) -> Floats:
        """All x, a view: shape (points,)."""
        return self._x[: self._count]

    @property
    def y(self) -> Floats:
        """All y, a view: shape (points,)."""
        return self._y[: self._count]

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and greatest finite y; None while there is none."""
        return (float(self._bounds[0]), float(self._bounds[1])) if self._bounds[0] <= self._bounds[1] else None

    def append(self, x: Floats, y: Floats) -> None:
        """Add points right of those there.

        Args:
            x: Shape (points,), not falling.
            y: Shape (points,).

        Raises:
            ValueError: The columns differ in length, or x falls.
        """
        if len(x) != len(y):
            raise ValueError(f"{len(x)} x for {len(y)} y")
        if not len(x):
            return
        if np.any(np.diff(x) < 0) or (self._count and x[0] < self._x[self._count - 1]):
            raise ValueError("x falls")
        end = self._count + len(x)
        if end > len(self._x):
            room = max(end, 2 * len(self._x))
            self._x = np.resize(self._x, room)
            self._y = np.resize(self._y, room)
        self._x[self._count : end] = x
        self._y[self._count : end] = y
        self._count = end
        finite = y[np.isfinite(y)]
        if len(finite):
            self._bounds = (min(self._bounds[0], finite.min()), max(self._bounds[1], finite.max()))

    def clear(self) -> None:
        """Forget all points."""
        self._count = 0
        self._bounds = (np.inf, -np.inf)
        for level in self._levels:
            level.blocks = 0

    def visible(self, left: float, right: float) -> tuple[int, int]:
        """Return the range of places within left..right, one further at each side so that lines run out of the picture."""
        first = int(np.searchsorted(self.x, left, side="left"))
        last = int(np.searchsorted(self.x, right, side="right"))
        return max(first - 1, 0), min(last + 1, self._count)

    def thinned(self, left: float, right: float, columns: int) -> tuple[Floats, Floats]:
        """Return the points to draw between two x on so many pixel columns: the extremes of every block among them.

        Returns:
            x and y, shape (drawn,) with drawn below about 8 · columns however many points there are.
        """
        first, last = self.visible(left, right)
        level = self._level_for(last - first, max(columns, 1))
        if level is None:
            return self.x[first:last], self.y[first:last]
        self._fill(level)
        positions = self._places(level, first, last)
        return self._x[positions], self._y[positions]

    def nearest(self, x: float) -> int | None:
        """Return the place of the point nearest to an x; None while there is none."""
        if not self._count:
            return None
        position = int(np.searchsorted(self.x, x))
        if position and (position == self._count or x - self._x[position - 1] <= self._x[position] - x):
            position -= 1
        return position

    def _level_for(self, points: int, columns: int) -> _Level | None:
        fitting = [level for level in self._levels if points // level.size >= columns]
        return fitting[-1] if fitting else None

    def _fill(self, level: _Level) -> None:
        """Bring a level, and those it is made from, up to the points there are."""
        below: _Level | None = None
        for other in self._levels:
            blocks = self._count // other.size
            if blocks > other.blocks:
                other.put(*self._extremes_of(other, below, blocks))
            below = other
            if other is level:
                return

    def _extremes_of(self, level: _Level, below: _Level | None, blocks: int) -> tuple[Places, Places]:
        rows = np.arange(blocks - level.blocks)
        if below is None:
            positions = np.arange(level.blocks * level.size, blocks * level.size).reshape(-1, _FANOUT)
            least = greatest = positions
        else:
            part = slice(level.blocks * _FANOUT, blocks * _FANOUT)
            least, greatest = below.least[part].reshape(-1, _FANOUT), below.greatest[part].reshape(-1, _FANOUT)
        low, high = self._y[least], self._y[greatest]
        low_at = np.where(np.isfinite(low), low, np.inf).argmin(axis=1)
        high_at = np.where(np.isfinite(high), high, -np.inf).argmax(axis=1)
        return least[rows, low_at], greatest[rows, high_at]

    def _places(self, level: _Level, first: int, last: int) -> Places:
        """Places to draw from first to last: single points at the ends, extremes of whole blocks between."""
        size = level.size
        from_block, to_block = -(-first // size), min(last // size, level.blocks)
        pairs = np.sort(np.stack((level.least[from_block:to_block], level.greatest[from_block:to_block]), axis=1), axis=1).ravel()
        before = self._edge(first, from_block * size)
        after = self._edge(to_block * size, last)
        return np.concatenate((before, pairs, after))

    def _edge(self, first: int, last: int) -> Places:
        """Places of a part shorter than a block: its ends and extremes are enough for a column or two."""
        if last - first <= 4:
            return np.arange(first, max(last, first))
        y = self._y[first:last]
        finite = np.isfinite(y)
        low, high = np.where(finite, y, np.inf).argmin(), np.where(finite, y, -np.inf).argmax()
        return np.unique(np.array((first, first + low, first + high, last - 1), np.int64))
