"""The file that a run's events go to: what the disk does not take is kept until it does."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Journal:
    """Appends lines to a file; none is lost or torn while the disk is full, and the work goes on.

    Attributes:
        fault: In the system's words, why lines wait; empty when none does.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, behind what it holds; a line that a killed writer left unfinished is ended.

        Raises:
            OSError: It cannot be opened.
        """
        self.fault = ""
        self._error = 0
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        self._waiting = bytearray(b"\n" if _is_torn(path) else b"")

    def append(self, line: str) -> None:
        """Add a line."""
        self._waiting += line.encode() + b"\n"
        self._flush()

    def close(self) -> None:
        """Write what waits to the disk, and let go of the file.

        Raises:
            OSError: The disk does not take it.
        """
        try:
            self._flush()
            if self._waiting:
                raise OSError(self._error, self.fault)
            os.fsync(self._handle)
        finally:
            os.close(self._handle)

    def _flush(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._handle, self._waiting)]
            self.fault = ""
        except OSError as error:
            self._error = error.errno or 0
            self.fault = error.strerror or str(error)


def _is_torn(path: Path) -> bool:
    """Return whether the file ends within a line, as a killed writer leaves it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    return False
