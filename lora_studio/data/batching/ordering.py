"""Shuffles that any release and any machine repeats: sorted Philox words, keyed by everything that decides them."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def shuffled(count: int, *key: str | int) -> Indices:
    """Return the numbers below `count` in an order that `key` alone decides, shape (count,).

    numpy promises the same raw Philox words for ever, not the same `permutation`; so the words are sorted here.
    """
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64)
