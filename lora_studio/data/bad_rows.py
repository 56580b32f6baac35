"""Bad rows as a file that a person can mend rows by."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.core.files import write_atomically
from lora_studio.data.rows import BadRow


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
