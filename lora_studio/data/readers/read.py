"""Files to records: JSON lines and arrays, tables, Parquet and plain text, one record at a time, each with its line.

A record that cannot be read is a fault at its line, and reading goes on after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from lora_studio.core.errors import InputError
from lora_studio.data.readers.json_rows import JsonArray, JsonLines, open_json
from lora_studio.data.readers.parquet import ParquetFile
from lora_studio.data.readers.plain import Paragraphs
from lora_studio.data.readers.records import Record
from lora_studio.data.readers.streams import COMPRESSIONS, FIELD, START, RowOffset, TextFile, compression_of
from lora_studio.data.readers.tables import Table

_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_TEXTS = (".txt", ".text", ".md")
SUFFIXES = (*_LINES, ".json", *_TABLES, ".parquet", *_TEXTS)
"""Endings of data files; all but Parquet may have `.gz`, `.zst` or `.zstd` behind them."""
# What lies beside rows and holds none, up to the first dot of its name.
_NO_ROWS = frozenset(("readme", "license", "licence", "notice", "changelog", "dataset_info", "dataset_infos", "dataset_dict"))


class Source(Protocol):
    """What is asked of the file beneath records."""

    @property
    def fitting(self) -> tuple[str, ...]:
        """The encodings that would fit where the one set does not, the likeliest first."""
        ...

    @property
    def position(self) -> int:
        """Bytes read so far."""
        ...


class Records(Protocol):
    """An open data file.

    Attributes:
        enterable: Whether reading can start at any mark without reading what stands before it.
    """

    enterable: bool

    @property
    def file(self) -> Source:
        """The file beneath."""
        ...

    def records(self, start: RowOffset = START) -> Iterator[Record]:
        """Return every record from a mark on."""
        ...

    def marks(self) -> Iterator[RowOffset]:
        """Return the mark of every record, without reading what it holds where that can be helped."""
        ...


def kind_of(path: Path) -> str:
    """Return the ending that says what a file holds, without that of its compression; empty when it is not known."""
    name = Path(path.stem) if compression_of(path) else path
    ending = name.suffix.lower()
    return ending if ending in SUFFIXES and not (compression_of(path) and ending == ".parquet") else ""


def is_beside(name: str) -> bool:
    """Return whether a file of this name describes the data rather than holding any."""
    lower = name.lower()
    translated = lower.startswith("readme") and lower.endswith(".md")  # README_de.md
    return lower.partition(".")[0] in _NO_ROWS or lower == "state.json" or translated


def open_records(path: Path, encoding: str = "utf-8") -> Records:
    """Open a data file by its ending.

    A `.json` file may hold an array, an object with one, or one object a line. In a text file a row ends at an empty line.

    Raises:
        InputError: No such file, a folder, an unknown ending, an empty file, another encoding, or not what its name says.
    """
    kind = kind_of(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a data file.", f"Give files ({', '.join(SUFFIXES)}).", FIELD)
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path; it is relative to the config's folder.", FIELD)
    if not kind:
        raise InputError(
            f"{path} has an ending that is not known.",
            f"Known are {', '.join(SUFFIXES)}, and {', '.join(COMPRESSIONS)} behind those of text.",
            FIELD,
        )
    if kind == ".parquet":
        return ParquetFile(path)
    file = TextFile(path, encoding)
    if kind in _TABLES:
        return Table(file, tabs=kind == ".tsv")
    if kind in _TEXTS:
        return Paragraphs(file)
    return open_json(file) if kind == ".json" else JsonLines(file)


def raw_text(path: Path, line: int, encoding: str = "utf-8", most: int = 20_000) -> str:
    """Return what stands at a line of a data file, at most `most` characters of it; an element of an array or row of Parquet as JSON.

    Raises:
        InputError: The file cannot be read.
    """
    records = open_records(path, encoding) if kind_of(path) in (".parquet", ".json") else None
    text, by_number = "", False
    if isinstance(records, ParquetFile):
        text, by_number = _as_json(next(records.records(RowOffset(line - 1, line)), None)), True
    elif isinstance(records, JsonArray):
        text, by_number = _as_json(next((record for record in records.records() if record.line == line), None)), records.numbered
    if not text and not by_number:
        found = next(islice(TextFile(path, encoding).lines(), line - 1, line), None)
        text = found.text.rstrip("\r\n") if found else ""
    return text if len(text) <= most else text[:most] + "…"


def _as_json(record: Record | None) -> str:
    return "" if record is None or record.value is None else json.dumps(record.value, ensure_ascii=False, indent=1, default=str)
