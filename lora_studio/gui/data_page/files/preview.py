"""The first rows of the data: as they stand in the file, and as they would be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import DataCheck, DataFile
from lora_studio.data.readers.files import FileReader
from lora_studio.data.readers.read import open_records
from lora_studio.data.rows.row import BadRow
from lora_studio.gui.data_page.row_models import row_as_text

_FIRST_ROWS = 5
_ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be")
_LOOKED_AT = 50  # records: a file may begin with broken ones


@dataclass(frozen=True)
class RawRows:
    """The first records of a file that are objects.

    Attributes:
        keys: Their keys, in the order of the file.
        rows: The records.
        lines: Where each starts.
    """

    keys: tuple[str, ...] = ()
    rows: tuple[Mapping[str, object], ...] = ()
    lines: tuple[int, ...] = ()


def odd_file(check: DataCheck) -> DataFile | None:
    """Return the file whose columns want a look: the first that no row says how to read, else the first."""
    return next((file for file in check.files if not file.format), next(iter(check.files), None))


def raw_rows(file: DataFile, settings: DataSettings) -> RawRows:
    """Read the first records of a file as they stand in it; none where it cannot be read."""
    rows: list[Mapping[str, object]] = []
    lines: list[int] = []
    try:
        for record in islice(open_records(Path(file.where or file.path), settings.encoding).records(), _LOOKED_AT):
            if isinstance(record.value, dict):
                rows.append(cast("Mapping[str, object]", record.value))
                lines.append(record.line)
            if len(rows) == _FIRST_ROWS:
                break
    except InputError:
        return RawRows()
    keys = dict.fromkeys(str(key) for row in rows for key in row)
    return RawRows(tuple(keys), tuple(rows), tuple(lines))


def first_keys(check: DataCheck, settings: DataSettings) -> list[str]:
    """Return the columns of the file that wants a look."""
    file = odd_file(check)
    return list(raw_rows(file, settings).keys) if file else []


def fitting_encoding(settings: DataSettings) -> str:
    """Return the first encoding in which every file opens that the settings name one by one; empty when there is none."""
    files = [Path(name) for name in (*settings.train, *settings.eval) if Path(name).is_file()]
    return next((encoding for encoding in _ENCODINGS if files and all(_opens(file, encoding) for file in files)), "")


def _opens(file: Path, encoding: str) -> bool:
    try:
        return next(open_records(file, encoding).records(), None) is not None
    except InputError:
        return False


def read_rows(file: DataFile, settings: DataSettings) -> tuple[str, int]:
    """Return the first rows of a file as these settings read them, and how many of them are bad; an error as text."""
    reader = FileReader(file.path, Path(file.where or file.path), settings)
    try:
        rows = list(islice(reader.rows(), _FIRST_ROWS))
    except InputError as error:
        return str(error), 1
    bad = sum(isinstance(row, BadRow) for row in rows)
    shown = [f"{Path(row.file).name}:{row.line}\n{row.reason if isinstance(row, BadRow) else row_as_text(row)}" for row in rows]
    return "\n\n".join(shown), bad
