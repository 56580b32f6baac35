"""The tokens of one row as a model reads them, each with what becomes of it, as a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_studio.core.config import DataSettings
from lora_studio.core.config_files import validate_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished

LENS_TASK = "lora_studio.gui.data_page.lens_task:lens"


def lens(context: TaskContext, config: dict[str, Any], model_folder: str, place: list[Any]) -> Iterator[RunEvent]:
    """Task: read the row at a place (file, line); the result is `{"ids", "texts", "states"}`, one of each a token."""
    context.control.check()
    yield Phase(name="preparing", message="Reading the tokens of a row")
    import_engine()
    yield RunFinished(result=_tokens(validate_config(config).data, model_folder, (str(place[0]), int(place[1]))))


def _tokens(settings: DataSettings, model_folder: str, place: tuple[str, int]) -> dict[str, Any]:
    from lora_studio.data.encode import Encoder
    from lora_studio.data.report import load_tokenizer
    from lora_studio.data.samples import rows_at
    from lora_studio.data.template import ChatTemplate, Rendered

    tokenizer = load_tokenizer(model_folder)
    rows = list(rows_at(settings, [place]).values())
    if not rows:
        raise InputError(f"{place[0]}:{place[1]} is no sound row any more.", "Read the files again.", "data.train")
    with ChatTemplate(tokenizer, settings.chat_template) as template:
        rendered = template.render_rows(rows, settings.train_on)[0]
    if not isinstance(rendered, Rendered):
        raise InputError(f"{place[0]}:{place[1]}: {rendered}.", "Mend the row, or choose another chat template.", "data.chat_template")
    row = Encoder(tokenizer).encode([rendered])[0]
    ids: list[int] = row.input_ids.tolist()
    trained: list[bool] = row.trained.tolist()
    states = [_state(number, learned, settings.max_length) for number, learned in enumerate(trained)]
    return {"ids": ids, "texts": [tokenizer.decode([number]) for number in ids], "states": states}


def _state(number: int, trained: bool, max_length: int) -> str:
    if number >= max_length:
        return "cut"
    return "trained" if trained else "context"
