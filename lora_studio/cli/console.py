"""Where the command line writes: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Generator
from typing import Any, TextIO

from lora_studio.core.errors import StudioError

STOPPED = 130
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}


class Console:
    """The two streams of one command.

    Attributes:
        results: Standard output: what was asked for.
        notes: Standard error: progress, remarks, errors.
    """

    def __init__(self, results: TextIO, notes: TextIO) -> None:
        self.results = results
        self.notes = notes

    @property
    def lively(self) -> bool:
        """Whether a person watches standard error, so that a line may be drawn over."""
        return self.notes.isatty()

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size((100, 24)).columns

    def say(self, text: str = "") -> None:
        """Write a line of the result."""
        self.results.write(f"{text}\n")
        self.results.flush()

    def json(self, document: Any) -> None:
        """Write the result as one JSON document; numbers JSON does not know become null."""
        self.say(json.dumps(_without_nan(document), indent=2, ensure_ascii=False))

    def note(self, text: str) -> None:
        """Write a line beside the result."""
        self.notes.write(f"{text}\n")
        self.notes.flush()

    def error(self, error: StudioError) -> None:
        """Tell an error: what happened, the setting where one is at fault, the way out."""
        where = f" [{error.field}]" if error.field and error.field not in error.message else ""
        self.note(f"lora-studio: {error.message}{where}" + (f"\n  {error.hint}" if error.hint else ""))


@contextlib.contextmanager
def quiet_console() -> Generator[Console]:
    """Yield the console; meanwhile what libraries print or warn of stays off standard output, their progress bars off both."""
    known = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    console = Console(sys.stdout, sys.stderr)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield console
    finally:
        for name, value in known.items():
            if value is None:
                os.environ.pop(name, None)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
