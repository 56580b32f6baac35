"""Requests laid down as files in a run's `control/` folder: how a window reaches a run it did not start."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from lora_studio.core.control import REQUESTS, Control
from lora_studio.core.files import write_atomically

_SUFFIX = ".request"
_PROCESS = "process.id"
_LOOK_S = 0.1


def send_request(folder: Path, name: str) -> None:
    """Lay down a request for whoever runs the run with this control folder."""
    write_atomically(folder / f"{time.time_ns():020d}-{name}{_SUFFIX}", "")


def process_behind(folder: Path) -> int | None:
    """Return the id of the process that looks into this control folder; it means something only while the run's lock is held."""
    try:
        return int((folder / _PROCESS).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


class Mailbox:
    """A thread that hands requests found in `folder` to `control`, in order; a context manager.

    Requests from before it opened are thrown away: they were meant for an earlier attempt. While it is open the folder
    says which process looks into it.
    """

    def __init__(self, folder: Path, control: Control) -> None:
        self._folder = folder
        self._control = control
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mailbox", daemon=True)

    def __enter__(self) -> Self:
        self._take()
        with contextlib.suppress(OSError):  # a run that cannot be reached from outside is a run all the same
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / _PROCESS, str(os.getpid()))
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            (self._folder / _PROCESS).unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            for name in self._take():
                self._control.request(name)

    def _take(self) -> list[str]:
        found: list[str] = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            path.unlink(missing_ok=True)
            name = path.name.removesuffix(_SUFFIX).partition("-")[2]
            if name in REQUESTS:
                found.append(name)
        return found
