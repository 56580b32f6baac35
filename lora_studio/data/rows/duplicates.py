"""How often rows repeat, from one number for each: eight bytes a row, sorted in place."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 20


def count_repeats(keys: array[int]) -> int:
    """Count the keys that stood before; the array is sorted by it."""
    if len(keys) < 2:
        return 0
    values = _sorted(keys)
    return sum(
        int(np.count_nonzero(values[at + 1 : at + _AT_ONCE + 1] == values[at : min(at + _AT_ONCE, values.size - 1)]))
        for at in range(0, values.size - 1, _AT_ONCE)
    )


def count_shared(keys: array[int], others: array[int]) -> int:
    """Count the keys that are among the others, which are sorted by it."""
    if not keys or not others:
        return 0
    values, sought = np.frombuffer(keys, np.int64), _sorted(others)
    shared = 0
    for at in range(0, values.size, _AT_ONCE):
        block = values[at : at + _AT_ONCE]
        places = np.minimum(np.searchsorted(sought, block), sought.size - 1)
        shared += int(np.count_nonzero(sought[places] == block))
    return shared


def _sorted(keys: array[int]) -> NDArray[np.int64]:
    values = np.frombuffer(keys, np.int64)
    values.sort()
    return values
