"""Whether there is a display to open a window on. Without one Qt aborts the process, so it is looked at first."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from lora_studio.core.errors import InputError

_WITHOUT_DISPLAY = ("offscreen", "minimal", "vnc", "linuxfb", "eglfs")
_DISPLAY = re.compile(r"(?P<host>[^:]*):(?P<number>\d+)(\.\d+)?")
_SECONDS = 2.0
_HINT = "Start it in a desktop session, or use the command line: lora-studio --help."


def check_display(environment: Mapping[str, str] = os.environ) -> None:
    """Make sure that Qt finds a display.

    Raises:
        InputError: There is none, it does not answer, or a system library Qt needs for it is missing.
    """
    if not sys.platform.startswith("linux") or environment.get("QT_QPA_PLATFORM", "").split(":")[0] in _WITHOUT_DISPLAY:
        return
    if _wayland_answers(environment):
        return
    display = environment.get("DISPLAY", "")
    if not display:
        raise InputError("There is no display to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set).", _HINT)
    if not _x_server_answers(display):
        raise InputError(f"The display {display} does not answer.", _HINT)
    _check_library()


def _wayland_answers(environment: Mapping[str, str]) -> bool:
    name = environment.get("WAYLAND_DISPLAY", "")
    if not name:
        return False
    path = Path(environment.get("XDG_RUNTIME_DIR", "/nonexistent")) / name
    return _connects(socket.AF_UNIX, str(path))


def _x_server_answers(display: str) -> bool:
    match = _DISPLAY.fullmatch(display)
    if match is None:
        return False
    host, number = match["host"], int(match["number"])
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        return _connects(socket.AF_UNIX, path) or _connects(socket.AF_UNIX, f"\0{path}")
    return _connects(socket.AF_INET, (host, 6000 + number))


def _connects(family: int, address: str | tuple[str, int]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(address)
    except (OSError, OverflowError):  # the latter from a port beyond 65535
        return False
    return True


def _check_library() -> None:
    """Load the one library that Qt's X plugin needs and minimal systems lack: without it Qt aborts."""
    try:
        ctypes.CDLL("libxcb-cursor.so.0")
    except OSError:
        hint = "On Debian and Ubuntu: apt-get install libxcb-cursor0; or run python3 start.py, which says what is missing."
        raise InputError("Qt's X plugin needs libxcb-cursor.so.0, which is not installed.", hint) from None
