"""Files to records: JSONL, a JSON array, CSV and plain text, one record at a time, each with its line.

A record that cannot be read is a fault at its line; the reader goes on after it where the format allows that.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lora_studio.core.errors import InputError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".text", ".md")
_TABLES = (".csv", ".tsv")
_TEXTS = (".txt", ".text", ".md")
_LONGEST_CELL = 1 << 30  # csv's own limit of 131,072 characters is shorter than many documents
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """What stands at a line: a value, or why it could not be read."""

    line: int
    value: object = None
    fault: str = ""


def open_records(path: Path) -> Iterator[Record]:
    """Read a file record by record.

    A `.json` file may hold an array or one object a line. In a text file a row ends at an empty line.

    Raises:
        InputError: No such file, a folder, an unknown ending, an empty file, or not the format its name says.
    """
    _refuse_unreadable(path)
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return _table(path)
    if suffix in _TEXTS:
        return _paragraphs(path)
    if suffix == ".json":
        return _array(path) if _first_byte(path) == b"[" else _objects(path)
    return _lines_of_json(path)


def _refuse_unreadable(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a data file.", f"Give files ({', '.join(SUFFIXES)}).", "data.train")
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path; it is relative to the config's folder.", "data.train")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has an ending that is not known.", f"Known are {', '.join(SUFFIXES)}.", "data.train")
    try:
        if not _first_byte(path):
            raise InputError(f"{path} is empty.", "Give a file with rows.", "data.train")
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.", "Check who may read it.", "data.train") from error


def _first_byte(path: Path) -> bytes:
    """Give the first byte that is no white space; empty when there is none."""
    with path.open("rb") as file:
        block = file.read(65536).removeprefix(_BOM)
        while block:
            if stripped := block.lstrip():
                return stripped[:1]
            block = file.read(65536)
    return b""


def _decoded_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Give each line's number, its text with its line end, and a fault when it is not UTF-8."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            try:
                yield number, line.decode("utf-8"), ""
            except UnicodeDecodeError as error:
                yield number, line.decode("utf-8", "replace"), f"not UTF-8: byte 0x{line[error.start]:02x} at {error.start + 1}"


def _lines_of_json(path: Path) -> Iterator[Record]:
    for number, line, fault in _decoded_lines(path):
        if not line.strip():
            continue
        if fault:
            yield Record(number, fault=fault)
            continue
        try:
            yield Record(number, json.loads(line))
        except json.JSONDecodeError as error:
            yield Record(number, fault=_json_fault(error))
        except (ValueError, RecursionError) as error:
            yield Record(number, fault=f"not JSON: {error}")


def _objects(path: Path) -> Iterator[Record]:
    """Read a `.json` file without an array: good when its first line is a whole object, as in JSONL."""
    for record in _lines_of_json(path):
        if record.fault and not record.fault.startswith("not UTF-8"):
            raise InputError(
                f"{path}:{record.line}: neither a JSON array of rows nor one JSON object a line.",
                "Write the rows as an array, or as JSONL.", "data.train",
            )
        break
    return _lines_of_json(path)


def _json_fault(error: json.JSONDecodeError) -> str:
    cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
    return f"the JSON is cut off at column {error.colno}" if cut else f"not JSON: {error.msg} at column {error.colno}"


def _array(path: Path) -> Iterator[Record]:
    """Read an array element by element; a fault ends it, since nothing says where the next row starts."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8.", "Save the file as UTF-8.", "data.train") from error
    decoder = json.JSONDecoder()
    at = _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield Record(line, fault=f"the array cannot be read from here on: {getattr(error, 'msg', error)}")
            return
        yield Record(line, value)
        at = _skip_space(text, end)
        if at < len(text) and text[at] == ",":
            at = _skip_space(text, at + 1)
        elif at < len(text) and text[at] != "]":
            yield Record(line + text.count("\n", counted, at), fault="the array cannot be read from here on: a comma is missing")
            return
    if at >= len(text):
        yield Record(line + text.count("\n", counted), fault="the JSON array is cut off: its ] is missing")


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _paragraphs(path: Path) -> Iterator[Record]:
    start, lines, fault = 0, list[str](), ""
    for number, line, wrong in _decoded_lines(path):
        if line.strip():
            start = start or number
            lines.append(line)
            fault = fault or wrong
        elif lines:
            yield _paragraph(start, lines, fault)
            start, lines, fault = 0, [], ""
    if lines:
        yield _paragraph(start, lines, fault)


def _paragraph(start: int, lines: Iterable[str], fault: str) -> Record:
    return Record(start, fault=fault) if fault else Record(start, {"text": "".join(lines).strip("\r\n")})


def _table(path: Path) -> Iterator[Record]:
    """Read a table whose first line names its columns; commas, semicolons or tabs part them."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    faults: dict[int, str] = {}

    def lines() -> Iterator[str]:
        for number, line, fault in _decoded_lines(path):
            if fault:
                faults[number] = fault
            yield line

    source = lines()
    header_line = next(source)
    if faults:
        raise InputError(f"{path}:1: not UTF-8.", "Save the file as UTF-8.", "data.train")
    delimiter = max(",;\t", key=header_line.count) if path.suffix.lower() == ".csv" else "\t"
    yield from _cells(csv.reader(_with_first(header_line, source), delimiter=delimiter, strict=True), faults)


def _with_first(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _cells(reader: object, faults: dict[int, str]) -> Iterator[Record]:
    rows = cast("Iterator[list[str]]", reader)
    header = [name.strip() for name in next(rows)]
    while True:
        start = reader.line_num + 1  # type: ignore[attr-defined]  # csv publishes no name for its reader's type
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(start, fault=f"not CSV: {error}")
            continue
        last = reader.line_num  # type: ignore[attr-defined]
        wrong = next((faults[number] for number in range(start, last + 1) if number in faults), "")
        if wrong:
            yield Record(start, fault=wrong)
        elif cells and len(cells) != len(header):
            yield Record(start, fault=f"{len(cells)} cells where the first line names {len(header)} columns")
        elif cells:
            yield Record(start, {name: cell or None for name, cell in zip(header, cells)})
