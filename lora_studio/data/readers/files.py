"""From what the settings name to files: single ones, folders, Hub data sets; each with the reader of its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from lora_studio.core.errors import InputError
from lora_studio.core.settings import HUB_SCHEME, DataSettings
from lora_studio.data.readers.columns import check_columns, renamed
from lora_studio.data.readers.read import SUFFIXES, Records, is_beside, kind_of, open_records
from lora_studio.data.readers.records import Record
from lora_studio.data.readers.streams import FIELD, START, RowOffset, compression_of, size_of
from lora_studio.data.rows.formats import detect_format, parse_row, quick_key, quick_row, refuse_unread
from lora_studio.data.rows.row import BadRow, Row, RowError, RowFormat
from lora_studio.data.rows.values import kind

Split = Literal["train", "eval"]
ProgressCallback = Callable[[int, int], None]


@dataclass
class FileReader:
    """Reads one data file's rows; after the first sound one `format` and `reason` say how it is read.

    `rows()` may be called again: each call reads the file from its start.

    Attributes:
        path: As people are told of it.
        where: The file itself, the same but for one that came from the Hub.
        settings: How to read it.
        format: Its format, None until a row told it.
        reason: Why that one.
    """

    path: str
    where: Path
    settings: DataSettings = field(default_factory=DataSettings)
    format: RowFormat | None = field(default=None, init=False)
    reason: str = field(default="", init=False)
    _records: Records | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.settings.format != "auto":
            self.format, self.reason = self.settings.format, "set in the settings"

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return size_of(self.where)

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._records.file.position if self._records else 0

    @property
    def fitting(self) -> tuple[str, ...]:
        """The encodings that fit every line read so far, where the settings' own does not; the likeliest first."""
        return self._records.file.fitting if self._records else ()

    def open(self) -> Records:
        """Open the file, or give it if it is open.

        Raises:
            InputError: The file is missing, empty, of an unknown kind, in another encoding, or malformed as a whole.
        """
        if self._records is None:
            self._records = open_records(self.where, self.settings.encoding)
        return self._records

    def rows(self, start: RowOffset = START) -> Iterator[Row | BadRow]:
        """Return every row from a mark on, sound or bad, in order.

        Raises:
            InputError: As `open`, or the file is cut off or damaged.
        """
        for record in self.open().records(start):
            if self.format is not None and self._may_be_quick(record):
                row = quick_row(record.value, self.format, self.path, record.line)
                if row is not None:
                    yield row
                    continue
            try:
                yield self._row(record)
            except RowError as error:
                yield BadRow(self.path, record.line, str(error))

    def keys(self) -> Iterator[int | BadRow]:
        """Return the `content_key` of every sound row, and every bad row: what counting needs, in half the time of `rows`.

        Raises:
            InputError: As `rows`.
        """
        for record in self.open().records():
            if self.format is not None and self._may_be_quick(record):
                key = quick_key(record.value, self.format)
                if key is not None:
                    yield key
                    continue
            try:
                yield self._row(record).content_key
            except RowError as error:
                yield BadRow(self.path, record.line, str(error))

    def _may_be_quick(self, record: Record) -> bool:
        return record.plain and not record.fault and not self.settings.columns

    def _row(self, record: Record) -> Row:
        value = self._value(record)
        row_format = self._format_of(value, record.line)
        if not self.settings.columns:
            refuse_unread(value, row_format)
        return parse_row(value, row_format, self.path, record.line)

    def _value(self, record: Record) -> object:
        if record.fault:
            raise RowError(record.fault)
        return renamed(record.value, self.settings.columns) if self.settings.columns else record.value

    def _format_of(self, value: object, line: int) -> RowFormat:
        """Return the file's format, told by its first row with a known key; every row of a file has the same one."""
        if self.format is None:
            if not isinstance(value, dict):
                raise RowError(f"a row is an object with keys, such as messages or text; this is {kind(value)}")
            fields, columns = cast("dict[str, object]", value), self.settings.columns
            told = detect_format({key: fields[key] for key in columns})
            found = told or detect_format(fields)
            if found is None:
                raise RowError(f"no known keys: {', '.join(map(repr, list(fields)[:6]))}" if fields else "the row has no keys")
            unit = "row" if kind_of(self.where) == ".parquet" else "line"
            self.format = found[0]
            self.reason = f"data.columns names {', '.join(columns)}" if told else f"{unit} {line} has the key {found[1]!r}"
        return self.format


