"""CSV and TSV to records: the first line names the columns, every further row is an object of its cells.

A row of several lines that is none (a quote never closed, another number of cells) costs its first line: reading goes on at the next.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from lora_studio.core.errors import InputError
from lora_studio.data.readers.records import Record
from lora_studio.data.readers.streams import FIELD, START, Line, RowOffset, TextFile

_LONGEST_CELL = 1 << 30  # csv's own limit of 131,072 characters is shorter than many documents
_LONGEST_ROW = 1 << 25  # characters: a row that goes on for longer is a quote that nobody closed
_DELIMITERS = ",;\t|"


class Table:
    """A table whose first line names its columns; commas, semicolons, bars or tabs part them."""

    enterable = True

    def __init__(self, file: TextFile, *, tabs: bool) -> None:
        """Read the first line.

        Raises:
            InputError: It is not text, or names a column twice.
        """
        self.file = file
        head = next(file.lines())
        if head.fault:
            way_out = f"Set data.encoding to {file.offer}, or save it as UTF-8." if file.offer else "Save it as UTF-8."
            raise InputError(f"{file.path}:1: {head.fault}.", way_out, "data.encoding")
        self._delimiter = "\t" if tabs else max(_DELIMITERS, key=head.text.count)
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        try:
            self._names = [name.strip() for name in next(csv.reader([head.text], delimiter=self._delimiter, strict=True), [])]
        except csv.Error as error:
            raise InputError(f"{file.path}:1: not CSV: {error}.", "The first line names the columns.", FIELD) from error
        twice = [name for name in self._names if name and self._names.count(name) > 1]
        if twice:
            raise InputError(f"{file.path}:1: the column {twice[0]!r} is named twice.", "Name each column once.", FIELD)

    def records(self, start: RowOffset = START) -> Iterator[Record]:
        """Return each row from a mark on; an empty cell is null."""
        for lines, cells, broken in self._rows(start):
            fault = next((line.fault for line in lines if line.fault), broken)
            yield Record(lines[0].number, None, fault) if fault else self._record(lines[0].number, cells)

    def marks(self) -> Iterator[RowOffset]:
        """Return the start of each row."""
        for lines, _, _ in self._rows(START):
            yield RowOffset(lines[0].position, lines[0].number)

    def _record(self, number: int, cells: list[str]) -> Record:
        if len(cells) != len(self._names):
            return Record(number, None, f"{_count(cells)} where the first line names {len(self._names)} columns")
        return Record(number, {name: cell or None for name, cell in zip(self._names, cells)}, plain=True)

    def _rows(self, start: RowOffset) -> Iterator[tuple[list[Line], list[str], str]]:
        """Return each row's lines, its cells, and what is wrong with its quotes; such a row is its first line alone."""
        source = self.file.lines(start)
        if start.line == 1:
            next(source)
        ahead = deque[Line]()
        while (line := ahead.popleft() if ahead else next(source, None)) is not None:
            text = line.text.rstrip("\r\n")
            if not text:
                continue
            if '"' not in text:
                yield [line], text.split(self._delimiter), ""
                continue
            lines = [line]
            cells, broken = self._cells(lines, source, ahead)
            if broken:
                ahead.extendleft(reversed(lines[1:]))
            yield (lines[:1] if broken else lines), cells, broken

    def _cells(self, lines: list[Line], source: Iterator[Line], ahead: deque[Line]) -> tuple[list[str], str]:
        """Return the cells of a row whose first line is given, and why they are none; the lines it takes are put into `lines`."""
        try:
            cells = next(csv.reader(self._taken(lines, source, ahead), delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):
                return [], self._unclosed(lines)
            return [], f"not CSV: {error}" + (f" at line {lines[-1].number}" if len(lines) > 1 else "")
        if len(lines) > 1 and len(cells) != len(self._names):
            columns = f"where the first line names {len(self._names)} columns"
            return [], f"lines {lines[0].number} to {lines[-1].number} make {_count(cells)} {columns}"
        return cells, ""

    def _taken(self, lines: list[Line], source: Iterator[Line], ahead: deque[Line]) -> Iterator[str]:
        """Return the text of a row's first line, and of further ones as long as a quote is open and the row can be one."""
        yield lines[0].text
        size = closed = 0
        # A line of a quoted cell with a quote that is not doubled ends that cell, so this many lines end more cells than there are.
        while size < _LONGEST_ROW and closed < len(self._names) and (line := ahead.popleft() if ahead else next(source, None)):
            lines.append(line)
            size += len(line.text)
            closed += '"' in line.text.replace('""', "")
            yield line.text

    def _unclosed(self, lines: list[Line]) -> str:
        """Say at which line the quote opens that is still open after a row's lines."""
        *cells, rest = next(csv.reader((line.text for line in lines), delimiter=self._delimiter))
        opened = lines[-1].number - rest.removesuffix("\n").count("\n")
        if len(cells) >= len(self._names) and opened > lines[0].number:
            return f"lines {lines[0].number} to {opened} make more cells than the first line names columns ({len(self._names)})"
        return f"a quote is opened at line {opened} and never closed"


def _count(cells: list[str]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
