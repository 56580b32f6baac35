"""The program, as `lora-studio` and as `python -m lora_studio`: the one place that knows both window and command line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from lora_studio.cli.main import main as run_command_line


def main() -> int:
    """Run the program with the arguments of this process; give its exit status."""
    if os.name == "nt":  # a pipe on Windows takes the system's code page, which lacks most of what models say
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="replace")
    return run_command_line(sys.argv[1:], open_workbench)


def open_workbench(arguments: Sequence[str]) -> int:
    """Open the window; Qt is imported here and not before."""
    from lora_studio.gui.app import run

    return run(list(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
