"""A look at data files without a tokenizer: every row validated, every bad one named by file and line, repeats counted."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.settings import DataSettings
from lora_studio.data.readers.encodings import FIELD
from lora_studio.data.readers.files import FileReader, ProgressCallback, Split, at_split, file_readers
from lora_studio.data.rows.duplicates import count_repeats, count_shared
from lora_studio.data.rows.row import BadRow, Row, RowFormat

MOST_BAD_ROWS = 100_000
"""Bad rows that are kept with their reasons; further ones are counted."""
_SHOWN_BAD_ROWS = 5
_OFFERS = {
    "data.train_on": "Set data.train_on to last, which trains the last answer alone, or to each, which trains every answer in a row of its "
    "own",
    "data.on_unwritten": "Set data.on_unwritten to content to keep thoughts and calls in the answers' text, or to without to train without",
}
_ROWS_BETWEEN_LOOKS = 2048
_Found = TypeVar("_Found", Row, int)


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
        fitting: That one and all others that fit, the likeliest first.
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
    fitting: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataFile:
        """Read one back from JSON, which has lists for tuples."""
        fields: dict[str, Any] = {**raw, "fitting": tuple(raw["fitting"])}
        return cls(**fields)


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

    @property
    def other_encodings(self) -> tuple[str, ...]:
        """Encodings beside the one offered in which every file with misread lines reads too: who knows the rows knows which it is."""
        fitting = [file.fitting for file in self.files if file.encoding]
        shared = [name for name in fitting[0] if all(name in others for others in fitting)] if fitting else []
        return tuple(name for name in shared if name != self.encoding_offer)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**asdict(self), "encoding_offer": self.encoding_offer}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataCheck:
        """Read one back from `to_json`."""
        bad_rows = (BadRow(**row) for row in raw["bad_rows"])
        files = map(DataFile.from_json, raw["files"])
        return cls(raw["rows"], raw["format"], tuple(bad_rows), tuple(files), raw["bad_count"], raw["duplicate_rows"], raw["shared_rows"])


class DatasetScan:
    """Goes through the rows of all files once and counts them on the way.

    Memory holds one row, eight bytes for each row counted by its key, and the first 100,000 bad ones.
    """

    def __init__(self, settings: DataSettings, progress: ProgressCallback | None = None) -> None:
        """Find the files.

        Args:
            settings: The files, and how to read them.
            progress: Called with bytes done and bytes in all, every 2,048 rows and after each file; may raise to cancel.

        Raises:
            InputError: As `file_readers`.
        """
        self.readers = file_readers(settings, progress)
        self.bad_count = 0
        self._progress = progress
        self._bytes_in_all = sum(reader.bytes for _, reader in self.readers)
        self._bytes_before = 0
        self._bad_rows: list[BadRow] = []
        self._files: list[DataFile] = []
        self._keys: dict[Split, array[int]] = {"train": array("q"), "eval": array("q")}

    def rows(self) -> Iterator[Row]:
        """Return every sound row.

        Raises:
            InputError: A file is missing, empty or malformed as a whole; `field` is `data.train` or `data.eval`.
        """
        for split, reader in self.readers:
            yield from self._sound(split, reader, reader.rows())

    def count(self) -> DataCheck:
        """Count all rows, repeats too, without giving them: half the work.

        Raises:
            InputError: As `rows`.
        """
        for split, reader in self.readers:
            self._keys[split].extend(self._sound(split, reader, reader.keys()))
        return self.result()

    def result(self) -> DataCheck:
        """Return what was counted; repeats are counted by `count` alone."""
        train, held_out = self._keys["train"], self._keys["eval"]
        shared = count_shared(train, held_out)
        return DataCheck(
            sum(file.rows for file in self._files),
            _common_format(self._files),
            tuple(self._bad_rows),
            tuple(self._files),
            self.bad_count,
            count_repeats(train),
            shared,
        )

    def _sound(self, split: Split, reader: FileReader, found: Iterator[_Found | BadRow]) -> Iterator[_Found]:
        """Return what is sound of one file's rows; count the others, and the file."""
        sound = bad = 0
        try:
            for number, row in enumerate(found, 1):
                if isinstance(row, BadRow):
                    bad += 1
                    self._add_bad(row)
                else:
                    sound += 1
                    yield row
                if not number % _ROWS_BETWEEN_LOOKS:
                    self._tell(reader.position)
        except InputError as error:
            raise at_split(error, f"data.{split}") from error
        self._bytes_before += reader.bytes
        self._tell(0)
        self._files.append(
            DataFile(
                reader.path,
                split,
                reader.format or "",
                reader.reason,
                sound,
                bad,
                reader.bytes,
                str(reader.where),
                next(iter(fitting := reader.fitting), ""),
                fitting,
            )
        )

    def _add_bad(self, row: BadRow) -> None:
        self.bad_count += 1
        if len(self._bad_rows) < MOST_BAD_ROWS:
            self._bad_rows.append(row)

    def _tell(self, position: int) -> None:
        if self._progress:
            self._progress(min(self._bytes_before + position, self._bytes_in_all), self._bytes_in_all)


