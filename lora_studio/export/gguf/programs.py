"""Other programs run to their end: the second place outside `jobs/` that starts processes, always joined.

Their output goes to a file that is looked into, which works on every system; they get little of our environment, and no token.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lora_studio.core.waits import exit_words, reap

if TYPE_CHECKING:
    from lora_studio.core.control import TaskContext

_KEPT = (
    "PATH",
    "SYSTEMROOT",
    "LANG",
    "LC_ALL",
    "TZ",
    "TEMP",
    "TMP",
    "TMPDIR",
    "HOME",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PIP_INDEX_URL",
    "PIP_CONFIG_FILE",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
)
_LOOK_SECONDS = 0.05
_LAST_LINES = 12


class ProgramFailedError(Exception):
    """A program ended with an error.

    Attributes:
        status: What it exited with.
        lines: Its last lines.
    """

    def __init__(self, status: int, lines: Sequence[str]) -> None:
        """Take exit status and last lines."""
        super().__init__(f"exit status {status}")
        self.status = status
        self.lines = tuple(lines)

    @property
    def said(self) -> str:
        """The last line that says something; of a program that was killed, by what."""
        if self.status < 0:
            return f"it {exit_words(self.status)}"
        return next((line.strip() for line in reversed(self.lines) if line.strip()), f"exit status {self.status}")


def run_program(
    context: TaskContext, command: Sequence[str | Path], environment: Mapping[str, str] | None = None, given: Path | None = None
) -> Iterator[str]:
    """Run a program to its end; give what it prints, line by line, and an empty line now and then while it is silent.

    A task that is stopped ends it, and whatever it started.

    Args:
        context: The host's.
        command: The program and its arguments.
        environment: Variables beside the few that are handed on.
        given: A file for its standard input; nothing where there is none.

    Raises:
        ProgramFailedError: It ended with an error.
        FileNotFoundError: There is no such program.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with tempfile.TemporaryFile() as output, (given or Path(os.devnull)).open("rb") as standard_input:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=standard_input,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**kept, **(environment or {})},
            start_new_session=sys.platform != "win32",
        )
        try:
            with os.fdopen(os.dup(output.fileno()), "rb") as reader:
                yield from _followed(context, child, reader, last)
        finally:
            _end(child)
    if child.returncode:
        raise ProgramFailedError(child.returncode, last)


def _followed(context: TaskContext, child: subprocess.Popen[bytes], reader: IO[bytes], last: deque[str]) -> Iterator[str]:
    place, rest, ended = 0, b"", False
    while not ended:
        ended = child.poll() is not None  # looked at before reading: then nothing follows what is read
        while fresh := _read_at(reader, place):
            place += len(fresh)
            *lines, rest = (rest + fresh).replace(b"\r", b"\n").split(b"\n")
            yield from _kept(lines, last)
        context.control.check()
        if not ended:
            yield ""
            time.sleep(_LOOK_SECONDS)
    if rest:
        yield from _kept([rest], last)


def _kept(lines: Sequence[bytes], last: deque[str]) -> Iterator[str]:
    for line in lines:
        last.append(line.decode("utf-8", "replace"))
        yield last[-1]


def _read_at(reader: IO[bytes], place: int) -> bytes:
    """Read what is there from a place on; the child writes through a handle of its own place."""
    if hasattr(os, "pread"):
        return os.pread(reader.fileno(), 1 << 20, place)
    reader.seek(place)
    return reader.read(1 << 20)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill what still runs, with all that it started, and wait for it."""
    if child.poll() is None:
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
    reap(child)
