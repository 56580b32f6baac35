"""Parquet to records, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lora_studio.core.errors import InputError
from lora_studio.data.readers.records import Record
from lora_studio.data.readers.streams import FIELD, START, RowOffset, damaged, readable, size_of

_BATCH = 512


class ParquetFile:
    """A Parquet file; a row's line is its number from 1.

    Attributes:
        path: Where it is.
        fitting: Always empty: its text is UTF-8 by definition.
    """

    enterable = True
    fitting: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Read the file's directory.

        Raises:
            InputError: It is missing, cut off, damaged, or no Parquet.
        """
        self.path = path
        self.file = self
        self._rows_read = 0
        with self._opened() as file:
            self._groups: list[int] = [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)]
        if not self.rows:
            raise InputError(f"{path} is empty.", "Give a file with rows.", FIELD)

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self._groups)

    @property
    def position(self) -> int:
        """Bytes read so far, by the share of rows."""
        return size_of(self.path) * self._rows_read // self.rows

    def records(self, start: RowOffset = START) -> Iterator[Record]:
        """Return each row from a mark on, whose position is the rows before it; its row groups are not read.

        Raises:
            InputError: The file is damaged further in.
        """
        group, before = 0, 0
        while group < len(self._groups) and before + self._groups[group] <= start.position:
            before += self._groups[group]
            group += 1
        row = before
        with self._opened() as file:
            for batch in file.iter_batches(_BATCH, row_groups=list(range(group, len(self._groups)))):
                if row + batch.num_rows <= start.position:
                    row += batch.num_rows
                    continue
                for value in batch.to_pylist():
                    row += 1
                    if row > start.position:
                        self._rows_read = row
                        yield Record(row, {name: _without_nulls(cell) for name, cell in value.items()})

    def marks(self) -> Iterator[RowOffset]:
        """Return the place of each row, without reading any."""
        return (RowOffset(row, row + 1) for row in range(self.rows))

    @contextmanager
    def _opened(self) -> Generator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with readable(self.path):
            if not size_of(self.path) and self.path.exists():
                raise InputError(f"{self.path} is empty.", "Give a file with rows.", FIELD)
            try:
                with pq.ParquetFile(self.path) as file:
                    yield file
            except (pa.ArrowException, UnicodeDecodeError) as error:
                raise damaged(self.path, error) from error


def _without_nulls(value: Any) -> Any:
    """Drop the null members of a cell's structs: Arrow gives every struct of a column the members that any of them has."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _without_nulls(held) for key, held in cast("dict[str, Any]", value).items() if held is not None}
    return value
