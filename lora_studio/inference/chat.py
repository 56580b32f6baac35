"""One question to a base model, to an adapter on it, or to both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_studio.adapters.vocabulary import own_tokenizer
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.settings import DataSettings, ModelSettings
from lora_studio.data.rows.row import Message, Row, RowError
from lora_studio.data.templates.template import ChatTemplate
from lora_studio.data.templates.template_source import adapters_template
from lora_studio.inference.adapters import ChatAdapter, find_adapter
from lora_studio.inference.ready import ready_base
from lora_studio.inference.sampling import answer
from lora_studio.models.load import load_tokenizer


def chat(context: TaskContext, source: str, prompt: str, compare: bool = False, max_new_tokens: int = 256) -> Iterator[RunEvent]:
    """Task: answer a prompt greedily; result `{"base": text, "adapter": text}`, each None where it was not asked.

    Args:
        context: Its control ends an answer where it is.
        source: A run folder, a checkpoint, a PEFT adapter folder or a base model.
        prompt: What the user says.
        compare: Answer without the adapter too.
        max_new_tokens: Most tokens of an answer.

    Raises:
        InputError: There is no such model or adapter, or the prompt is empty.
    """
    if not prompt.strip():
        raise InputError("The prompt is empty.", "Write what to answer.")
    found = find_adapter(source)
    base = yield from ready_base(context, _model_settings(found), _device(found))
    data = _data_settings(found)
    result: dict[str, str | None] = {"base": None, "adapter": None}
    if compare or found.adapter is None:
        yield Phase(name="sampling", message="The base model answers")
        result["base"] = _ask(context, base.tokenizer, base.model, [prompt_ids(base.tokenizer, prompt, data)], max_new_tokens)
    if found.adapter is not None:
        yield Phase(name="sampling", message="The adapter answers")
        tokenizer = load_tokenizer(found.adapter) if own_tokenizer(found.adapter) else base.tokenizer
        prompts = [prompt_ids(tokenizer, prompt, data)]
        with base.host.with_adapter(found.adapter) as model:
            result["adapter"] = _ask(context, tokenizer, model, prompts, max_new_tokens)
    yield RunFinished(result=dict(result))


def prompt_ids(tokenizer: Any, prompt: str, settings: DataSettings | None = None) -> list[int]:
    """Return the tokens of one user's turn in a chat template, or of the bare text where there is none.

    Args:
        tokenizer: The base model's.
        prompt: What the user says.
        settings: The run's data section, whose template and variables are used; None for the model's own.

    Raises:
        InputError: The template refuses the prompt, cannot be read, or does not end.
    """
    with ChatTemplate.of(tokenizer, settings or DataSettings()) as template:
        if not template.present:
            return list(tokenizer(prompt)["input_ids"])
        # A row's prompt is what stands before its last answer, so one is due.
        row = Row("the prompt", 1, "messages", (Message("user", prompt), Message("assistant", "")))
        rendered = template.prompts([row])[0]
        if isinstance(rendered, RowError):
            message = f"The prompt cannot be given to the model: {rendered}."
            raise InputError(message, "Choose another chat template.", template.source.field)
    return list(tokenizer(rendered.text, add_special_tokens=False)["input_ids"])


def _ask(context: TaskContext, tokenizer: Any, model: Any, prompts: list[list[int]], max_new_tokens: int) -> str:
    text = answer(model, tokenizer, prompts, max_new_tokens, lambda: context.control.stopping)[0]
    context.control.check()
    return text


def _model_settings(found: ChatAdapter) -> ModelSettings:
    if found.run is not None:
        return found.run.config.model
    return ModelSettings(name_or_path=found.base, revision=found.revision)


def _data_settings(found: ChatAdapter) -> DataSettings | None:
    """Return the template that an adapter was trained with, and its variables; an exported one carries both in one file."""
    if found.run is not None:
        return found.run.config.data
    template = adapters_template(found.adapter) if found.adapter else None
    return DataSettings(chat_template=template) if template else None


def _device(found: ChatAdapter) -> str:
    return found.run.config.training.device if found.run is not None else "auto"
