"""Bad rows as a file that a person can mend rows by."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.files import write_atomically
from lora_studio.data.check import DataCheck
from lora_studio.data.rows.row import BadRow


def write_bad_rows(path: Path, rows: Iterable[BadRow]) -> None:
    """Write rows as CSV with the columns file, line and reason.

    Raises:
        InputError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("file", "line", "reason"))
    writer.writerows((row.file, row.line, row.reason) for row in rows)
    try:
        write_atomically(path, text.getvalue())
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}.", "Choose another place.") from error


def refused_rows(check: DataCheck, report: Mapping[str, Any] | None) -> tuple[BadRow, ...]:
    """Return the rows that read well and that the chat template refuses: a report names them after those of the check, each once here."""
    if report is None:
        return ()
    found = (BadRow(**row) for row in report["bad_rows"][len(check.bad_rows) :])
    return tuple({(row.file, row.line): row for row in found}.values())


def with_refused(check: DataCheck, report: Mapping[str, Any] | None) -> DataCheck:
    """Return a check that counts and names the rows that the chat template refuses among the bad ones."""
    refused = refused_rows(check, report)
    if not refused:
        return check
    return replace(check, rows=check.rows - len(refused), bad_rows=(*check.bad_rows, *refused), bad_count=check.bad_count + len(refused))
