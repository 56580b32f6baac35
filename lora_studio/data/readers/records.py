"""What a file gives before anyone asks what it means: a value at a line, or why there is none."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """What stands at a line.

    Attributes:
        line: Counted from 1; the row's number in a file without lines.
        value: What was read.
        fault: Why nothing could be; empty when something was.
        plain: Whether all its text is known to hold neither NUL nor half a surrogate pair.
    """

    line: int
    value: object = None
    fault: str = ""
    plain: bool = False
