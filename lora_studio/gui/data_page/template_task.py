"""One row of the draft through a chat template, as a task: what it renders to, or why it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_studio.core.config_files import validate_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.data.rows import Row, RowError

RENDER_TASK = "lora_studio.gui.data_page.template_task:render"


def render(context: TaskContext, config: dict[str, Any], model_folder: str, row: dict[str, Any]) -> Iterator[RunEvent]:
    """Task: render a row, given as `Row.to_json` does, with the chat template that `data.chat_template` means.

    The result is `{"template", "rendered", "spans", "error"}`: the template's source, the text, the stretches of it that are
    trained, and what is wrong instead.
    """
    yield Phase(name="preparing", message="Rendering a row")
    import_engine()
    found = _rendered(validate_config(config).data, model_folder, Row.from_json(row))
    yield RunFinished(result={"template": "", "rendered": "", "spans": [], "error": "", **found})


def _rendered(settings: Any, model_folder: str, row: Row) -> dict[str, Any]:
    from lora_studio.data.report import load_tokenizer
    from lora_studio.data.template import ChatTemplate

    source = ""
    try:
        with ChatTemplate.of(load_tokenizer(model_folder), settings) as template:
            source = template.source.text or ""
            result = template.render_rows([row], settings.train_on)[0]
    except InputError as error:
        return {"template": source, "error": f"{error.message} {error.hint}".strip()}
    if isinstance(result, RowError):
        return {"template": source, "error": str(result)}
    return {"template": source, "rendered": result.text, "spans": [list(span) for span in result.spans]}
