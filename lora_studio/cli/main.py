"""The command line: finds the command, runs it, turns its errors into one message and an exit status."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_studio.cli.console import STOPPED, Console, quiet_console
from lora_studio.cli.parser import COMMANDS, build_parser
from lora_studio.core.errors import Cancelled, InputError, StudioError

Workbench = Callable[[Sequence[str]], int]

_COMMANDS = {command.name: command for command in COMMANDS}


def main(arguments: Sequence[str], workbench: Workbench) -> int:
    """Run the program and give its exit status: 0 done, 1 failed, 2 the input is wrong, 130 stopped by the person.

    Args:
        arguments: Without the program's name.
        workbench: Opens the window; called when no command is named. The window is another room, which this one does not know.
    """
    try:
        if _is_for_workbench(arguments):
            return workbench(arguments)
    except InputError as error:
        Console(sys.stdout, sys.stderr).error(error)
        return error.exit_status
    name = next((argument for argument in arguments if argument in _COMMANDS), None)
    try:
        parsed = build_parser(name).parse_args(arguments)
    except SystemExit as asked:  # --help, --version, or arguments that make no sense: argparse has said what
        return int(asked.code or 0)
    with quiet_console() as console:
        return _tried(console, parsed.command, lambda: _COMMANDS[parsed.command].module().run(console, parsed))


def _is_for_workbench(arguments: Sequence[str]) -> bool:
    """Return whether the window is meant.

    Raises:
        InputError: A word that is nearly a command and no file.
    """
    if not arguments:
        return True
    first = arguments[0]
    if first in _COMMANDS or first in ("-h", "--help", "--version"):
        return False
    near = difflib.get_close_matches(first, _COMMANDS, n=1, cutoff=0.7)
    if near and not Path(first).exists():
        hint = f"Did you mean `lora-studio {near[0]}`? `lora-studio --help` lists the commands."
        raise InputError(f"There is no command {first!r}.", hint)
    return True


def _tried(console: Console, name: str, work: Callable[[], int]) -> int:
    """Do the work; tell an error in words where it was foreseen, with its traceback where it was not."""
    try:
        return work()
    except StudioError as error:
        console.error(error)
        return error.exit_status
    except (Cancelled, KeyboardInterrupt):
        return STOPPED
    except BrokenPipeError:
        _let_go_of_output()
        return 1
    except Exception:
        console.note(traceback.format_exc().rstrip())
        console.note(f"lora-studio: `{name}` met an error that was not foreseen. Please report the lines above.")
        return 1


def _let_go_of_output() -> None:
    """Whoever read standard output has closed it: keep Python from failing on it again while it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
