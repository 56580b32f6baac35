"""Waiting for a process or thread that may never answer: limits that grow with what the machine has to do, and a watchdog.

A call that blocks (reading a pipe, writing to one) cannot be given a limit everywhere. So a watchdog ends whom it waits for, by which
the call comes back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

_LOOK_S = 0.5
_MOST_S = 2.0
_MOST = 30.0
_REAP_S = 30.0


def waiting() -> float:
    """Return how many programs share a processor, over the last minute, 30 at most; 1 where the system does not tell."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return min(_MOST, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


class Patience:
    """So many seconds of a machine that is free; on a busy one as many more as programs share a processor.

    Ask again and again: of the time between two looks two seconds count at most, so that a program that was itself held up, or a
    machine that slept, blames nobody for it.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._looked = time.monotonic()

    def is_over(self) -> bool:
        """Return whether the time is up."""
        now = time.monotonic()
        self._left -= min(now - self._looked, _MOST_S) / waiting()
        self._looked = now
        return self._left <= 0


@dataclass
class Watch:
    """What a watchdog did.

    Attributes:
        silent: Whether it lost its patience, and ended whom it watched.
    """

    silent: bool = False


@contextlib.contextmanager
def watched(end: Callable[[], object], seconds: float) -> Generator[Watch]:
    """Call `end` where the block takes longer than `seconds` of a free machine; the watchdog has gone when the block is left."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        patience = Patience(seconds)
        while not over.wait(min(_LOOK_S, seconds / 4)):
            if patience.is_over():
                watch.silent = True
                end()
                return

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def reap(child: subprocess.Popen[bytes], seconds: float = _REAP_S) -> None:
    """Wait for a child that was killed; one that hangs inside the system, which no signal ends, is left to it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)


def exit_words(status: int) -> str:
    """Say how a process ended, by what `Popen.returncode` gives: "was killed by SIGKILL"."""
    if status >= 0:
        return f"ended by itself with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
