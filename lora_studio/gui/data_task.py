"""Checking large data files off the window's thread: the check as a task, and its result read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_studio.core.config import DataSettings
from lora_studio.core.control import TaskContext
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.data.check import DataCheck, DataFile, check_files
from lora_studio.data.rows import BadRow

CHECK_TASK = "lora_studio.gui.data_task:check"


def check(context: TaskContext, settings: dict[str, Any]) -> Iterator[RunEvent]:
    """Task: read and validate every row of the data files; the result is `DataCheck.to_json()`."""
    context.control.check()
    yield Phase(name="checking", message="Reading the rows")
    yield RunFinished(result=check_files(DataSettings.model_validate(settings)).to_json())


def check_from_json(raw: dict[str, Any]) -> DataCheck:
    """Read a check back from a task's result."""
    bad_rows = tuple(BadRow(**row) for row in raw["bad_rows"])
    return DataCheck(raw["rows"], raw["format"], bad_rows, tuple(DataFile(**file) for file in raw["files"]))
