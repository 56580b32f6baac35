"""The mask lens: the exact tokens of a row, and which of them are trained, context, or cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lora_studio.core.config_files import validate_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.settings import DataSettings
from lora_studio.data.rows.row import Row, RowError
from lora_studio.data.templates.template import ChatTemplate, trained_parts
from lora_studio.data.tokenizer import read_tokenizer
from lora_studio.data.tokens.encode import Encoder
from lora_studio.data.tokens.token_text import TokenTexts

TokenState = Literal["trained", "context", "cut"]
MOST_TOKENS = 20_000  # shown of one row: more is no use to an eye


@dataclass(frozen=True)
class LensRow:
    """One row as a model sees it.

    Attributes:
        file: Its file.
        line: Where it starts in the file.
        ids: Its token ids, the first 20,000 of them.
        texts: What each stands for; bytes that are no whole character as `\\xF0`.
        states: trained, context (seen, not learned) or cut (beyond `max_length`).
        tokens: How many tokens the row has in all.
        trained: How many are trained.
        answer: Which answer of the row it ends with, counted from 1, where each is trained in a row of its own (`train_on: each`).
        answers: How many rows training makes of the row.
    """

    file: str
    line: int
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    states: tuple[TokenState, ...]
    tokens: int
    trained: int
    answer: int = 1
    answers: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        tree = asdict(self)
        return {**tree, **{name: list(tree[name]) for name in ("ids", "texts", "states")}}


def lens_rows(
    rows: Sequence[Row], template: ChatTemplate, encoder: Encoder, texts: TokenTexts, settings: DataSettings
) -> list[LensRow | RowError]:
    """Look at rows through the lens, as they are trained; a row the template refuses gives its error.

    With `train_on: each` a row gives as many as training makes of it, one after the other.

    Raises:
        InputError: The template is missing, does not end, or rewrites earlier turns.
    """
    return [seen for _, seen in _parts_seen(rows, template, encoder, texts, settings)]


def lens(context: TaskContext, config: dict[str, Any], model_folder: str, rows: list[dict[str, Any]]) -> Iterator[RunEvent]:
    """Task: look at rows through the lens; result `{"rows": [LensRow or error]}`, in the order asked for.

    An error has `file`, `line`, `answer`, `answers` and `error`. With `train_on: each` a row gives several, one after the other.

    Args:
        context: Its control ends the task.
        config: The run.
        model_folder: Where the tokenizer is.
        rows: The rows, each as `Row.to_json` gives it.
    """
    settings = validate_config(config).data
    yield Phase(name="loading", message="Loading the tokenizer")
    import_engine()
    tokenizer = read_tokenizer(model_folder)
    context.control.check()
    found = [Row.from_json(row) for row in rows]
    with ChatTemplate.of(tokenizer, settings) as template:
        seen = _parts_seen(found, template, Encoder(tokenizer), TokenTexts(tokenizer), settings)
    yield RunFinished(result={"rows": [_to_json(part, tokens) for part, tokens in seen]})


@dataclass(frozen=True)
class _Part:
    """One of the rows that training makes of a row."""

    row: Row
    answer: int
    answers: int


def _parts_seen(
    rows: Sequence[Row], template: ChatTemplate, encoder: Encoder, texts: TokenTexts, settings: DataSettings
) -> list[tuple[_Part, LensRow | RowError]]:
    made = [trained_parts(row, settings.train_on) for row in rows]
    parts = [_Part(row, number, len(of_row)) for of_row in made for number, row in enumerate(of_row, 1)]
    rendered = template.render_rows([part.row for part in parts], settings.train_on)
    return [
        (
            part,
            text
            if isinstance(text, RowError)
            else replace(_seen(part.row, encoder, text, texts, settings.max_length), answer=part.answer, answers=part.answers),
        )
        for part, text in zip(parts, rendered)
    ]


def _seen(row: Row, encoder: Encoder, rendered: Any, texts: TokenTexts, max_length: int) -> LensRow:
    tokens = encoder.encode_row(rendered)
    ids = tokens.input_ids[:MOST_TOKENS].tolist()
    states: list[TokenState] = ["trained" if trained else "context" for trained in tokens.trained[: len(ids)].tolist()]
    states[max_length:] = ["cut" for _ in ids[max_length:]]
    return LensRow(
        row.file,
        row.line,
        tuple(ids),
        tuple(map(texts.of, ids)),
        tuple(states),
        tokens.input_ids.size,
        int(tokens.trained[:max_length].sum()),
    )


def _to_json(part: _Part, seen: LensRow | RowError) -> dict[str, Any]:
    if isinstance(seen, LensRow):
        return seen.to_json()
    return {"file": part.row.file, "line": part.row.line, "answer": part.answer, "answers": part.answers, "error": str(seen)}
