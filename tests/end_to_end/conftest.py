"""Sessions through the window as a person drives it off-screen, each once: the starter run, and broken data mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.album import Album
from tests.end_to_end.broken_data import BrokenData
from tests.end_to_end.first_session import Record, Session
from tests.end_to_end.person import Person, Program, QtHands
from tests.threads import VARIABLE, own_threads, share

SCREENSHOTS_VARIABLE = "LORA_STUDIO_SCREENSHOTS"  # where the album goes; docs/screenshots for the pictures in the docs
SESSION_VARIABLE = "LORA_STUDIO_SESSION"  # a folder: the session is kept there, and looked at again instead of driven anew
SCREEN = {"screens": [{"name": "screen", "x": 0, "y": 0, "width": 1920, "height": 1200, "logicalDpi": 96, "logicalBaseDpi": 96, "dpr": 1}]}


@dataclass(frozen=True)
class Driven:
    """A session that was driven: its home, and what was seen."""

    home: Path
    record: Record

    def environment(self) -> dict[str, str]:
        """Return an environment in which the command line has the same home."""
        return {**os.environ, VARIABLE: str(share()), "LORA_STUDIO_HOME": str(self.home), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def driven(tmp_path_factory: pytest.TempPathFactory, starter_folder: Path) -> Driven:
    """Drive the first session and the day after; the converted starter is in the cache already."""
    folder = Path(os.environ.get(SESSION_VARIABLE) or tmp_path_factory.mktemp("first_session"))
    kept = folder / "record.json"
    if kept.is_file():
        return Driven(folder / "home", Record.load(kept))
    pictures = Path(os.environ.get(SCREENSHOTS_VARIABLE) or folder / "screenshots").resolve()
    session = Session(folder / "home", Record(), Album(pictures))
    for home in (folder / "glance", folder / "home"):
        _place_starter(home, starter_folder)
    for home, steps, environment in (
        (folder / "glance", session.first_look, {"LORA_STUDIO_NO_ENGINE": "1"}),
        (folder / "home", session.day_one, {}),
        (folder / "home", session.day_two, {"LORA_STUDIO_NO_ENGINE": "1"}),
    ):
        with own_threads():
            for program in _opened(home, environment):
                steps(Person(program, QtHands(program), patience=2.0))
    session.record.save(kept)
    return Driven(folder / "home", session.record)


@pytest.fixture(scope="session")
def mended(tmp_path_factory: pytest.TempPathFactory, starter_folder: Path) -> Driven:
    """Go from a broken file to clean rows, with the converted starter in the cache and without training."""
    folder = tmp_path_factory.mktemp("broken_data")
    pictures = Path(os.environ.get(SCREENSHOTS_VARIABLE) or folder / "screenshots").resolve() / "data"
    _place_starter(folder / "home", starter_folder)
    session = BrokenData(folder / "home", Record(), Album(pictures))
    for program in _opened(folder / "home", {}):
        session.mend(Person(program, QtHands(program), patience=2.0))
    return Driven(folder / "home", session.record)


def _place_starter(home: Path, starter_folder: Path) -> None:
    link = home / "cache" / "models" / starter_folder.name
    link.parent.mkdir(parents=True)
    link.symlink_to(starter_folder, target_is_directory=True)


def _opened(home: Path, environment: dict[str, str]) -> Iterator[Program]:
    """Start the program off-screen, on a screen it fits on, and end it whatever happens."""
    screen = home.parent / "screen.json"
    screen.write_text(json.dumps(SCREEN), encoding="utf-8")
    program = Program(home, QT_QPA_PLATFORM=f"offscreen:configfile={screen}", HF_HUB_OFFLINE="1", **environment)
    try:
        yield program
    finally:
        program.end()