def check_files(settings: DataSettings, progress: ProgressCallback | None = None) -> DataCheck:
    """Read and validate every row of every file, a row at a time.

    Args:
        settings: The files, and how to read them.
        progress: As of `DatasetScan`.

    Raises:
        InputError: A file is missing, empty or malformed as a whole; `field` is `data.train` or `data.eval`.
    """
    return DatasetScan(settings, progress).count()


def readers_of(check: DataCheck, settings: DataSettings) -> list[tuple[Split, FileReader]]:
    """Return the readers of files that have been checked, each with the format that was told; no folder or Hub is looked at again."""
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
    found = bad_rows_finding(bad_rows, "stop", count, encoding)
    if found is not None:
        raise InputError(found.message, found.hint, found.field)


def bad_rows_finding(bad_rows: Sequence[BadRow], on_bad_rows: str, count: int = 0, encoding: str = "") -> Finding | None:
    """Say what bad rows mean for a run: an error where they stop it, a warning where they are left out; None without any.

    Args:
        bad_rows: Those to name.
        on_bad_rows: `data.on_bad_rows`.
        count: How many there are in all, where these are not all.
        encoding: One that all files would read in, to be offered.
    """
    if not bad_rows:
        return None
    total = max(count, len(bad_rows))
    rows = f"{total:,} bad {'row' if total == 1 else 'rows'}"
    field = "data.encoding" if encoding else setting_of(bad_rows)
    way_out = _OFFERS.get(field, "Mend them")
    offer = f" Lines that are not UTF-8 read as {encoding}: set data.encoding to {encoding}." if encoding else ""
    if on_bad_rows == "skip":
        left_out = f"{rows} {'is' if total == 1 else 'are'} left out; the first: {bad_rows[0]}."
        return Finding("warning", "bad_rows", left_out, f"{way_out}.{offer}", field or "data.on_bad_rows")
    shown = "; ".join(map(str, bad_rows[:_SHOWN_BAD_ROWS]))
    more = f"; and {total - _SHOWN_BAD_ROWS:,} more" if total > _SHOWN_BAD_ROWS else ""
    hint = f"{way_out}, or set on_bad_rows to skip.{offer}"
    return Finding("error", "bad_rows", f"{rows}: {shown}{more}.", hint, field or "data.on_bad_rows")


def setting_of(bad_rows: Sequence[BadRow]) -> str:
    """Return the setting that every bad row's reason names as the way out; empty where there is none."""
    return next((field for field in _OFFERS if all(field in row.reason for row in bad_rows)), "")


def way_out_of(bad_rows: Sequence[BadRow]) -> tuple[str, str]:
    """Return a hint, and the field it is about, for data of which no row is sound."""
    field = setting_of(bad_rows) if bad_rows else ""
    return f"{_OFFERS.get(field, 'Mend the rows')}.", field or "data.train"


def refuse_no_rows(check: DataCheck) -> None:
    """Raise `InputError` naming the first bad rows when no training row is sound."""
    if check.train_rows:
        return
    shown = "; ".join(map(str, check.bad_rows[:_SHOWN_BAD_ROWS]))
    offer = f"Set data.encoding to {check.encoding_offer}, or mend the rows." if check.encoding_offer else ""
    raise InputError(
        f"No row is left to train on: {check.bad_count:,} of the rows are bad; the first: {shown}.",
        offer or "Mend the rows; where only their keys are others, say which is which in data.columns.",
        "data.encoding" if offer else FIELD,
    )


def _common_format(files: list[DataFile]) -> str:
    formats = {file.format for file in files if file.format}
    return formats.pop() if len(formats) == 1 else ("mixed" if formats else "")
