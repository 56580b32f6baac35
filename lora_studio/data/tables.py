"""CSV and TSV to records: the first line names the columns, every further row is an object of its cells.

A quote that is opened and never closed costs its own line: reading goes on at the next.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from lora_studio.core.errors import InputError
from lora_studio.data.records import Record
from lora_studio.data.streams import FIELD, START, Line, Mark, TextFile

_LONGEST_CELL = 1 << 30  # csv's own limit of 131,072 characters is shorter than many documents
_MOST_LINES = 20_000  # a cell of more lines is a quote that nobody closed
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
            self._names = [name.strip() for name in self._cells(head.text)]
        except csv.Error as error:
            raise InputError(f"{file.path}:1: not CSV: {error}.", "The first line names the columns.", FIELD) from error
        twice = [name for name in self._names if name and self._names.count(name) > 1]
        if twice:
            raise InputError(f"{file.path}:1: the column {twice[0]!r} is named twice.", "Name each column once.", FIELD)

    def records(self, start: Mark = START) -> Iterator[Record]:
        """Give each row from a mark on; an empty cell is null."""
        for lines in self._rows(start):
            yield self._record(lines)

    def marks(self) -> Iterator[Mark]:
        """Give the start of each row."""
        for lines in self._rows(START):
            yield Mark(lines[0].position, lines[0].number)

    def _rows(self, start: Mark) -> Iterator[list[Line]]:
        """Give the lines of each row; a row with a broken quote is its first line alone."""
        source = self.file.lines(start)
        if start.line == 1:
            next(source)
        ahead = deque[Line]()
        while True:
            lines = self._next_row(source, ahead)
            if not lines:
                return
            if len(lines) > 1 and not self._is_whole(lines):
                ahead.extendleft(reversed(lines[1:]))
                del lines[1:]
            if len(lines) > 1 or lines[0].text.strip("\r\n"):
                yield lines

    def _next_row(self, source: Iterator[Line], ahead: deque[Line]) -> list[Line]:
        """Give lines until every quote that opened has closed, or so many that none will."""
        lines: list[Line] = []
        opened = False
        while len(lines) < _MOST_LINES:
            line = ahead.popleft() if ahead else next(source, None)
            if line is None:
                break
            lines.append(line)
            opened ^= line.text.count('"') % 2 == 1
            if not opened:
                break
        return lines

    def _is_whole(self, lines: list[Line]) -> bool:
        try:
            self._cells("".join(line.text for line in lines))
        except csv.Error:
            return False
        return True

    def _record(self, lines: list[Line]) -> Record:
        number = lines[0].number
        fault = next((line.fault for line in lines if line.fault), "")
        if fault:
            return Record(number, None, fault)
        try:
            cells = self._cells("".join(line.text for line in lines))
        except csv.Error as error:
            reason = "a quote is opened and never closed" if "unexpected end" in str(error) else f"not CSV: {error}"
            return Record(number, None, reason)
        if len(cells) != len(self._names):
            noun = "cell" if len(cells) == 1 else "cells"
            return Record(number, None, f"{len(cells)} {noun} where the first line names {len(self._names)} columns")
        return Record(number, {name: cell or None for name, cell in zip(self._names, cells)}, plain=True)

    def _cells(self, text: str) -> list[str]:
        if '"' not in text:
            return text.rstrip("\r\n").split(self._delimiter)
        rows = list(csv.reader([text], delimiter=self._delimiter, strict=True))
        return rows[0] if rows else []
