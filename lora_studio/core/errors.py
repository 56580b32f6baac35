"""Errors that a person can act on: what happened, what to do, and where."""

from __future__ import annotations


class StudioError(Exception):
    """A failure while running, told to a person.

    Attributes:
        message: What happened, naming the file, the field or the line.
        hint: The way out, as a sentence; empty when there is none.
        field: Dotted `RunConfig` path of the setting at fault, such as `adapter.r`; empty when none is.
        exit_status: What the command line exits with.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(StudioError):
    """What was given is wrong: a setting, a file, a model. Nothing has been started or written.

    Attributes:
        lines: Lines at fault of the text that was given, from 1; empty where the fault is at none.
    """

    exit_status = 2

    def __init__(self, message: str, hint: str = "", field: str = "", lines: tuple[int, ...] = ()) -> None:
        super().__init__(message, hint, field)
        self.lines = lines


class Cancelled(Exception):  # noqa: N818 - it ends a task and is no error
    """A person asked the task to stop; raised inside it to unwind, reported by its host as stopped."""