def file_readers(settings: DataSettings, progress: ProgressCallback | None = None) -> list[tuple[Split, FileReader]]:
    """Return a reader for each file the settings name, training files first; files of a Hub data set are fetched.

    Args:
        settings: The names, and how to read what they name.
        progress: Called with bytes fetched and bytes to fetch; may raise to cancel.

    Raises:
        InputError: No training file is named, one is named twice, a folder holds none, or a Hub data set cannot be had.
    """
    check_columns(settings)
    if not settings.train:
        raise InputError("No data file is given.", f"Name a file of rows ({', '.join(SUFFIXES)}), a folder, or hf://owner/name.", FIELD)
    found: list[tuple[Split, FileReader]] = []
    splits: tuple[tuple[Split, tuple[str, ...]], ...] = (("train", settings.train), ("eval", settings.eval))
    for split, names in splits:
        try:
            found.extend((split, FileReader(path, where, settings)) for name in names for path, where in _files_of(name, progress))
        except InputError as error:
            raise at_split(error, f"data.{split}") from error
    _refuse_repeats(found)
    return found


def at_split(error: InputError, where: str) -> InputError:
    """Return the error at the setting that named the file; one about another setting stays as it is."""
    return InputError(error.message, error.hint, where if error.field == FIELD else error.field)


def quick_bytes(settings: DataSettings) -> int | None:
    """Return the bytes on disk that the settings name, without complaint; None where reading needs the Hub or a slow import."""
    names = (*settings.train, *settings.eval)
    if any(name.startswith(HUB_SCHEME) for name in names):
        return None
    files = [file for name in names for file in (_within(Path(name)) if Path(name).is_dir() else [Path(name)])]
    if any(kind_of(file) == ".parquet" or compression_of(file) in (".zst", ".zstd") for file in files):
        return None
    return sum(map(size_of, files))


def _files_of(name: str, progress: ProgressCallback | None) -> list[tuple[str, Path]]:
    """Return the files behind a name, each as people are told of it and where it is."""
    if name.startswith(HUB_SCHEME):
        from lora_studio.data.readers.hub_dataset import hub_files

        return hub_files(name, progress)
    path = Path(name)
    if not path.is_dir():
        return [(name, path)]
    files = _within(path)
    if not files:
        raise InputError(f"{name} holds no data file.", f"Known are {', '.join(SUFFIXES)}; hidden files are not looked at.", FIELD)
    return [(str(file), file) for file in files]


def _within(folder: Path) -> list[Path]:
    """Return the data files below a folder in the order of their names; hidden ones and what only describes data are no data.

    Links are followed; a folder that is reached twice is read once.
    """
    found: list[Path] = []
    entered = set[Path]()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent) / name for name in names if kind_of(Path(name)) and not name.startswith(".") and not is_beside(name)]
    return sorted(found)


def _refuse_repeats(readers: list[tuple[Split, FileReader]]) -> None:
    seen: set[Path] = set()
    for split, reader in readers:
        # Equal files of a Hub data set are one file on this machine.
        where = reader.where.absolute() if reader.path.startswith(HUB_SCHEME) else reader.where.resolve()
        if where in seen:
            way_out = "Rows trained on cannot be held out as well; name each file once."
            raise InputError(f"{reader.path} is named twice.", way_out, f"data.{split}")
        seen.add(where)
