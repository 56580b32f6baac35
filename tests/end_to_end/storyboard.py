"""Drive sessions with mouse and keyboard on an X server, and photograph each stage: the first session, and broken data mended.

    python -m tests.end_to_end.storyboard FOLDER [--only first|data|all] [--home HOME]

With `all`, which is usual, the pictures of the data go into the folder `data` beside FOLDER.

Needs `Xvfb` and `xdotool` (`apt-get install xvfb xdotool`). An X server of its own is started, so no window of yours is touched;
the program is started as a person starts it, with an empty home, and everything is done by moving the pointer and pressing keys.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from tests.end_to_end.broken_data import BrokenData
from tests.end_to_end.first_session import Record, Session, Snap
from tests.end_to_end.person import Person, Program, XHands

SCREEN = "1440x900x24"


def main() -> int:
    """Drive what was asked for; the exit status is 0 when every step came to its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--home", type=Path, help="settings, cache and runs (a temporary folder unless given)")
    parser.add_argument("--only", choices=("first", "data", "all"), default="all", help="which session")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, x_server() as display:
        home, folder = (arguments.home or Path(temporary) / "lora-studio").resolve(), arguments.folder.resolve()
        if arguments.only in ("first", "all"):
            drive(home, folder, display)
        if arguments.only in ("data", "all"):
            mend(home, folder if arguments.only == "data" else folder.parent / "data", display)
    return 0


def drive(home: Path, folder: Path, display: str) -> None:
    """Go through the first day and the one after."""
    record = Record()
    eyes: list[Program] = []
    snap = _photographer(folder, eyes)
    session = Session(home, record, snap=snap)
    _day(home, display, session.day_one, eyes, {}, snap)
    _day(home, display, session.day_two, eyes, {"LORA_STUDIO_NO_ENGINE": "1"}, snap)
    for step, seconds in record.seconds.items():
        sys.stdout.write(f"{step:<20}{seconds:>8.1f} s\n")


def mend(home: Path, folder: Path, display: str) -> None:
    """Mend a broken file, in a home whose draft is the starter's."""
    eyes: list[Program] = []
    snap = _photographer(folder, eyes)
    _day(home, display, BrokenData(home, Record(), snap=snap).mend, eyes, {}, snap)


def _photographer(folder: Path, eyes: list[Program]) -> Snap:
    def snap(line: str, name: str) -> None:
        if eyes[-1].alive:
            eyes[-1].see("photograph", str(folder / f"{line}_{name}.png"))

    return snap


def _day(home: Path, display: str, steps: Callable[[Person], None], eyes: list[Program], environment: dict[str, str], snap: Snap) -> None:
    program = Program(home, DISPLAY=display, QT_QPA_PLATFORM="xcb", HF_HUB_OFFLINE="1", **environment)
    eyes.append(program)
    try:
        steps(Person(program, XHands(program, display), patience=2.0))
    except BaseException:
        snap("99", "where_it_stopped")
        raise
    finally:
        program.end()


@contextlib.contextmanager
def x_server() -> Generator[str]:
    """Start an X server without a screen on a free display; give the display's name.

    Raises:
        FileNotFoundError: Xvfb is not installed.
    """
    if shutil.which("Xvfb") is None:
        raise FileNotFoundError("Xvfb is not installed: apt-get install xvfb xdotool")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", SCREEN, "-nolisten", "tcp"], pass_fds=(write,), stderr=subprocess.DEVNULL
    )
    os.close(write)
    try:
        with os.fdopen(read) as told:
            yield f":{told.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    raise SystemExit(main())
