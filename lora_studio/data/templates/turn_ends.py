"""Where an answer ends in a rendered conversation, the marks that close it included. Light: runs in the child that renders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lora_studio.data.templates.dropped_fields import TAGGED
from lora_studio.data.templates.jinja_env import REASONING, CompiledTemplate
from lora_studio.data.templates.openings import Marks
from lora_studio.data.templates.shapes import OF_A_TRIAL, Shape, Turns, shape_of, stand_in


class RewrittenError(ValueError):
    """The template changes earlier turns once later ones follow, so the answers in them cannot be told apart; the text says how."""


class TemplateAtWork:
    """A template with the tokenizer's marks, and the shape in which it wants turns."""

    def __init__(self, template: CompiledTemplate, end_tokens: Sequence[str], shape: Shape | None) -> None:
        self.template = template
        self._shape = shape
        self._end_tokens = tuple(end_tokens)
        self._marks = Marks(self._end_tokens)

    @property
    def shape(self) -> Shape:
        """How the template wants turns; found when the first row is there, whose time limit holds for it."""
        if self._shape is None:
            self._shape = shape_of(self.template)
        return self._shape

    def fill(self, messages: Turns, tools: list[Any] | None, *, opened: bool = False) -> str:
        """Render turns in the shape that the template wants."""
        return self.template.fill(self.shape.of(messages), tools, opened=opened)

    def _tried(self, messages: Turns, tools: list[Any] | None, *, opened: bool = False) -> str | None:
        try:
            return self.fill(messages, tools, opened=opened)
        except OF_A_TRIAL:
            return None


class TurnEnds(TemplateAtWork):
    """Finds ends by rendering on from an answer in two ways: what both begin with closes it."""

    @cached_property
    def _closings(self) -> tuple[str, ...]:
        """What closes an answer of plain text: the last one of a conversation, or an earlier one. Empty ones are left out."""
        asked, said, more, end = ({"role": role, "content": stand_in()} for role in ("user", "assistant", "user", "assistant"))
        found: list[str] = []
        for turns, behind in (([asked, said], None), ([asked, said, more, end], more["content"])):
            try:
                text = self.fill(turns, None)
                alone = text if behind is None else self.fill(turns[:2], None)
                close = self._end(turns[:2], None, alone, text, behind)
                found.append(text[text.rindex(said["content"]) + len(said["content"]) : close])
            except OF_A_TRIAL:
                continue
        return tuple(sorted({closing for closing in found if closing.strip()}, key=len, reverse=True))

    def _end(self, turns: Turns, tools: list[Any] | None, alone: str, text: str, behind: str | None) -> int:
        """Return where an answer ends in the text, the marks that close it included.

        What stands behind it alone and what stands behind it where something follows begin alike with what closes it, but for
        templates that close an answer otherwise, or only, once a turn follows.

        Args:
            turns: The conversation up to the answer.
            tools: Tools that may be called.
            alone: The text of that.
            text: The text of the whole.
            behind: What the turn behind it says; None where there is none.
        """
        last = behind is None
        after = self._tried(turns, tools, opened=True) if last else text
        if last and after == alone and self._always_opens:
            after = self._tried([*turns, {"role": "user", "content": stand_in()}], tools)
            alone = alone if after is None else self._without_opener(alone[: self._marks.shared(alone, after)], after)
        bare = self._marks.bare(alone)
        shared = self._marks.shared(alone, after or "")
        if shared >= len(bare):
            if alone[:shared].rstrip() != bare and not alone[shared:].strip():
                return len(alone[:shared].rstrip())
            closed = self._without_opener(alone[:shared], after or "").rstrip()
            if len(closed) > len(bare):
                return len(closed)
        if last:
            return len(alone.rstrip())
        if shared < len(bare):
            if not self._all_said(turns, alone, shared):
                raise RewrittenError(self._how_rewritten(turns, alone, text))
            bare = self._marks.bare(alone[:shared])
        return self._end_written_later(turns, tools, text, len(bare), behind)

    @cached_property
    def _always_opens(self) -> bool:
        """Whether the template opens an answer whatever is asked: behind the last turn, even if that is an answer."""
        asked, said, more = ({"role": role, "content": stand_in()} for role in ("user", "assistant", "user"))
        alone, following = self._tried([asked, said], None), self._tried([asked, said, more], None)
        unasked = self._tried([asked], None) == self._tried([asked], None, opened=True)
        if alone is None or following is None or not unasked or alone != self._tried([asked, said], None, opened=True):
            return False
        # Where the answer itself is another once a turn follows, that is history rewritten, and no opening.
        kept = said["content"] in alone[: self._marks.shared(alone, following)]
        return kept and not following.startswith(alone.rstrip())

    def _all_said(self, turns: Turns, alone: str, shared: int) -> bool:
        """Return whether all that an answer says stands where its text is the same alone and in the whole; then only the form differs."""
        said = turns[-1]
        pieces = [(said["content"] or "").strip(), *(str(said[key]).strip() for key in REASONING if said.get(key))]
        if found := TAGGED.match(pieces[0]):
            pieces += [found[3].strip(), found[5].strip()]
            del pieces[0]
        pieces += [word for call in said.get("tool_calls") or () for word in _leaves(call["function"]["arguments"])]
        pieces = list(filter(None, pieces)) or [call["function"]["name"] for call in said.get("tool_calls") or ()]
        # What the template does not write even where the answer is the last one is a loss, and told of as one.
        written = [piece for piece in pieces if piece in alone]
        return bool(written) and all(alone.rfind(piece) + len(piece) <= shared for piece in written)

    def _end_written_later(self, turns: Turns, tools: list[Any] | None, text: str, said: int, behind: str) -> int:
        """Return the end of an answer whose end stands there only because a turn follows."""
        other = self._tried(turns, tools, opened=True)
        if other is not None and (shared := self._marks.shared(text, other)) > said:
            closed = self._without_opener(text[:shared], text).rstrip()
            if len(closed) > said and self._marks.ends(closed):
                return len(closed)
        return self._marks.closing(text, said, text.find(behind, said) if behind else said, self._openers)

    def _without_opener(self, shared: str, text: str) -> str:
        """Take the marks that open a turn off the end, where another mark stands before them: that ends one."""
        while (start := self._marks.start_of_last(shared)) is not None and self._marks.ends(shared[:start].rstrip()):
            # Where two ways to go on part in a word, that is the role, and the mark before it opens the turn.
            if shared[start:] not in self._openers and not text[len(shared) : len(shared) + 1].isalpha():
                break
            shared = shared[:start]
        return shared

    @cached_property
    def _openers(self) -> frozenset[str]:
        """The marks that open a conversation, and the one right before the first question."""
        asked = stand_in()
        text = self._tried([{"role": "user", "content": asked}], None) or ""
        head = text[: text.find(asked)].rstrip() if asked in text else ""
        last = self._marks.start_of_last(head)
        return frozenset([*self._marks.all_in(self._marks.run_at(text, 0)), *([] if last is None else [head[last:]])])

    def _how_rewritten(self, turns: Turns, alone: str, text: str) -> str:
        turn = f"turn {len(turns)}"
        if any(turns[-1].get(key) for key in REASONING) or TAGGED.match(turns[-1]["content"] or ""):
            return f"leaves out the thoughts of {turn} once later turns follow"
        place = self._marks.shared(alone, text)
        return f"writes {turn} otherwise once later turns follow ({alone[place : place + 24]!r} becomes {text[place : place + 24]!r})"


def _leaves(value: Any) -> list[str]:
    """Return the texts within an object."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value] if isinstance(value, str) and value.strip() else []
