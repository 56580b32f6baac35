"""Any row of a data set by its number, and a search over all of them, without holding the rows.

Rows are read in blocks of 256, or of a megabyte where that is less. A file that can be entered at a byte is remembered by where
its blocks start; one that cannot (a JSON array, anything compressed) is read from its start when a row before the last one
is asked for.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.readers.files import FileReader, Split, file_readers
from lora_studio.data.readers.read import Records, kind_of
from lora_studio.data.readers.streams import RowOffset, TextFile, compression_of
from lora_studio.data.rows.row import BadRow, Row

ROWS_A_BLOCK = 256
BYTES_A_BLOCK = 1 << 20
_BLOCKS_KEPT = 16
_GROWTH = 4096
# Text that JSON and CSV write as it is, so that it can be looked for in bytes.
_PLAIN_RUN = re.compile(r"[A-Za-z0-9 !#$%&'()*+,\-.:;<=>?@\[\]^_`{|}~]+")
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")


@dataclass
class _IndexedFile:
    """One file: where its blocks start, as far as it has been looked through.

    Attributes:
        marks: The start of each block.
        firsts: The number of each block's first row in the file.
    """

    split: Split
    reader: FileReader
    marks: list[RowOffset] = field(default_factory=list[RowOffset])
    firsts: array[int] = field(default_factory=lambda: array("q"))
    rows: int = 0
    over: bool = False
    error: InputError | None = None
    _source: Iterator[RowOffset] | None = None
    _open_at: int = -1
    _open_rows: Iterator[Row | BadRow] = field(default_factory=lambda: iter(()))

    def grow(self, most: int) -> int:
        """Look through up to `most` more rows; give how many there were. What is wrong with the file ends it and is kept."""
        before = self.rows
        try:
            self._source = self._source or self._records.marks()
            for mark in islice(self._source, most):
                if self._starts_block(mark):
                    self.marks.append(mark)
                    self.firsts.append(self.rows)
                self.rows += 1
        except InputError as error:
            self.error = error
        found = self.rows - before
        self.over = found < most
        return found

    def _starts_block(self, mark: RowOffset) -> bool:
        if not self.marks:
            return True
        return self.rows - self.firsts[-1] == ROWS_A_BLOCK or mark.position - self.marks[-1].position >= BYTES_A_BLOCK

    def block_of(self, row: int) -> int:
        """Return the number of the block that a row stands in."""
        return max(0, bisect_right(self.firsts, row) - 1)

    def rows_in(self, block: int) -> int:
        """Count the rows of a block found so far."""
        return (self.firsts[block + 1] if block + 1 < len(self.firsts) else self.rows) - self.firsts[block]

    def block(self, number: int) -> list[Row | BadRow]:
        """Read the rows of a block; those of a format that another row of the file told are read in it."""
        if self.reader.format is None:
            next((row for row in self.reader.rows() if isinstance(row, Row)), None)
        start = self.firsts[number]
        if start != self._open_at or self._enterable:
            self._open_rows = self.reader.rows(self.marks[number])
        rows = list(islice(self._open_rows, self.rows_in(number)))
        self._open_at = start + len(rows)
        return rows

    def raw_block(self, number: int) -> bytes | None:
        """Return the bytes of a block's rows; None where a file's bytes do not show its text."""
        file = self._records.file
        if not isinstance(file, TextFile) or not self._enterable or file.encoding not in ("utf-8", "latin-1"):
            return None
        end = self.marks[number + 1].position if number + 1 < len(self.marks) else -1
        return file.read(self.marks[number].position, end)

    @property
    def _records(self) -> Records:
        return self.reader.open()

    @property
    def _enterable(self) -> bool:
        return self._records.enterable and (kind_of(self.reader.where) == ".parquet" or not compression_of(self.reader.where))


class RowIndex:
    """The rows of a data set, sound and bad, numbered from 0 in the order of its files."""

    def __init__(self, settings: DataSettings, readers: list[tuple[Split, FileReader]] | None = None) -> None:
        """Name the files; nothing is read before `grow`.

        Args:
            settings: The data set.
            readers: Its files, where they are known already.

        Raises:
            InputError: A name is wrong, as for `file_readers`.
        """
        self._files = [_IndexedFile(split, reader) for split, reader in (file_readers(settings) if readers is None else readers)]
        self._blocks: OrderedDict[tuple[int, int], list[Row | BadRow]] = OrderedDict()

    def __len__(self) -> int:
        """Rows found so far."""
        return sum(file.rows for file in self._files)

    @property
    def complete(self) -> bool:
        """Whether every row has been found."""
        return all(file.over for file in self._files)

    @property
    def errors(self) -> list[InputError]:
        """What was wrong with files as a whole, as far as they have been looked through."""
        return [file.error for file in self._files if file.error]

    def grow(self, rows: int = 50_000) -> int:
        """Look through up to `rows` more rows (some 50,000 take a tenth of a second); give how many there were."""
        found = 0
        for file in self._files:
            while not file.over and found < rows:
                found += file.grow(rows - found)
        return found

    def row(self, number: int) -> Row | BadRow:
        """Return a row by its number.

        Raises:
            IndexError: It has not been found yet, or there is none.
            InputError: The file cannot be read any more.
        """
        place, within = self._place(number)
        file = self._files[place]
        block = file.block_of(within)
        rows = self._block(place, block)
        if within - file.firsts[block] >= len(rows):
            raise IndexError(f"row {number} is no longer there")
        return rows[within - file.firsts[block]]

    def split(self, number: int) -> Split:
        """Return whether a row stands in a training or an evaluation file.

        Raises:
            IndexError: It has not been found yet, or there is none.
        """
        return self._files[self._place(number)[0]].split

    def search(self, text: str, start: int = 0) -> Iterator[int | None]:
        """Return the numbers of sound rows from `start` on that hold a text, upper and lower case being the same.

        Blocks whose bytes cannot hold it are not parsed. After a block without a match comes None, so that a caller can stop between.

        Raises:
            InputError: A file cannot be read any more.
        """
        needle = text.lower()
        if not needle:
            return
        run = max(_PLAIN_RUN.findall(needle), key=len, default="").encode()
        before = 0
        for file in self._files:
            number = self._block_from(file, max(0, start - before))
            while self._has_block(file, number):
                first = before + file.firsts[number]
                found = [first + row for row in _matches(file, number, needle, run) if first + row >= start]
                yield from found or (None,)
                number += 1
            before += file.rows

    def _block_from(self, file: _IndexedFile, row: int) -> int:
        while not file.over and file.rows <= row:
            file.grow(_GROWTH)
        return file.block_of(row) if row < file.rows else len(file.marks)

    def _has_block(self, file: _IndexedFile, number: int) -> bool:
        """Look through the file until a block and the start of the next are known, or it is over."""
        while not file.over and len(file.marks) <= number + 1:
            file.grow(_GROWTH)
        return number < len(file.marks)

    def _place(self, number: int) -> tuple[int, int]:
        """Return a row's file and its number in it."""
        starts = [0]
        for file in self._files:
            starts.append(starts[-1] + file.rows)
        if not 0 <= number < starts[-1]:
            raise IndexError(f"row {number} of {starts[-1]}")
        place = bisect_right(starts, number) - 1
        return place, number - starts[place]

    def _block(self, place: int, number: int) -> list[Row | BadRow]:
        wanted = (place, number)
        rows = self._blocks.get(wanted)
        if rows is None or len(rows) < self._files[place].rows_in(number):
            rows = self._files[place].block(number)
        self._blocks[wanted] = rows
        self._blocks.move_to_end(wanted)
        while len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return rows


def _matches(file: _IndexedFile, number: int, needle: str, run: bytes) -> list[int]:
    """Return the places within a block of the rows that hold a text, whose longest plain run rules most blocks out."""
    if run and (raw := file.raw_block(number)) is not None and run not in raw.lower() and not _ESCAPED_ASCII.search(raw):
        return []
    return [at for at, row in enumerate(file.block(number)) if isinstance(row, Row) and any(needle in text.lower() for text in row.texts)]
