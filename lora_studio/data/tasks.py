"""What is done with data files off the window's thread, as tasks: the check of all rows, one line, and the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_studio.core.config_files import validate_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import check_files
from lora_studio.data.readers.read import raw_text
from lora_studio.data.tokenizer import read_tokenizer

CHECK_TASK = "lora_studio.data.tasks:check"
RAW_LINE_TASK = "lora_studio.data.tasks:raw_line"


def check(context: TaskContext, settings: dict[str, Any]) -> Iterator[RunEvent]:
    """Task: read and validate every row of the data files; the result is `DataCheck.to_json()`."""

    def progress(done: int, total: int) -> None:
        context.control.check()
        context.post(Phase(name="checking", message="Reading the rows", done=done, total=total, unit="bytes"))

    context.control.check()
    yield Phase(name="checking", message="Reading the rows")
    yield RunFinished(result=check_files(DataSettings.model_validate(settings), progress).to_json())


def raw_line(context: TaskContext, path: str, line: int, encoding: str) -> Iterator[RunEvent]:
    """Task: read what stands at a line of a data file; the result is `{"text"}`, or why it cannot be read."""
    context.control.check()
    yield Phase(name="checking", message=f"Reading line {line}")
    try:
        text = raw_text(Path(path), line, encoding)
    except InputError as error:
        text = error.message
    yield RunFinished(result={"text": text})


def report(context: TaskContext, config: dict[str, Any], model_folder: str) -> Iterator[RunEvent]:
    """Task: read, template and tokenize a config's data with a model's tokenizer; the result is `data --json`.

    Bad rows are part of the report whatever `on_bad_rows` says.
    """
    settings = validate_config(config)
    yield Phase(name="loading", message="Loading the tokenizer")
    import_engine()
    tokenizer = read_tokenizer(model_folder)
    from lora_studio.data.prepare import prepare_data

    def progress(done: int, total: int) -> None:
        context.control.check()
        context.post(Phase(name="preparing", message="Tokenizing", done=done, total=total, unit="bytes"))

    yield Phase(name="preparing", message="Reading rows")
    data = settings.data.model_copy(update={"on_bad_rows": "skip"})
    prepared = prepare_data(data, tokenizer, settings.training.seed, progress)
    yield RunFinished(result=prepared.report.to_json())
