"""What a chat template fails on, as sentences. Light: runs in the child that renders."""

from __future__ import annotations

import re
import traceback

from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError

from lora_studio.data.templates.jinja_env import TemplateRefusalError

_MOST = 300
_KINDS = {
    "dict": "an object",
    "list": "a list",
    "NoneType": "nothing",
    "int": "a number",
    "float": "a number",
    "str": "text",
    "bool": "a truth value",
}
_ATTRIBUTE = re.compile(r"'(\w+)(?: object)?' (?:object )?has no attribute '(\w+)'")
_NO_ELEMENT = re.compile(r"(\w+) object has no element")
_UNDEFINED = re.compile(r"'([\w.\[\]']+)' is undefined")
_JOINED = re.compile(r'can only concatenate (\w+) \(not "(\w+)"\) to')
_NOT_TAKEN = re.compile(
    r"'(\w+)' object is not (?:iterable|subscriptable|callable)|object of type '(\w+)' has no len|argument of type '(\w+)'"
)


def in_words(error: BaseException) -> str:
    """Say what is wrong: the author's own words where the template refuses, what it looks for and does not find where it fails."""
    said = " ".join(str(error).split())[:_MOST]
    if isinstance(error, TemplateRefusalError):
        return f"refuses it: {said}" if said else "refuses it without a word"
    if isinstance(error, SecurityError):
        return f"refuses it: it reaches for what a template may not touch ({said})"
    if isinstance(error, RecursionError):
        return "fails on it: it calls itself without end"
    where = f", in its line {line}" if (line := _line(error)) else ""
    return f"fails on it{where}: {_cause(error, said)}"


def _cause(error: BaseException, said: str) -> str:
    if found := _NO_ELEMENT.search(said):
        return f"it looks for an element that {_a(found[1])} there does not have"
    if found := _ATTRIBUTE.search(said):
        return f"it looks for {found[2]!r}, which {_a(found[1])} in the row does not have"
    if found := _UNDEFINED.search(said):
        return f"it uses {found[1]!r}, which nothing gives it"
    if found := _JOINED.search(said):
        return f"it joins {_a(found[1])} with {_a(found[2])}, which stands in the row in that place"
    if found := _NOT_TAKEN.search(said):
        return f"it cannot use {_a(next(filter(None, found.groups())))} in that place of the row"
    if isinstance(error, UndefinedError):
        return f"it uses something that the row does not have ({said})"
    return f"a value of the row is not what it expects ({said or type(error).__name__})"


def _a(kind: str) -> str:
    return _KINDS.get(kind, f"a value of the kind {kind}")


def _line(error: BaseException) -> int:
    """Return the template's line, which jinja writes into the traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in ("<template>", "<unknown>")]
    return frames[-1].lineno or 0 if frames else 0
