"""Limits on waits that grow with what else the machine has to do: a wait is in vain when nothing happens, not when all is slow."""

from __future__ import annotations

import time

from lora_studio.core.waits import waiting

_SPUN_S = 0.002
_MOST = 30.0


class Patience:
    """So many seconds of a machine that is free; on a busy one, as many more as work is kept waiting there."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._looked = time.monotonic()

    def is_over(self) -> bool:
        """Return whether the time is up, by what the machine was busy with since last asked."""
        now = time.monotonic()
        self._left -= (now - self._looked) / slowdown()
        self._looked = now
        return self._left <= 0


def slowdown() -> float:
    """Return how many times as long as alone a processor's work takes now, at least 1: by a try, and by what waits for processors."""
    worked, passed = time.thread_time(), time.perf_counter()
    while time.thread_time() - worked < _SPUN_S:
        pass
    return min(_MOST, max(1.0, (time.perf_counter() - passed) / (2 * _SPUN_S), waiting()))
