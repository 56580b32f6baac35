"""JSON read strictly: a key that stands twice is a fault, so is NaN; and a cursor in a JSON text that is read block by block."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

_LONGEST_LITERAL = 12  # two escapes of a surrogate pair
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonFaultError(ValueError):
    """JSON that a strict reader takes and that nobody means; the text says why."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; which of two values of one key is meant, nobody knows."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise JsonFaultError(f"the key {twice!r} stands twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise JsonFaultError(f"{name} is not JSON")


_DECODER: Any = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_number)
scan = _DECODER.scan_once  # in C; it leaves white space around the value to us
_MOST_DEPTH = 500
_LOOSE: Any = json.JSONDecoder(parse_int=str)
_scan_loosely = _LOOSE.scan_once  # finds the end of what is JSON and not to be used


def parse_json(text: str) -> tuple[object, str]:
    """Read a JSON text; give its value, and why it is none."""
    try:
        return _DECODER.decode(text), ""
    except json.JSONDecodeError as error:
        return None, json_fault(error)
    except RecursionError:
        return None, "not JSON: nested too deeply"
    except ValueError as error:
        return None, _fault(error)


def json_fault(error: json.JSONDecodeError) -> str:
    """Say what is wrong with a JSON text, and where."""
    place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
    if error.msg == "Extra data":
        return f"something follows the JSON value at {place}"
    if _open_before(error) > _MOST_DEPTH:  # where Python itself gives up differs from release to release
        return "not JSON: nested too deeply"
    cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
    return f"the JSON is cut off at {place}" if cut else f"not JSON: {error.msg} at {place}"


def _open_before(error: json.JSONDecodeError) -> int:
    """Count the brackets and braces that are open where a JSON text is at fault, those in strings too."""
    opened, closed = (sum(error.doc.count(sign, 0, error.pos) for sign in signs) for signs in ("[{", "]}"))
    return opened - closed


def _fault(error: ValueError) -> str:
    return str(error) if isinstance(error, JsonFaultError) else f"not JSON: {error}"


def is_plain(text: str) -> bool:
    """Return whether no escape in a JSON text can spell a NUL or half a surrogate pair."""
    return "\\u" not in text or not ("\\u0000" in text or "\\ud" in text or "\\uD" in text)


class JsonText:
    """A cursor in a JSON text that is read block by block.

    Attributes:
        fault: Why the value last read cannot be used though it is JSON.
        misread: Which of its bytes was not in the encoding; empty when all were, None when it is ASCII.
        raw: Its bytes, where one was not in the encoding.
        plain: Whether no escape in it can spell a NUL or half a surrogate pair.
    """

    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks = blocks
        self._text = ""
        self._at = self._counted = 0
        self._over = False
        self._line = 1
        self.fault = ""
        self.misread: str | None = None
        self.raw = b""
        self.plain = False

    @property
    def line(self) -> int:
        """Where the cursor stands, counted from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    @property
    def indent(self) -> str:
        """What stands before the cursor on its line; of a long line only whether anything does."""
        return self._text[self._text.rfind("\n", 0, self._at) + 1 : self._at]

    def peek(self) -> str:
        """Return the next character that is no white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def peek_second(self) -> str:
        """Return the character that is no white space after the next one."""
        self.peek()
        while True:
            at = _SPACE.match(self._text, self._at + 1).end()  # type: ignore[union-attr]
            if at < len(self._text):
                return self._text[at]
            if not self._more():
                return ""

    def skipped(self, character: str) -> bool:
        """Go past a character if it is the next; say whether it was."""
        found = self.peek() == character
        self._at += found
        return found

    def skip(self, character: str) -> None:
        """Go past a character.

        Raises:
            ValueError: Another one is next.
        """
        if not self.skipped(character):
            raise ValueError(f"{character} is missing")

    def value(self) -> object:
        """Read a value and go past it, however many blocks it takes; one that is JSON and cannot be used sets `fault`.

        Raises:
            ValueError, StopIteration, RecursionError: There is none that can be read.
        """
        self.peek()
        fault, read = "", scan
        while True:
            try:
                value, end = read(self._text, self._at)
                if end < len(self._text) or not self._more():
                    break
            except (json.JSONDecodeError, StopIteration) as error:
                if not self._may_be_cut(error) or not self._more():
                    raise
            except ValueError as error:
                fault, read = _fault(error), _scan_loosely
        written = self._text[self._at : end]
        self.misread = _misread(written)
        self.raw = _raw(written) if self.misread else b""
        self.fault, self.plain = fault or self.misread or "", is_plain(written)
        self._at = end
        return value

    def skip_to_object(self, indent: str) -> bool:
        """Go to the next line that opens an object behind the same white space; say whether there is one."""
        if indent.strip():
            return False
        opening = re.compile(r"\n" + re.escape(indent) + r"\{")
        while not (found := opening.search(self._text, self._at)):
            self._at = max(self._at, len(self._text) - len(indent) - 1)
            if not self._more():
                self._at = len(self._text)
                return False
        self._at = found.end() - 1
        return True

    def _may_be_cut(self, error: json.JSONDecodeError | StopIteration) -> bool:
        if isinstance(error, StopIteration):
            return int(error.value) >= len(self._text) - _LONGEST_LITERAL
        return error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _LONGEST_LITERAL

    def _more(self) -> bool:
        """Read on, as much again as is held, so that a long value is scanned a few times only."""
        if self._over:
            return False
        _ = self.line  # counts what is let go
        lead, kept = self.indent, self._text[self._at :]
        if lead.strip():
            lead = "-"  # a minified file is one line: what stood on it does not matter, only that something did
        parts, size = [lead, kept], 0
        while size <= len(kept) and not self._over:
            block = next(self._blocks, None)
            self._over = block is None
            parts.append(block or "")
            size += len(block or "")
        self._text = "".join(parts)
        self._at = self._counted = len(lead)
        return size > 0


def _raw(text: str) -> bytes:
    """Return the bytes of a text of which some were not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""  # half a surrogate pair, which stands for no byte


def _misread(text: str) -> str | None:
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not UTF-8: byte 0x{ord(text[error.start]) & 0xFF:02x}"
    return ""
