"""Locks of the operating system on a file: the system lets go of them when their process dies, however it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO


def lock_file(path: Path) -> IO[bytes] | None:
    """Take the lock on `path`, made if need be; give its open file, or None when someone else holds it.

    The lock belongs to the open file, not the process: a second `lock_file` in the same process is refused too.
    """
    handle = path.open("ab")
    try:
        _lock(handle)
    except OSError:
        handle.close()
        return None
    return handle


def unlock_file(handle: IO[bytes]) -> None:
    """Let go of a lock taken with `lock_file`."""
    handle.close()


def is_locked(path: Path) -> bool:
    """Return whether someone holds the lock on `path`; a missing file is not locked."""
    try:
        handle = path.open("rb+")
    except FileNotFoundError:
        return False
    except PermissionError:
        return os.name == "nt"  # Windows refuses to open a file whose first byte is locked; elsewhere nobody here can write
    with handle:
        try:
            _lock(handle, shared=True)
        except OSError:
            return True
    return False


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: IO[bytes], *, shared: bool = False) -> None:
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: IO[bytes], *, shared: bool = False) -> None:
        fcntl.flock(handle.fileno(), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
