"""Conversations to text, and which characters of it are answers to learn.

The model's own chat template is rendered in jinja's sandbox, by transformers, exactly as at inference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.data.rows import Message, Row, RowError

Span = tuple[int, int]
_MODEL = "model.name_or_path"
_GENERATION_MARK = re.compile(r"\{%-?\+?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A row as text.

    Attributes:
        text: What is tokenized.
        spans: Start and end of each stretch of characters to learn, in order.
        closed: Whether the row already has its special tokens; if not, the tokenizer's own first token and
            its end token are put around it.
    """

    text: str
    spans: tuple[Span, ...]
    closed: bool


class ChatTemplate:
    """One tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        """Take the tokenizer's template; without one, only prompts with completions and text can be rendered.

        Raises:
            InputError: It has several templates and none is the default.
        """
        self._text: str | None = _default_template(tokenizer)
        self._special_tokens: dict[str, Any] = dict(tokenizer.special_tokens_map)
        end_tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._end_tokens = tuple(sorted(end_tokens | set(tokenizer.all_special_tokens), key=len, reverse=True))
        self._marked = bool(self._text and _GENERATION_MARK.search(self._text))

    @property
    def present(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self._text is not None

    def render(self, row: Row, train_on: str) -> Rendered:
        """Render a row and find what of it is to be learned.

        Raises:
            InputError: The template is missing, or it rewrites earlier turns so that answers cannot be told apart.
            RowError: The template refuses this row.
        """
        if not row.messages:
            return Rendered(row.text, ((0, len(row.text)),), closed=False)
        if not self.present:
            return self._without_template(row, train_on)
        if train_on == "all":
            text = self._fill(row.messages)
            return Rendered(text, ((0, len(text)),), closed=True)
        if self._marked:
            return self._by_marks(row.messages, train_on)
        return self._by_prefixes(row, train_on)

    def prompt(self, row: Row) -> Rendered:
        """Render what stands before a row's last answer, with the opening of the answer, as at inference.

        Raises:
            InputError: The template is missing.
            RowError: The template refuses this row.
        """
        if self.present:
            return Rendered(self._fill(row.messages[:-1], opened=True), (), closed=True)
        return Rendered(_seam(row.messages[0].content, row.messages[1].content)[0], (), closed=False)

    def _without_template(self, row: Row, train_on: str) -> Rendered:
        """Join prompt and completion: a base model can learn to go on from one to the other."""
        if row.format == "messages" or len(row.messages) != 2:  # a prompt and its completion
            raise InputError(
                f"{row.file}:{row.line}: this is a conversation, and the base model's tokenizer has no chat template.",
                "Choose an instruct model, or give rows of prompt and completion, or of text.", _MODEL,
            )
        prompt, completion = _seam(row.messages[0].content, row.messages[1].content)
        start = 0 if train_on == "all" else len(prompt)
        return Rendered(prompt + completion, ((start, len(prompt) + len(completion)),), closed=False)

    def _by_marks(self, messages: Sequence[Message], train_on: str) -> Rendered:
        """Take the stretches the template itself marks as generated, each with the end token right behind it."""
        text, marks = self._call(messages, opened=False, marks=True)
        spans = [(start, self._past_end_token(text, end)) for start, end in marks[0]]
        answers = [message for message in messages if message.role == "assistant"]
        if len(spans) == len(answers):
            spans = [span for span, answer in zip(spans, answers) if answer.trained]
        return Rendered(text, tuple(spans[-1:] if train_on == "last" else spans), closed=True)

    def _by_prefixes(self, row: Row, train_on: str) -> Rendered:
        """Find each answer as what the template adds between the opened prompt and the prompt with its answer."""
        messages = row.messages
        text = self._fill(messages)
        answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
        wanted = answers[-1:] if train_on == "last" else answers
        spans = [self._answer_span(row, text, place) for place in wanted if messages[place].trained]
        return Rendered(text, tuple(spans), closed=True)

    def _answer_span(self, row: Row, text: str, place: int) -> Span:
        messages = row.messages
        last = place == len(messages) - 1
        through = text if last else self._fill(messages[: place + 1])
        if not text.startswith(through):
            raise _rewritten(row)
        answer = messages[place].content.strip()
        opened = self._fill(messages[:place], opened=True)
        if through.startswith(opened) and answer and through.startswith(answer, len(opened)):
            return len(opened), len(through.rstrip())
        before = self._fill(messages[:place])
        if through.startswith(opened) and len(opened) > len(before):
            start = len(opened)
        elif through.startswith(before) and (found := through.find(answer, len(before))) >= 0:
            start = found  # the template opens no answer by itself, or opens it otherwise than it renders one
        elif last and (found := through.rfind(answer)) >= 0:
            start = found
        else:
            raise _rewritten(row)
        return start, start + len(through[start:].rstrip())

    def _past_end_token(self, text: str, end: int) -> int:
        for token in self._end_tokens:
            if text.startswith(token, end):
                return end + len(token)
        return end

    def _fill(self, messages: Sequence[Message], *, opened: bool = False) -> str:
        return self._call(messages, opened=opened, marks=False)[0]

    def _call(self, messages: Sequence[Message], *, opened: bool, marks: bool) -> tuple[str, list[list[Span]]]:
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered: tuple[list[str], list[list[Span]]] = render_jinja_template(  # type: ignore[assignment]  # its annotation says str
                conversations=[turns], chat_template=self._text, add_generation_prompt=opened,
                return_assistant_tokens_mask=marks, **self._special_tokens)
        except TemplateSyntaxError as error:
            raise InputError(
                f"The base model's chat template cannot be read: line {error.lineno}: {error.message}.", "Choose another model.", _MODEL,
            ) from error
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise RowError(f"the chat template refuses it: {error}") from error
        return rendered[0][0], rendered[1]


def _default_template(tokenizer: Any) -> str | None:
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        names = ", ".join(tokenizer.chat_template)
        raise InputError(
            f"The base model has several chat templates ({names}) and none is the default.", "Choose another model.", _MODEL,
        ) from error


def _seam(prompt: str, completion: str) -> tuple[str, str]:
    """Part a prompt from its completion by a line end, unless either brings white space of its own."""
    parted = prompt[-1:].isspace() or completion[:1].isspace()
    return (prompt, completion) if parted else (prompt + "\n", completion)


def _rewritten(row: Row) -> InputError:
    return InputError(
        f"{row.file}:{row.line}: this model's chat template rewrites earlier turns, so the answers in them cannot be told apart.",
        "Set train_on to last, which trains the last answer alone.", "data.train_on",
    )
