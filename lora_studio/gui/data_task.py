"""Checking large data files off the window's thread: the check as a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_studio.core.config import DataSettings
from lora_studio.core.control import TaskContext
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.data.check import check_files

CHECK_TASK = "lora_studio.gui.data_task:check"


def check(context: TaskContext, settings: dict[str, Any]) -> Iterator[RunEvent]:
    """Task: read and validate every row of the data files; the result is `DataCheck.to_json()`."""

    def progress(done: int, total: int) -> None:
        context.control.check()
        context.post(Phase(name="checking", message="Reading the rows", done=done, total=total, unit="bytes"))

    context.control.check()
    yield Phase(name="checking", message="Reading the rows")
    yield RunFinished(result=check_files(DataSettings.model_validate(settings), progress).to_json())
