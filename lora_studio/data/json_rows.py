"""JSON to records: one object a line, an array of objects, or an object that holds such an array.

An array is read as a stream: memory holds one block of text and one row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

from lora_studio.core.errors import InputError
from lora_studio.data.formats import KNOWN_KEYS
from lora_studio.data.records import Record
from lora_studio.data.streams import FIELD, START, Line, Mark, TextFile

_LONGEST_LINE = 1 << 26  # characters: how much of a .json file is looked at to tell rows a line from one large object
_LONGEST_LITERAL = 12  # two escapes of a surrogate pair
_SPACE = re.compile(r"[ \t\r\n]*")


class _FaultError(ValueError):
    """JSON that a strict reader takes and that nobody means; the text says why."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; which of two values of one key is meant, nobody knows."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _FaultError(f"the key {twice!r} stands twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise _FaultError(f"{name} is not JSON")


_DECODER: Any = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_number)
_scan = _DECODER.scan_once  # in C; it leaves white space around the value to us


class JsonLines:
    """A file of one JSON value a line; empty lines part nothing."""

    enterable = True

    def __init__(self, file: TextFile) -> None:
        self.file = file

    def records(self, start: Mark = START) -> Iterator[Record]:
        """Give the value of each line from a mark on."""
        for line in self.file.lines(start):
            text = line.text
            if text.isspace() or not text:
                continue
            yield Record(line.number, None, line.fault) if line.fault else _record(line)

    def marks(self) -> Iterator[Mark]:
        """Give the start of each line that holds something."""
        for line in self.file.lines():
            if not line.text.isspace() and line.text:
                yield Mark(line.position, line.number)


def _record(line: Line) -> Record:
    text = line.text
    try:
        value, end = _scan(text, 0)
        if text[end:].isspace() or end == len(text):
            return Record(line.number, value, plain="\\u" not in text)
    except (StopIteration, ValueError, RecursionError):
        pass  # told below, slowly and in full
    value, fault = parse_json(text)
    return Record(line.number, value, fault, "\\u" not in text)


def parse_json(text: str) -> tuple[object, str]:
    """Read a JSON text; give its value, and why it is none."""
    try:
        return _DECODER.decode(text), ""
    except json.JSONDecodeError as error:
        return None, _fault(error)
    except _FaultError as error:
        return None, str(error)
    except RecursionError:
        return None, "not JSON: nested too deeply"
    except ValueError as error:
        return None, f"not JSON: {error}"


