"""Held-out prompts to answer before and after a run, read from the data files again and kept beside the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.files import write_atomically
from lora_studio.core.settings import DataSettings
from lora_studio.data.readers.files import file_readers
from lora_studio.data.rows.row import Row, RowError
from lora_studio.data.templates.template import ChatTemplate
from lora_studio.data.token_rows import TokenRow
from lora_studio.data.tokens.encode import Encoder

Place = tuple[str, int, int]
"""A file's path, a line, and how many of the row's turns there are; 0 for all of them."""
_LONGEST_TEXT_PROMPT = 64


@dataclass(frozen=True)
class SamplePrompt:
    """A held-out prompt to answer before and after a run.

    Attributes:
        row: Its row among the held-out rows.
        prompt_ids: What the model is given.
        prompt_text: What a person is shown: the last question.
        reference: The answer in the data.
    """

    row: int
    prompt_ids: tuple[int, ...]
    prompt_text: str
    reference: str


def rows_at(settings: DataSettings, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Row]:
    """Read the rows at some places of the data files, each a file's path and a line; a file is read no further than its last one."""
    left: dict[str, set[int]] = {}
    for file, line in places:
        left.setdefault(file, set()).add(line)
    found: dict[tuple[str, int], Row] = {}
    for _split, reader in file_readers(settings):
        lines = left.get(reader.path)
        if not lines:
            continue
        for row in reader.rows():
            if isinstance(row, Row) and row.line in lines:
                found[row.file, row.line] = row
                lines.discard(row.line)
            if not lines:
                break
    return found


def sample_prompts(
    settings: DataSettings,
    places: list[Place],
    tokens: list[TokenRow],
    template: ChatTemplate,
    encoder: Encoder,
    kept_at: Path,
) -> list[SamplePrompt]:
    """Return the prompts of held-out rows.

    Args:
        settings: The data files.
        places: File, line and turns of each row.
        tokens: The same rows as tokens: what a row of plain text is halved by.
        template: Renders the prompts.
        encoder: Tokenizes them.
        kept_at: A JSON file to take them from, or to keep them in.

    Raises:
        InputError: A data file changed while it was read.
    """
    try:
        entries: list[dict[str, Any]] = json.loads(kept_at.read_text("utf-8"))
        return [SamplePrompt(entry["row"], tuple(entry["prompt_ids"]), entry["prompt_text"], entry["reference"]) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not kept yet, or by another release: they are made anew
    prompts = list(_prompts(settings, places, tokens, template, encoder))
    write_atomically(kept_at, json.dumps([asdict(prompt) for prompt in prompts], ensure_ascii=False))
    return prompts


def _prompts(
    settings: DataSettings, places: list[Place], tokens: list[TokenRow], template: ChatTemplate, encoder: Encoder
) -> Iterable[SamplePrompt]:
    whole = rows_at(settings, [place[:2] for place in places])
    missing = [place for place in places if place[:2] not in whole]
    if missing:
        raise InputError(f"{missing[0][0]} changed while it was read.", "Start again.", "data.train")
    rows = {place: _cut(whole[place[:2]], place[2]) for place in places}
    chats = [place for place in places if rows[place].messages]
    rendered = dict(zip(chats, template.prompts([rows[place] for place in chats]))) if chats else {}
    for number, place in enumerate(places):
        prompt, row = rendered.get(place), rows[place]
        if prompt is None:
            yield _text_prompt(number, tokens[number], encoder)
        elif not isinstance(prompt, RowError):
            yield SamplePrompt(number, tuple(encoder.prompt_ids(prompt)), _last_question(row), row.messages[-1].content)


def _cut(row: Row, turns: int) -> Row:
    return replace(row, messages=row.messages[:turns]) if turns and row.messages else row


def _last_question(row: Row) -> str:
    return next((message.content for message in reversed(row.messages[:-1]) if message.role != "assistant"), "")


def _text_prompt(number: int, tokens: TokenRow, encoder: Encoder) -> SamplePrompt:
    ids: list[Any] = tokens.input_ids.tolist()
    half = max(1, min(len(ids) // 2, _LONGEST_TEXT_PROMPT))
    return SamplePrompt(number, tuple(ids[:half]), encoder.decode(ids[:half]), encoder.decode(ids[half:]))
