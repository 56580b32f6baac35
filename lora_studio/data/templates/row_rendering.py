"""One row through a template: its text, its answers, what of it was lost on the way, and what would help. Light: runs in the child."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lora_studio.data.templates.dropped_fields import CONTEXT, Loss, losses_of
from lora_studio.data.templates.jinja_env import REASONING
from lora_studio.data.templates.shapes import OF_A_TRIAL, Turns
from lora_studio.data.templates.spans import AnswerFinder, Found
from lora_studio.data.templates.turn_ends import RewrittenError

_TAGS = (("[THINK]", "[/THINK]"), ("<think>", "</think>"))


class UnwrittenError(ValueError):
    """The template leaves out something that the row says; the text names it."""

    def __init__(self, losses: Sequence[Loss], cure: dict[str, Any] | None) -> None:
        """Name what was lost, and values of the template's variables that would have kept it."""
        super().__init__(", ".join(dict.fromkeys(loss.said for loss in losses)))
        self.kinds = sorted({loss.kind for loss in losses})
        self.cure = cure


class RowRenderer:
    """A finder at work on rows, by the settings of a data set."""

    def __init__(self, finder: AnswerFinder, on_unwritten: str) -> None:
        """Take a finder, and what becomes of rows of which the template leaves something out: `refuse`, `without` or `content`."""
        self._finder = finder
        self._on_unwritten = on_unwritten
        self._cures: dict[str, dict[str, Any] | None] = {}
        self._ends_last: bool | None = None

    def prompt(self, messages: Turns, tools: list[Any] | None, wanted: Sequence[int] | None) -> str:
        """Render what stands before the last turn of a conversation as training has it there, with the opening of the answer that is due.

        Args:
            messages: The turns, the answer among them.
            tools: Tools that may be called; None for none.
            wanted: Places of the answers that training learns among the turns; None where it learns everything.
        """
        if self._on_unwritten == "content":
            with contextlib.suppress(RewrittenError, UnwrittenError, *OF_A_TRIAL):
                _, losses = self._looked_at(self._finder, messages, tools, wanted)
                messages = _in_content(messages, _of_answers(losses), self._tags()) or messages
        return self._finder.fill(messages[:-1], tools, opened=True)

    def render(self, messages: Turns, tools: list[Any] | None, wanted: Sequence[int] | None) -> list[Any]:
        """Return [text, spans, notes]; notes are {} for a row about which there is nothing to say.

        Raises:
            RewrittenError: Wanted answers are changed by later turns.
            UnwrittenError: The template leaves out something that the row says, and the settings refuse that.
        """
        found, losses = self._looked_at(self._finder, messages, tools, wanted)
        lost = _of_answers(losses)
        if lost and self._on_unwritten == "content" and (kept := _in_content(messages, lost, self._tags())) is not None:
            messages = kept
            found, losses = self._looked_at(self._finder, messages, tools, wanted)
            lost = _of_answers(losses)
        if lost and self._on_unwritten != "without":
            raise UnwrittenError(lost, self._cure("lost " + lost[0].kind, lambda finder: self._keeps(finder, messages, tools, wanted)))
        return [found.text, found.spans, self._notes(found, losses, messages, tools, wanted)]

    def _looked_at(
        self,
        finder: AnswerFinder,
        messages: Turns,
        tools: list[Any] | None,
        wanted: Sequence[int] | None,
    ) -> tuple[Found, list[Loss]]:
        try:
            found = finder.find(messages, tools, wanted)
        except RewrittenError:
            # An answer that is not found may be one that was not written.
            text = finder.fill(messages, tools)
            lost = losses_of(messages, tools, text, None, lambda turns: finder.fill(turns, tools))
            of_wanted = [loss for loss in lost if loss.place in (wanted or ()) and self._lost_alone(finder, messages, tools, loss)]
            if of_wanted:
                raise UnwrittenError(
                    of_wanted, self._cure("lost " + of_wanted[0].kind, lambda other: self._keeps(other, messages, tools, wanted))
                ) from None
            raise
        return found, losses_of(messages, tools, found.text, found.answers, lambda turns: finder.fill(turns, tools))

    def _lost_alone(self, finder: AnswerFinder, messages: Turns, tools: list[Any] | None, loss: Loss) -> bool:
        """Return whether something is lost even where its turn is the last one."""
        turns = messages[: loss.place + 1]
        try:
            text = finder.fill(turns, tools)
        except OF_A_TRIAL:
            return False
        return any(
            other.place == loss.place and other.kind == loss.kind
            for other in losses_of(turns, tools, text, None, lambda said: finder.fill(said, tools))
        )

    def _keeps(self, finder: AnswerFinder, messages: Turns, tools: list[Any] | None, wanted: Sequence[int] | None) -> bool:
        return self._lost(finder, messages, tools, wanted) <= CONTEXT

    def _lost(self, finder: AnswerFinder, messages: Turns, tools: list[Any] | None, wanted: Sequence[int] | None) -> set[str]:
        found = finder.find(messages, tools, wanted)
        losses = losses_of(messages, tools, found.text, found.answers, lambda turns: finder.fill(turns, tools))
        return {loss.kind for loss in losses}

    def _notes(
        self,
        found: Found,
        losses: list[Loss],
        messages: Turns,
        tools: list[Any] | None,
        wanted: Sequence[int] | None,
    ) -> dict[str, Any]:
        notes: dict[str, Any] = {}
        if losses:
            notes["lost"] = sorted({loss.kind for loss in losses})
        if found.opening:
            lost = {loss.kind for loss in losses}
            cure = self._cure(
                "opening",
                lambda finder: finder.find(messages, tools, wanted).opening is None and self._lost(finder, messages, tools, wanted) <= lost,
            )
            notes["opening"] = [*found.opening, cure]
        if wanted is None and self._opens_behind(found, messages, tools):
            notes["opens_behind"] = True
        ended = self._finder.ended(found)
        if not all(ended[:-1]):
            notes["open"] = all(ended[-1:])
            notes["ends_last"] = self._end_where_last(found, messages, tools)
        if not all(ended) and (cure := self._cure("end", lambda finder: all(finder.ended(finder.find(messages, tools, wanted))))):
            notes["end_cure"] = cure
        return notes

    def _opens_behind(self, found: Found, messages: Turns, tools: list[Any] | None) -> bool:
        """Return whether a template opens another answer behind the last one, which itself has its end token."""
        last = len(messages) - 1
        if messages[last]["role"] != "assistant":
            return False
        try:
            alone = self._finder.find(messages, tools, [last])
        except OF_A_TRIAL:
            return False
        return alone.text == found.text and all(self._finder.ended(alone)) and bool(found.text[alone.spans[-1][1] :].strip())

    def _end_where_last(self, found: Found, messages: Turns, tools: list[Any] | None) -> bool:
        """Return whether every answer of a row has its end token where nothing follows it; tried for the first row alone."""
        if self._ends_last is None:
            places = found.answers or {}
            try:
                self._ends_last = all(all(self._finder.ended(self._finder.find(messages[: place + 1], tools, [place]))) for place in places)
            except OF_A_TRIAL:
                self._ends_last = False
        return self._ends_last

    def _cure(self, what: str, helps: Callable[[AnswerFinder], bool]) -> dict[str, Any] | None:
        """Find values of the template's own variables that help; tried for the first row of a kind alone."""
        if what not in self._cures:
            self._cures[what] = next((values for values in self._values() if self._helps(values, helps)), None)
        return self._cures[what]

    def _values(self) -> Iterator[dict[str, Any]]:
        for name, values in self._finder.template.variables.items():
            for value in values:
                yield {name: value}

    def _helps(self, values: dict[str, Any], helps: Callable[[AnswerFinder], bool]) -> bool:
        try:
            return helps(self._finder.given(values))
        except OF_A_TRIAL:
            return False

    def _tags(self) -> tuple[str, str]:
        """Return the tags between which the template itself would write thoughts."""
        return next((tags for tags in _TAGS if tags[0] in self._finder.template.text), _TAGS[-1])


