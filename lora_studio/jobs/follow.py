"""Following a run through its folder, as `tail -f` follows a log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lora_studio.core.events import LastEvent, RunEvent, RunFailed, RunFinished, RunStopped, read_events
from lora_studio.core.locks import is_locked
from lora_studio.core.runs import RunFolder

_LOOK_S = 0.1
_NEAR_THE_END = 1 << 16


def follow_events(folder: RunFolder, after: int, given_up: Callable[[], bool]) -> Iterator[RunEvent]:
    """Return a run's events with `seq` above `after` as they are written; end behind the last one, or when the writer is gone.

    Args:
        folder: The run.
        after: The `seq` already known; -1 for all.
        given_up: Says that nobody wants more.
    """
    tail = _Tail(folder.events_path, _start_of(folder.events_path, after))
    last: LastEvent | None = None  # how an attempt ended ends the job only if no other attempt follows
    while not given_up():
        alive = is_locked(folder.lock_path)  # asked before the file is read: what a dying writer wrote is read then
        for event in read_events(tail.lines()):
            last = event if isinstance(event, RunFinished | RunStopped | RunFailed) else None
            if last is None and event.seq > after:
                yield event
        if not alive:
            break
        time.sleep(_LOOK_S)
    if last is not None:
        yield last


class _Tail:
    """Whole lines of a file from `offset` on, as they are appended."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset

    def lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()


def _start_of(path: Path, after: int) -> int:
    """Return an offset in front of the first line that is not known yet, near the end where the lines there are known.

    At least one known line is read again: if it is the last, it says how the run ended.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, 2) - _NEAR_THE_END)
            file.seek(start)
            start += len(file.readline()) if start else 0
            known = start > 0 and int(json.loads(file.readline())["seq"]) <= after
            return start if known else 0
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0
