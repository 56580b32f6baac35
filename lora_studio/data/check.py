"""A look at data files without a tokenizer: every row validated, every bad one named by file and line, repeats counted."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from lora_studio.core.config import DataSettings
from lora_studio.core.errors import InputError
from lora_studio.data.duplicates import count_repeats, count_shared
from lora_studio.data.files import FileReader, Progress, Split, at_split, file_readers
from lora_studio.data.rows import BadRow, RowFormat
from lora_studio.data.streams import FIELD

MOST_BAD_ROWS = 100_000
"""Bad rows that are kept with their reasons; further ones are counted."""
_SHOWN_BAD_ROWS = 5
_ROWS_BETWEEN_LOOKS = 2048


@dataclass(frozen=True)
class DataFile:
    """What one file holds.

    Attributes:
        path: As people are told of it: as the settings give it, or its place in a folder or on the Hub.
        split: "train" or "eval".
        format: How its rows are read; empty when no row says.
        reason: Why that format, such as "line 1 has the key 'messages'".
        rows: Sound rows.
        bad_rows: Rows that cannot be used.
        bytes: Size on disk.
        where: The file itself: `path`, or its copy on this machine if it came from the Hub.
        encoding: The encoding that fits the whole file where the settings' own does not; empty where it does, or none is known.
    """

    path: str
    split: Split
    format: str
    reason: str
    rows: int
    bad_rows: int
    bytes: int
    where: str = ""
    encoding: str = ""


@dataclass(frozen=True)
class DataCheck:
    """What all files hold.

    Attributes:
        rows: Sound rows, of training and evaluation files together.
        format: The format of all files, "mixed" when they differ, empty when none could be told.
        bad_rows: The rows that cannot be used, in order; the first 100,000 of them.
        files: One entry a file.
        bad_count: All rows that cannot be used.
        duplicate_rows: Training rows whose content stands in a training row before them.
        shared_rows: Training rows whose content stands in the evaluation files, too.
    """

    rows: int
    format: str
    bad_rows: tuple[BadRow, ...]
    files: tuple[DataFile, ...]
    bad_count: int = 0
    duplicate_rows: int = 0
    shared_rows: int = 0

    @property
    def train_rows(self) -> int:
        """Sound rows of the training files."""
        return sum(file.rows for file in self.files if file.split == "train")

    @property
    def eval_rows(self) -> int:
        """Sound rows of the evaluation files."""
        return sum(file.rows for file in self.files if file.split == "eval")

    @property
    def encoding_offer(self) -> str:
        """The encoding to set in `data.encoding` so that every file with misread lines reads; empty when there is none."""
        offers = {file.encoding for file in self.files if file.encoding}
        return offers.pop() if len(offers) == 1 else ""

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {**asdict(self), "encoding_offer": self.encoding_offer}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataCheck:
        """Read one back from `to_json`."""
        bad_rows, files = (BadRow(**row) for row in raw["bad_rows"]), (DataFile(**file) for file in raw["files"])
        return cls(raw["rows"], raw["format"], tuple(bad_rows), tuple(files), raw["bad_count"], raw["duplicate_rows"], raw["shared_rows"])


@dataclass
class _Count:
    """What has been found so far."""

    progress: Progress | None
    bytes_in_all: int
    bytes_before: int = 0
    bad_rows: list[BadRow] = field(default_factory=list[BadRow])
    bad_count: int = 0
    keys: dict[Split, array[int]] = field(default_factory=lambda: {"train": array("q"), "eval": array("q")})

    def read(self, split: Split, reader: FileReader) -> DataFile:
        """Count one file's rows."""
        keys, sound, bad = self.keys[split], 0, 0
        for number, found in enumerate(reader.keys(), 1):
            if isinstance(found, BadRow):
                bad += 1
                if len(self.bad_rows) < MOST_BAD_ROWS:
                    self.bad_rows.append(found)
            else:
                sound += 1
                keys.append(found)
            if not number % _ROWS_BETWEEN_LOOKS:
                self._tell(reader.position)
        self.bad_count += bad
        self.bytes_before += reader.bytes
        self._tell(0)
        return DataFile(reader.path, split, reader.format or "", reader.reason, sound, bad, reader.bytes, str(reader.where), reader.offer)

    def _tell(self, position: int) -> None:
        if self.progress:
            self.progress(min(self.bytes_before + position, self.bytes_in_all), self.bytes_in_all)


def check_files(settings: DataSettings, progress: Progress | None = None) -> DataCheck:
    """Read and validate every row of every file, a row at a time.

    Memory holds one row, eight bytes for each row read, and the first 100,000 bad ones.

    Args:
        settings: The files, and how to read them.
        progress: Called with bytes done and bytes in all, every 2,048 rows and after each file; may raise to cancel.

    Raises:
        InputError: A file is missing, empty or malformed as a whole; `field` is `data.train` or `data.eval`.
    """
    readers = file_readers(settings, progress)
    count = _Count(progress, sum(reader.bytes for _, reader in readers))
    files: list[DataFile] = []
    for split, reader in readers:
        try:
            files.append(count.read(split, reader))
        except InputError as error:
            raise at_split(error, f"data.{split}") from error
    shared = count_shared(count.keys["train"], count.keys["eval"])
    return DataCheck(sum(file.rows for file in files), _common_format(files), tuple(count.bad_rows), tuple(files),
                     count.bad_count, count_repeats(count.keys["train"]), shared)


def readers_of(check: DataCheck, settings: DataSettings) -> list[tuple[Split, FileReader]]:
    """Give the readers of files that have been checked, each with the format that was told; no folder or Hub is looked at again."""
    found: list[tuple[Split, FileReader]] = []
    for file in check.files:
        reader = FileReader(file.path, Path(file.where or file.path), settings)
        reader.format, reader.reason = cast("RowFormat | None", file.format or None), file.reason
        found.append((file.split, reader))
    return found


def refuse_bad_rows(bad_rows: Sequence[BadRow], count: int = 0, encoding: str = "") -> None:
    """Raise `InputError` naming the first bad rows, if there are any.

    Args:
        bad_rows: Those to name.
        count: How many there are in all, where these are not all.
        encoding: One that all files would read in, to be offered.
    """
    if not bad_rows:
        return
    total = max(count, len(bad_rows))
    shown = "; ".join(map(str, bad_rows[:_SHOWN_BAD_ROWS]))
    more = f"; and {total - _SHOWN_BAD_ROWS:,} more" if total > _SHOWN_BAD_ROWS else ""
    offer = f" Lines that are not UTF-8 read as {encoding}: set data.encoding to {encoding}." if encoding else ""
    raise InputError(f"{total:,} bad {'row' if total == 1 else 'rows'}: {shown}{more}.",
                     f"Mend them, or set on_bad_rows to skip.{offer}", "data.encoding" if encoding else "data.on_bad_rows")


def refuse_no_rows(check: DataCheck) -> None:
    """Raise `InputError` naming the first bad rows when no training row is sound."""
    if check.train_rows:
        return
    shown = "; ".join(map(str, check.bad_rows[:_SHOWN_BAD_ROWS]))
    offer = f"Set data.encoding to {check.encoding_offer}, or mend the rows." if check.encoding_offer else ""
    raise InputError(f"No row is left to train on: {check.bad_count:,} of the rows are bad; the first: {shown}.",
                     offer or "Mend the rows; where only their keys are others, say which is which in data.columns.",
                     "data.encoding" if offer else FIELD)


def _common_format(files: list[DataFile]) -> str:
    formats = {file.format for file in files if file.format}
    return formats.pop() if len(formats) == 1 else ("mixed" if formats else "")