def _fault(error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data":
        return f"something follows the JSON value at column {error.colno}"
    cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
    return f"the JSON is cut off at column {error.colno}" if cut else f"not JSON: {error.msg} at column {error.colno}"


class JsonArray:
    """A file of one array of rows, bare or under a key of an object."""

    enterable = False

    def __init__(self, file: TextFile) -> None:
        self.file = file

    def records(self, start: Mark = START) -> Iterator[Record]:
        """Give each element; a mark's position counts the elements before it.

        After an element that cannot be read it goes on at the next line that starts an object as far in as that one did.
        """
        text = _JsonText(self.file)
        wrapped = text.peek() == "{"
        if wrapped:
            _enter_array(text, self.file)
        text.skip("[")
        yield from islice(_elements(text), start.position, None)
        if not wrapped and text.peek():
            yield Record(text.line, None, "something follows the array's end")

    def marks(self) -> Iterator[Mark]:
        """Give the place and line of each element."""
        for place, record in enumerate(self.records()):
            yield Mark(place, record.line)


def open_json(file: TextFile) -> JsonLines | JsonArray:
    """Tell an array, an object that holds one, and one object a line apart.

    Raises:
        InputError: The file is neither.
    """
    head = _head(file)
    if head.startswith("["):
        return JsonArray(file)
    first, _, rest = head.partition("\n")
    value, fault = parse_json(first)
    if not fault:
        return JsonArray(file) if not rest.strip() and _holds_rows(value) else JsonLines(file)
    if not parse_json(rest.lstrip().partition("\n")[0])[1]:
        return JsonLines(file)
    _enter_array(_JsonText(file), file)
    return JsonArray(file)


def _head(file: TextFile) -> str:
    """Give a file's first two lines that hold something, or as much of them as is looked at."""
    text = ""
    for block in file.blocks():
        text = (text + block).lstrip()
        if text.startswith("[") or text.rstrip().count("\n") > 1 or len(text) > _LONGEST_LINE:
            break
    return text


def _holds_rows(value: object) -> bool:
    """Say whether an object is a wrapper around one list of objects, and no row itself."""
    if not isinstance(value, dict) or not KNOWN_KEYS.isdisjoint(value):
        return False
    lists = [held for held in value.values() if isinstance(held, list) and held and isinstance(held[0], dict)]
    return len(lists) == 1


def _enter_array(text: _JsonText, file: TextFile) -> None:
    """Go to the array that an object holds under a key that is no row's own.

    Raises:
        InputError: It holds none, or is a row.
    """
    text.skip("{")
    try:
        while text.peek() == '"':
            key = text.value()
            text.skip(":")
            if text.peek() == "[" and key not in KNOWN_KEYS and text.peek_second() == "{":
                return
            if key in KNOWN_KEYS:
                break
            text.value()
            text.skipped(",")
    except (ValueError, StopIteration, RecursionError):
        pass
    raise _neither(file, text.line)


def _neither(file: TextFile, line: int) -> InputError:
    return InputError(f"{file.path}:{line}: neither a JSON array of rows, nor an object that holds one, nor one JSON object a line.",
                      "Write the rows as an array, or as JSONL.", FIELD)


def _elements(text: _JsonText) -> Iterator[Record]:
    """Read an array's elements up to its end, a fault as a record of its own."""
    late = ""
    while (first := text.peek()) not in ("]", ""):
        line, indent = text.line, text.indent
        try:
            value = text.value()
        except (ValueError, StopIteration, RecursionError) as error:
            fault, more = _element_fault(error, first), text.skip_to_object(indent)
            yield Record(line, None, fault if more else f"{fault}; the array cannot be read from here on")
            if not more:
                return
        else:
            yield Record(line, value, late or text.fault)
            late = "" if text.skipped(",") or text.peek() in ("]", "") else "a comma is missing before it"
    if not text.skipped("]"):
        yield Record(text.line, None, "the JSON array is cut off: its ] is missing")


def _element_fault(error: Exception, first: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}"
    if isinstance(error, _FaultError):
        return str(error)
    return "not JSON: nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {first!r} starts no value"


class _JsonText:
    """A cursor in a JSON text that is read block by block.

    Attributes:
        line: Where the cursor stands, counted from 1.
        indent: What stood before the cursor on its line.
        fault: Why the value last read cannot be used though it is JSON.
    """

    def __init__(self, file: TextFile) -> None:
        self._blocks = file.blocks()
        self._text = ""
        self._at = self._counted = 0
        self._over = False
        self._line = 1
        self.fault = ""

    @property
    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    @property
    def indent(self) -> str:
        return self._text[self._text.rfind("\n", 0, self._at) + 1 : self._at]

    def peek(self) -> str:
        """Give the next character that is no white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def peek_second(self) -> str:
        """Give the character that is no white space after the next one."""
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
        """Read a value and go past it, however many blocks it takes.

        Raises:
            ValueError, StopIteration, RecursionError: There is none that can be read.
        """
        self.peek()
        while True:
            try:
                value, end = _scan(self._text, self._at)
                if end < len(self._text) or not self._more():
                    break
            except (json.JSONDecodeError, StopIteration) as error:
                if not self._may_be_cut(error) or not self._more():
                    raise
        self.fault = _undecoded(self._text[self._at : end])
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


def _undecoded(text: str) -> str:
    """Say which byte of a value was not in the encoding; empty when all were."""
    if text.isascii():
        return ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not UTF-8: byte 0x{ord(text[error.start]) & 0xFF:02x}"
    return ""