def _of_answers(losses: Sequence[Loss]) -> list[Loss]:
    """Return what is lost of more than context."""
    return [loss for loss in losses if loss.kind not in CONTEXT]


def _in_content(messages: Turns, lost: Sequence[Loss], tags: tuple[str, str]) -> Turns | None:
    """Put thoughts and calls that the template does not write into the answers' content; None where others are lost."""
    if not all(loss.kind in ("thoughts", "calls") for loss in lost):
        return None
    turns = list(messages)
    for place, kind in {(loss.place, loss.kind) for loss in lost}:
        turns[place] = _with_thoughts(turns[place], tags) if kind == "thoughts" else _with_calls(turns[place])
    return turns


def _with_thoughts(turn: dict[str, Any], tags: tuple[str, str]) -> dict[str, Any]:
    said = dict.fromkeys(text.strip() for key in REASONING if (text := turn.get(key)))
    rest = {key: value for key, value in turn.items() if key not in REASONING}
    thoughts = "\n\n".join(said)
    return {**rest, "content": f"{tags[0]}\n{thoughts}\n{tags[1]}\n\n{turn['content'] or ''}".rstrip()} if thoughts else turn


def _with_calls(turn: dict[str, Any]) -> dict[str, Any]:
    calls = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in turn.get("tool_calls") or ()]
    rest = {key: value for key, value in turn.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(filter(None, [turn["content"], *calls]))}
