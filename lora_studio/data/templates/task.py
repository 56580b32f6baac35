"""One row of the draft through a chat template, as a task: what it renders to, or why it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lora_studio.core.config_files import validate_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.data.rows.row import Row, RowError

if TYPE_CHECKING:
    from lora_studio.data.templates.template import Rendered

RENDER_TASK = "lora_studio.data.templates.task:render"


def render(context: TaskContext, config: dict[str, Any], model_folder: str, row: dict[str, Any]) -> Iterator[RunEvent]:
    """Task: render a row, given as `Row.to_json` does, with the chat template that `data.chat_template` means.

    The result is `{"template", "error", "parts"}`: the template's source, what is wrong with it, and what training makes of the row
    (with `data.train_on: each` several), each as `{"rendered", "spans", "error"}`: the text, the stretches of it that are trained, and
    what is wrong instead.
    """
    yield Phase(name="preparing", message="Rendering a row")
    import_engine()
    found = _rendered(validate_config(config).data, model_folder, Row.from_json(row))
    yield RunFinished(result={"template": "", "error": "", "parts": [], **found})


def _rendered(settings: Any, model_folder: str, row: Row) -> dict[str, Any]:
    from lora_studio.data.templates.template import ChatTemplate, trained_parts
    from lora_studio.data.tokenizer import read_tokenizer

    source = ""
    try:
        with ChatTemplate.of(read_tokenizer(model_folder), settings) as template:
            source = template.source.text or ""
            results = template.render_rows(trained_parts(row, settings.train_on), settings.train_on)
    except InputError as error:
        return {"template": source, "error": f"{error.message} {error.hint}".strip()}
    return {"template": source, "parts": [_part(result) for result in results]}


def _part(result: Rendered | RowError) -> dict[str, Any]:
    if isinstance(result, RowError):
        return {"rendered": "", "spans": [], "error": str(result)}
    return {"rendered": result.text, "spans": [list(span) for span in result.spans], "error": ""}
