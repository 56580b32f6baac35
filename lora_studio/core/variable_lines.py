"""Names with values as a person writes them, one `name=value` a line, and back: what is written for a value reads as that value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

Scalar = bool | int | float | str

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(_WHOLE.pattern + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def written_lines(values: Mapping[str, object]) -> str:
    """Write one `name=value` a line; text that would not read as itself stands in double quotes, as in JSON."""
    return "\n".join(f"{name}={_written(value)}" for name, value in values.items())


def read_lines(text: str) -> dict[str, Scalar]:
    """Read lines of `name=value`; empty ones are passed over.

    Raises:
        ValueError: A line gives no value, a name stands twice, or quotes are not closed.
    """
    found: dict[str, Scalar] = {}
    for line in filter(None, map(str.strip, text.split("\n"))):
        name, sign, value = line.partition("=")
        name = name.strip()
        if not sign:
            raise ValueError(f"{line!r} gives no value; write name=value")
        if name in found:
            raise ValueError(f"{name!r} stands twice")
        found[name] = _read(value.strip(), name)
    return found


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    return value if value.isprintable() and _reads_as_itself(value) else json.dumps(value)


def _reads_as_itself(text: str) -> bool:
    return text == text.strip() and text[:1] not in ('"', "'") and _read(text, "") == text


def _read(text: str, name: str) -> Scalar:
    """Read a truth value, a number, or text, which may stand in quotes."""
    if text[:1] == '"':
        return _unquoted(text, name)
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _NUMBER.fullmatch(text):
        return _number(text)
    return text


def _unquoted(text: str, name: str) -> str:
    try:
        return str(json.loads(text))  # what starts with a quote is text or no JSON
    except ValueError:
        raise ValueError(f"the text of {name!r} starts with a quote and does not end with one") from None


def _number(text: str) -> Scalar:
    """Read what looks like a number; text where it is larger than numbers can be."""
    try:
        number = int(text) if _WHOLE.fullmatch(text) else float(text)
    except ValueError:  # more digits than Python reads
        return text
    return number if isinstance(number, int) or math.isfinite(number) else text
