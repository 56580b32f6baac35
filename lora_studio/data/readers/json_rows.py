"""JSON to records: one object a line, an array of objects, or an object that holds such an array.

An array is read as a stream: memory holds one block of text and one row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice

from lora_studio.core.errors import InputError
from lora_studio.data.json_text import JsonText, is_plain, parse_json, scan
from lora_studio.data.readers.records import Record
from lora_studio.data.readers.streams import FIELD, START, Line, RowOffset, TextFile
from lora_studio.data.rows.formats import KNOWN_KEYS

_LONGEST_LINE = 1 << 26  # characters: how much of a .json file is looked at to tell rows a line from one large object


class JsonLines:
    """A file of one JSON value a line; empty lines part nothing."""

    enterable = True

    def __init__(self, file: TextFile) -> None:
        self.file = file

    def records(self, start: RowOffset = START) -> Iterator[Record]:
        """Return the value of each line from a mark on."""
        for line in self.file.lines(start):
            text = line.text
            if text.isspace() or not text:
                continue
            yield Record(line.number, None, line.fault) if line.fault else _record(line)

    def marks(self) -> Iterator[RowOffset]:
        """Return the start of each line that holds something."""
        for line in self.file.lines():
            if not line.text.isspace() and line.text:
                yield RowOffset(line.position, line.number)


def _record(line: Line) -> Record:
    text = line.text
    try:
        value, end = scan(text, 0)
        if text[end:].isspace() or end == len(text):
            return Record(line.number, value, plain=is_plain(text))
    except (StopIteration, ValueError, RecursionError):
        pass  # told below, slowly and in full
    value, fault = parse_json(text.rstrip("\r\n"))
    return Record(line.number, value, fault)


class JsonArray:
    """A file of one array of rows, bare or under a key of an object.

    Where elements share a line, as in a file written without line ends, they are numbered instead: a line would name many.
    """

    enterable = False

    def __init__(self, file: TextFile) -> None:
        self.file = file

    def records(self, start: RowOffset = START) -> Iterator[Record]:
        """Return each element; a mark's position counts the elements before it.

        After an element that cannot be read it goes on at the next line that starts an object as far in as that one did.

        Raises:
            InputError: The object that holds the array holds another one, or turns out to be a row.
        """
        yield from islice(_told_apart(self._all()), start.position, None)

    @property
    def numbered(self) -> bool:
        """Whether its rows are told apart by their number, not by a line."""
        first_two = [record.line for record in islice(self._all(), 2)]
        return len(set(first_two)) < len(first_two)

    def marks(self) -> Iterator[RowOffset]:
        """Return the place and line of each element."""
        for place, record in enumerate(self.records()):
            yield RowOffset(place, record.line)

    def _all(self) -> Iterator[Record]:
        text = JsonText(self.file.blocks())
        key = _enter_array(text, self.file) if text.peek() == "{" else None
        text.skip("[")
        yield from _elements(text, self.file)
        if not text.skipped("]"):
            return
        fault = "" if key is None else _leave_object(text, self.file, key)
        if fault or text.peek():
            yield Record(text.line, None, fault or f"something follows the {'array' if key is None else 'object'}'s end")


def _told_apart(records: Iterator[Record]) -> Iterator[Record]:
    """Return records with their number for a line where the first two share one."""
    first_two = list(islice(records, 2))
    shared = len({record.line for record in first_two}) < len(first_two)
    for number, record in enumerate(chain(first_two, records), 1):
        yield record._replace(line=number) if shared else record


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
    if not first.rstrip().endswith("[") and _is_row(rest.lstrip().partition("\n")[0]):
        return JsonLines(file)
    try:
        _enter_array(JsonText(file.blocks()), file)
    except InputError:
        if _holds_row_line(file):
            return JsonLines(file)
        raise
    return JsonArray(file)


def _head(file: TextFile) -> str:
    """Return a file's first two lines that hold something, or as much of them as is looked at."""
    text = ""
    for block in file.blocks():
        text = (text + block).lstrip()
        if text.startswith("[") or text.rstrip().count("\n") > 1 or len(text) > _LONGEST_LINE:
            break
    return text


def _is_row(line: str) -> bool:
    return line.startswith("{") and not parse_json(line)[1]


def _holds_row_line(file: TextFile) -> bool:
    """Return whether a line is an object that starts where the line does, as no row that is written over several lines has one."""
    looked_at = 0
    for line in file.lines():
        if _is_row(line.text):
            return True
        looked_at += len(line.text)
        if looked_at > _LONGEST_LINE:
            break
    return False


def _holds_rows(value: object) -> bool:
    """Return whether an object is a wrapper around one list of objects, and no row itself."""
    if not isinstance(value, dict) or not KNOWN_KEYS.isdisjoint(value):
        return False
    lists = [held for held in value.values() if isinstance(held, list) and held and isinstance(held[0], dict)]
    return len(lists) == 1


def _enter_array(text: JsonText, file: TextFile) -> str:
    """Go to the array that an object holds under a key that is no row's own, and give that key.

    Raises:
        InputError: It holds none, or is a row.
    """
    try:
        text.skip("{")
        while text.peek() == '"':
            key = str(text.value())
            text.skip(":")
            if key in KNOWN_KEYS:
                break
            if _at_rows(text):
                return key
            text.value()
            text.skipped(",")
    except (ValueError, StopIteration, RecursionError):
        pass  # whatever it is, it holds no rows, which is what a person is told
    raise _neither(file, text.line)


def _leave_object(text: JsonText, file: TextFile, rows_key: str) -> str:
    """Go past the object whose array has been read, and say what is wrong with the rest of it.

    Raises:
        InputError: It holds another array of rows, or is a row.
    """
    try:
        while text.skipped(","):
            key = str(text.value())
            text.skip(":")
            if key in KNOWN_KEYS:
                raise _neither(file, text.line)
            if _at_rows(text):
                raise InputError(
                    f"{file.path}:{text.line}: a second array of rows, {key!r}, follows {rows_key!r}.",
                    "Write each to a file of its own.",
                    FIELD,
                )
            text.value()
        text.skip("}")
    except (ValueError, StopIteration, RecursionError):
        cut = not text.peek()
        return "the object around the array is cut off: its } is missing" if cut else "not JSON: no key and value follow the array, nor }"
    return ""


def _at_rows(text: JsonText) -> bool:
    return text.peek() == "[" and text.peek_second() == "{"


def _neither(file: TextFile, line: int) -> InputError:
    return InputError(
        f"{file.path}:{line}: neither a JSON array of rows, nor an object that holds one, nor one JSON object a line.",
        "Write the rows as an array, or as JSONL.",
        FIELD,
    )


def _elements(text: JsonText, file: TextFile) -> Iterator[Record]:
    """Read an array's elements up to the ] at its end, a fault as a record of its own, a missing ] too."""
    late = ""
    while (first := text.peek()) not in ("]", ""):
        line = text.line
        try:
            value = text.value()
        except (ValueError, StopIteration, RecursionError) as error:
            fault, more = _element_fault(error, first), text.skip_to_object(text.indent)
            yield Record(line, None, fault if more else f"{fault}; the array cannot be read from here on")
            if not more:
                return
        else:
            if text.misread is not None:
                file.note(fits=not text.misread, raw=text.raw)
            yield Record(line, value, late or text.fault, text.plain)
            late = "" if text.skipped(",") or text.peek() in ("]", "") else "a comma is missing before it"
    if text.peek() != "]":
        yield Record(text.line, None, "the JSON array is cut off: its ] is missing")


def _element_fault(error: Exception, first: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}"
    return "not JSON: nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {first!r} starts no value"
