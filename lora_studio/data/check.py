"""A quick look at data files without a tokenizer: every row validated, every bad one named by file and line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_studio.core.config import DataSettings
from lora_studio.core.errors import InputError
from lora_studio.data.read import open_records
from lora_studio.data.rows import BadRow, Row, RowError, RowFormat, detect_format, parse_row

Split = Literal["train", "eval"]
_SHOWN_BAD_ROWS = 5


@dataclass(frozen=True)
class DataFile:
    """What one file holds.

    Attributes:
        path: As the settings give it.
        split: "train" or "eval".
        format: How its rows are read; empty when no row says.
        reason: Why that format, such as "line 1 has the key 'messages'".
        rows: Sound rows.
        bad_rows: Rows that cannot be used.
        bytes: Size on disk.
    """

    path: str
    split: Split
    format: str
    reason: str
    rows: int
    bad_rows: int
    bytes: int


@dataclass(frozen=True)
class DataCheck:
    """What all files hold.

    Attributes:
        rows: Sound rows, of training and evaluation files together.
        format: The format of all files, "mixed" when they differ, empty when none could be told.
        bad_rows: Every row that cannot be used, in order.
        files: One entry a file.
    """

    rows: int
    format: str
    bad_rows: tuple[BadRow, ...]
    files: tuple[DataFile, ...]

    @property
    def train_rows(self) -> int:
        """Sound rows of the training files."""
        return sum(file.rows for file in self.files if file.split == "train")

    @property
    def eval_rows(self) -> int:
        """Sound rows of the evaluation files."""
        return sum(file.rows for file in self.files if file.split == "eval")

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


@dataclass
class FileReader:
    """Reads one data file's rows; after the last one `format` and `reason` say how it was read.

    `rows()` may be called again: each call reads the file from its start.
    """

    path: str
    wanted: str = "auto"
    format: RowFormat | None = field(default=None, init=False)
    reason: str = field(default="", init=False)

    def rows(self) -> Iterator[Row | BadRow]:
        """Give every row of the file, sound or bad, in order.

        Raises:
            InputError: The file is missing, empty, of an unknown kind, or malformed as a whole.
        """
        if self.wanted != "auto":
            self.format, self.reason = self.wanted, "set in the settings"  # type: ignore[assignment]  # a Literal of the settings
        for record in open_records(Path(self.path)):
            if record.fault:
                yield BadRow(self.path, record.line, record.fault)
                continue
            try:
                yield parse_row(record.value, self._format_of(record.value, record.line), self.path, record.line)
            except RowError as error:
                yield BadRow(self.path, record.line, str(error))

    def _format_of(self, record: object, line: int) -> RowFormat:
        """Give the file's format, told by its first row with a known key; every row of a file has the same one."""
        if self.format is None:
            found = detect_format(record)
            if found is None:
                keys = ", ".join(map(repr, list(record)[:6])) if isinstance(record, dict) else ""
                raise RowError(f"no known keys: {keys}" if keys else "a row is an object with keys, such as messages or text")
            self.format, self.reason = found[0], f"line {line} has the key {found[1]!r}"
        return self.format


def file_readers(settings: DataSettings) -> list[tuple[Split, FileReader]]:
    """Give a reader for each file of the settings, training files first.

    Raises:
        InputError: No training file is named, or one is named twice.
    """
    if not settings.train:
        raise InputError("No data file is given.", "Name a file of rows (JSONL, JSON, CSV or text).", "data.train")
    splits: tuple[tuple[Split, tuple[str, ...]], ...] = (("train", settings.train), ("eval", settings.eval))
    named: list[tuple[Split, str]] = []
    for split, paths in splits:
        named.extend((split, path) for path in paths)
    seen: set[Path] = set()
    for split, path in named:
        where = Path(path).resolve()
        if where in seen:
            raise InputError(f"{path} is named twice.", "Rows trained on cannot be held out as well; name each file once.", f"data.{split}")
        seen.add(where)
    return [(split, FileReader(path, settings.format)) for split, path in named]


def check_files(settings: DataSettings) -> DataCheck:
    """Read and validate every row of every file, a row at a time.

    Raises:
        InputError: A file is missing, empty or malformed as a whole; `field` is `data.train` or `data.eval`.
    """
    files: list[DataFile] = []
    bad_rows: list[BadRow] = []
    for split, reader in file_readers(settings):
        sound, bad_before = 0, len(bad_rows)
        try:
            for row in reader.rows():
                if isinstance(row, BadRow):
                    bad_rows.append(row)
                else:
                    sound += 1
        except InputError as error:
            raise InputError(error.message, error.hint, f"data.{split}") from error
        files.append(DataFile(
            reader.path, split, reader.format or "", reader.reason, sound, len(bad_rows) - bad_before, Path(reader.path).stat().st_size))
    return DataCheck(sum(file.rows for file in files), _common_format(files), tuple(bad_rows), tuple(files))


def refuse_bad_rows(bad_rows: tuple[BadRow, ...]) -> None:
    """Raise `InputError` naming the first bad rows, if there are any."""
    if not bad_rows:
        return
    shown = "; ".join(map(str, bad_rows[:_SHOWN_BAD_ROWS]))
    more = f"; and {len(bad_rows) - _SHOWN_BAD_ROWS} more" if len(bad_rows) > _SHOWN_BAD_ROWS else ""
    noun = "row" if len(bad_rows) == 1 else "rows"
    raise InputError(f"{len(bad_rows)} bad {noun}: {shown}{more}.", "Mend them, or set on_bad_rows to skip.", "data.on_bad_rows")


def _common_format(files: list[DataFile]) -> str:
    formats = {file.format for file in files if file.format}
    return formats.pop() if len(formats) == 1 else ("mixed" if formats else "")
