"""Which characters of a rendered conversation are answers to learn. Light: runs in the child that renders.

Where a template marks what the model says, the marks tell. Elsewhere an answer is what the template adds between the opened
prompt and the prompt with its answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from lora_studio.data.jinja_env import CompiledTemplate, Span
from lora_studio.data.traces import refuse_unwritten

Turns = list[dict[str, Any]]
_STAND_IN = secrets.token_hex(16)  # for content whose place is sought


class RewrittenError(ValueError):
    """The template changes earlier turns once later ones follow, so the answers in them cannot be told apart."""


class AnswerFinder:
    """One template at work on conversations."""

    def __init__(self, template: CompiledTemplate, end_tokens: Sequence[str]) -> None:
        """Take a template and the tokens an answer may end with, longest first."""
        self._template = template
        self._end_tokens = tuple(end_tokens)

    def render(self, messages: Turns, tools: list[Any] | None, wanted: Sequence[int] | None) -> tuple[str, list[Span]]:
        """Render a conversation and find the answers that are wanted.

        Args:
            messages: Turns as the template takes them.
            tools: Tools that may be called; None for none.
            wanted: Places of the answers to learn among the turns; None to learn everything.

        Raises:
            RewrittenError: Wanted answers are changed by later turns.
            UnwrittenError: The template leaves out something that the row says.
        """
        text, spans = self._find(messages, tools, wanted)
        refuse_unwritten(messages, tools, text, wanted, spans)
        return text, spans

    def prompt(self, messages: Turns, tools: list[Any] | None) -> str:
        """Render a conversation with the opening of the answer that is due."""
        return self._template.fill(messages, tools, opened=True)

    def _find(self, messages: Turns, tools: list[Any] | None, wanted: Sequence[int] | None) -> tuple[str, list[Span]]:
        if wanted is None:
            text = self._template.fill(messages, tools)
            return text, [(0, len(text))]
        if self._template.marked:
            found = self._by_marks(messages, tools, wanted)
            if found is not None:
                return found
        text = self._template.fill(messages, tools)
        return text, [self._answer_span(messages, tools, text, place) for place in wanted]

    def _by_marks(self, messages: Turns, tools: list[Any] | None, wanted: Sequence[int]) -> tuple[str, list[Span]] | None:
        """Take the stretches the template marks, each with its end token if that is right behind; None where they are not one an answer."""
        text, marks = self._template.fill_marked(messages, tools)
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        if len(marks) != len(answers):
            return None
        spans = {place: (start, self._ended(text, start, end)) for place, (start, end) in zip(answers, marks)}
        return text, [spans[place] for place in wanted]

    def _answer_span(self, messages: Turns, tools: list[Any] | None, text: str, place: int) -> Span:
        last = place == len(messages) - 1
        turns = messages[: place + 1]
        answer = str(messages[place].get("content") or "").strip()
        opened = self._template.fill(messages[:place], tools, opened=True)
        if self._template.forward and (span := self._directly_behind(opened, text, answer)):
            return span
        through = text if last else self._through(turns, tools, text)
        if span := self._directly_behind(opened, through, answer):
            return span
        start = self._answer_start(turns, tools, through, opened, answer, last=last)
        return start, start + len(self._up_to_end_token(through[start:]))

    def _directly_behind(self, opened: str, text: str, answer: str) -> Span | None:
        """Give the span of an answer that stands right behind the opened prompt, its end token right behind it."""
        if not answer or not text.startswith(opened):
            return None
        # White space between an opened prompt and its answer is the model's to say: a token may hold both.
        start = len(opened)
        while text[start : start + 1].isspace():
            start += 1
        end = start + len(answer)
        past = self._past_end_token(text, end)
        return (len(opened), past) if past > end and text.startswith(answer, start) else None

    def _through(self, messages: Turns, tools: list[Any] | None, text: str) -> str:
        """Give the text up to and with an answer; some templates put an end token behind the last turn alone, which then goes."""
        through = self._template.fill(messages, tools)
        bare = self._without_end_token(through)
        for known in (through, bare):
            if text.startswith(known):
                return known
        raise RewrittenError

    def _answer_start(self, turns: Turns, tools: list[Any] | None, through: str, opened: str, answer: str, *, last: bool) -> int:
        closed = self._template.fill(turns[:-1], tools)
        if through.startswith(opened) and len(opened) > len(closed):
            return len(opened)
        # The template opens no answer by itself, or opens it otherwise than it renders one.
        header = self._header(turns, tools)
        if header and through.startswith(header) and through[len(header) :].lstrip().startswith(answer):
            return len(closed) if header.startswith(closed) and not header[len(closed) :].strip() else len(header)
        known = through.startswith(closed)
        if answer and (known or last):
            said = self._without_end_token(self._up_to_end_token(through))
            if (found := said.rfind(answer, len(closed) if known else 0)) >= 0:
                return found
        if not answer and through.startswith(opened):
            return len(opened)
        raise RewrittenError

    def _header(self, turns: Turns, tools: list[Any] | None) -> str:
        """Give the text up to the content of the last turn; empty where the template writes none."""
        before, found, _after = self._template.fill([*turns[:-1], {**turns[-1], "content": _STAND_IN}], tools).partition(_STAND_IN)
        return before if found else ""

    def _up_to_end_token(self, answer: str) -> str:
        """Cut white space, and end tokens behind the first one, off an answer's end."""
        kept = answer.rstrip()
        while (shorter := self._without_end_token(kept)) != kept:
            if self._without_end_token(shorter.rstrip()) == shorter.rstrip():
                break
            kept = shorter.rstrip()
        return kept

    def _without_end_token(self, text: str) -> str:
        return next((text[: -len(token)] for token in self._end_tokens if text.endswith(token)), text)

    def _ended(self, text: str, start: int, end: int) -> int:
        """Give the end of a marked answer; where its end token is among the marks, a special token behind it opens the next turn."""
        return end if text[start:end].rstrip().endswith(self._end_tokens) else self._past_end_token(text, end)

    def _past_end_token(self, text: str, end: int) -> int:
        return next((end + len(token) for token in self._end_tokens if text.startswith(token, end)), end)
