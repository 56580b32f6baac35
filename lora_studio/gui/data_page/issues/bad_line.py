"""The line of a bad row as it stands in the file, with the spot at fault where the reason names one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject

from lora_studio.core.events import LastEvent, RunFailed, RunFinished
from lora_studio.data.check import DataCheck
from lora_studio.data.rows.row import BadRow
from lora_studio.data.tasks import RAW_LINE_TASK
from lora_studio.gui.data_page.row_models import raw_lines
from lora_studio.gui.engine.job_center import JobCenter
from lora_studio.gui.engine.latest_job import LatestJob
from lora_studio.gui.platform.text import tr
from lora_studio.jobs.spec import JobSpec

_COLUMN = re.compile(r" at column (\d+)")
_BYTE = re.compile(r"byte 0x[0-9a-f]{2} at \d+")
_KEY = re.compile(r"^(?:the key )?'?([A-Za-z_]\w*)(?:'|\[| is | holds | stands )")
_READ_HERE_BYTES = 4_000_000  # a line of a smaller file is found within milliseconds


def spot_of(reason: str, line: str, columns: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """Return where in a line a reason points to: the first character and how many; None where it does not say.

    Args:
        reason: Why the row is bad.
        line: The line as it stands in the file.
        columns: `data.columns`: a reason names our keys, the line holds the file's own.
    """
    if not line:
        return None
    if match := _COLUMN.search(reason):
        start = min(int(match[1]) - 1, len(line) - 1)
        return max(start, 0), 1
    if _BYTE.search(reason) and "\ufffd" in line:
        return line.index("\ufffd"), 1
    match = _KEY.match(reason)
    key = (columns or {}).get(match[1], match[1]) if match else ""
    start = line.find(f'"{key}"') if key else -1
    return (start, len(key) + 2) if start >= 0 else None


class BadLines(QObject):
    """Reads the lines of bad rows: at once in small files, in a job in large ones."""

    def __init__(self, jobs: JobCenter, parent: QObject) -> None:
        super().__init__(parent)
        self.setObjectName("bad_lines")
        self._job = LatestJob(jobs)

    def read(self, row: BadRow, check: DataCheck | None, encoding: str, show: Callable[[str], None]) -> None:
        """Hand a row's line to `show`, now or as soon as it is read; only the row asked for last is shown."""
        self.stop()
        file = next((file for file in check.files if file.path == row.file), None) if check else None
        where = file.where or file.path if file else row.file
        if file is None or file.bytes <= _READ_HERE_BYTES or not Path(where).exists():
            show(raw_lines(where, row.line, encoding))
            return
        show(tr("reading…"))
        arguments: dict[str, Any] = {"path": where, "line": row.line, "encoding": encoding}
        spec = JobSpec(RAW_LINE_TASK, arguments, title=tr("Read line {line}", line=row.line))
        self._job.start(spec, lambda last: self._on_read(last, show))

    def stop(self) -> None:
        """Show no line that is still to come."""
        self._job.drop()

    def _on_read(self, last: LastEvent, show: Callable[[str], None]) -> None:
        if isinstance(last, RunFinished):
            show(str(last.result["text"]))
        elif isinstance(last, RunFailed):
            show(f"{last.message} {last.hint}".strip())
        else:
            show(tr("The reading was stopped. Select the row again to see its line."))
