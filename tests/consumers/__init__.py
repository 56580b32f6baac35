"""What other programs read of what we write: a long suite, outside CI. `python -m tests.consumers`."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Tell whoever runs the suite how far it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
