"""How many processors torch takes in a test."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator

VARIABLE = "OMP_NUM_THREADS"


@contextlib.contextmanager
def all_threads() -> Generator[None]:
    """Let torch take every processor, here and in children: for the starter, a model of a real size."""
    kept = os.environ.pop(VARIABLE, None)
    _take(os.cpu_count() or 1)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[VARIABLE] = kept
            _take(int(kept))


def _take(count: int) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
