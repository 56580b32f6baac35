"""How many processors torch takes in a test."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator

VARIABLE = "OMP_NUM_THREADS"


def share() -> int:
    """Return this process's share of the processors: of threads that other processes keep waiting, each waits for the slowest."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@contextlib.contextmanager
def own_threads() -> Generator[None]:
    """Let torch take this process's share of the processors, here and in children: for the starter, a model of a real size."""
    before = int(os.environ[VARIABLE])
    _take(share())
    try:
        yield
    finally:
        _take(before)


def _take(count: int) -> None:
    os.environ[VARIABLE] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
