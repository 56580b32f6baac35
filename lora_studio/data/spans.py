"""Which characters of a rendered conversation are answers to learn. Light: runs in the child that renders.

Where a template marks what the model says, the marks tell. Elsewhere an answer goes from where the model would begin, behind the
opened prompt, to the last mark that ends it, which is found by rendering on from it in two ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lora_studio.data.jinja_env import CompiledTemplate, Span
from lora_studio.data.openings import Marks, before_thought, endings
from lora_studio.data.shapes import FAILURES, Shape, Turns, shape_of, stand_in
from lora_studio.data.traces import TAGGED

_THINKS = ("reasoning_content", "thinking", "reasoning")
_MOST_SIGNATURES = 256


class RewrittenError(ValueError):
    """The template changes earlier turns once later ones follow, so the answers in them cannot be told apart; the text says how."""


@dataclass
class Found:
    """A rendered conversation.

    Attributes:
        text: All of it.
        answers: The stretches to learn, by the turn of their answer; None where all is learned.
        opening: How the row and the prompt at inference open an answer, where those differ.
    """

    text: str
    answers: dict[int, list[Span]] | None = field(default=None)
    opening: tuple[str, str] | None = field(default=None)

    @property
    def spans(self) -> list[Span]:
        """All stretches to learn, in order."""
        return [(0, len(self.text))] if self.answers is None else sorted(span for spans in self.answers.values() for span in spans)


class AnswerFinder:
    """One template at work on conversations."""

    def __init__(
        self, template: CompiledTemplate, end_tokens: Sequence[str], *, train_opening: bool = True, shape: Shape | None = None,
    ) -> None:
        """Take a template.

        Args:
            template: The template.
            end_tokens: The tokens an answer may end with, longest first.
            train_opening: Whether the model learns how a row opens an answer, where the prompt does so otherwise.
            shape: How the template wants turns; found by trying where it is None.
        """
        self.template = template
        self._shape = shape
        self._marks = Marks(end_tokens)
        self._train_opening = train_opening
        self._seen: set[tuple[Any, ...]] = set()

    def given(self, variables: dict[str, Any]) -> AnswerFinder:
        """Give a finder for the same template with other values of its variables."""
        other = AnswerFinder.__new__(AnswerFinder)
        other.template, other._shape, other._marks = self.template.given(variables), self.shape, self._marks
        other._train_opening, other._seen = self._train_opening, set()
        return other

    @property
    def shape(self) -> Shape:
        """How the template wants turns; found when the first row is there, whose time limit holds for it."""
        if self._shape is None:
            self._shape = shape_of(self.template)
        return self._shape

    def fill(self, messages: Turns, tools: list[Any] | None, *, opened: bool = False) -> str:
        """Render turns in the shape that the template wants."""
        return self.template.fill(self.shape.of(messages), tools, opened=opened)

    def find(self, messages: Turns, tools: list[Any] | None, wanted: Sequence[int] | None) -> Found:
        """Render a conversation and find the answers that are wanted.

        Args:
            messages: Turns as rows have them.
            tools: Tools that may be called; None for none.
            wanted: Places of the answers to learn among the turns; None to learn everything.

        Raises:
            RewrittenError: Wanted answers are changed by later turns.
        """
        if wanted is None:
            return Found(self.fill(messages, tools))
        if self.template.marked and (found := self._by_marks(messages, tools, wanted)):
            return found
        text = self.fill(messages, tools)
        found = Found(text, {})
        for place in wanted:
            self._add_answer(found, messages, tools, place)
        return found

    def ended(self, found: Found) -> list[bool]:
        """Say of each answer whether it ends with a special token; none where all is learned."""
        spans = [found.answers[place][-1] for place in sorted(found.answers) if found.answers[place]] if found.answers else []
        return [self._marks.ends(found.text[start:end].rstrip()) for start, end in spans]

    # ------------------------------------------------------------------ generation marks

    def _by_marks(self, messages: Turns, tools: list[Any] | None, wanted: Sequence[int]) -> Found | None:
        """Take the stretches that the template marks, those of an answer together; None where a wanted answer has none."""
        text, marked = self.template.fill_marked(self.shape.of(messages), tools)
        marks = [mark for mark in marked if mark[0] < mark[1]]
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        owners = answers if len(marks) == len(answers) else self._owners(messages, tools, text, answers, marks)
        by_answer: dict[int, list[Span]] = {}
        for place, (start, end) in zip(owners, marks):
            _join(by_answer.setdefault(place, []), (start, self._ended(text, start, end)), text)
        if not all(place in by_answer for place in wanted):
            return None
        found = Found(text, {place: by_answer[place] for place in wanted})
        if wanted and not self._known(messages, tools, wanted[-1]):
            self._compare_opening(found, messages, tools, wanted[-1])
        return found

    def _owners(self, messages: Turns, tools: list[Any] | None, text: str, answers: list[int], marks: list[Span]) -> list[int]:
        """Say to which answer each marked stretch belongs: the last that begins before it."""
        begins = {place: self._marks.shared(text, self._tried(messages[:place], tools) or "") for place in answers}
        return [max((place for place in answers if begins[place] <= start), default=-1) for start, _ in marks]

    def _ended(self, text: str, start: int, end: int) -> int:
        """Give the end of a marked answer: with its end token, which some templates leave outside the marks."""
        if self._marks.ends(text[start:end].rstrip()):
            return end
        return next((end + len(closing) for closing in self._closings if text.startswith(closing, end)), end)

    def _known(self, messages: Turns, tools: list[Any] | None, place: int) -> bool:
        """Say whether a conversation of this make was looked at before and opened its answers as the prompt does."""
        said = messages[place]
        signature = (
            messages[0]["role"], messages[place - 1]["role"] if place else "", place == len(messages) - 1, bool(tools),
            bool(said["content"]), bool(TAGGED.match(said["content"] or "")), tuple(sorted(said)),
            any("/no_think" in (turn["content"] or "") for turn in messages))
        known = signature in self._seen
        if len(self._seen) < _MOST_SIGNATURES:
            self._seen.add(signature)
        return known

    def _compare_opening(self, found: Found, messages: Turns, tools: list[Any] | None, place: int) -> None:
        """Note where the text before an answer is not the prompt at inference; the next of its make is looked at again then."""
        opened = self._tried(messages[:place], tools, opened=True)
        assert found.answers is not None
        start = found.answers[place][0][0]
        if opened is None or (found.text.startswith(opened) and not found.text[len(opened) : start].strip()):
            return
        self._seen.clear()
        parted = self._marks.shared(found.text, opened)
        found.opening = endings(self._header(messages[: place + 1], tools, found.text, start), opened, min(parted, start))

    # ------------------------------------------------------------------ by rendering on

    def _add_answer(self, found: Found, messages: Turns, tools: list[Any] | None, place: int) -> None:
        assert found.answers is not None
        text, last = found.text, place == len(messages) - 1
        answer = str(messages[place]["content"] or "").strip()
        opened = self._tried(messages[:place], tools, opened=True)
        sure = last or self.template.forward
        if sure and opened is not None and (span := self._directly_behind(opened, text, answer)):
            found.answers[place] = [span]
            return
        turns = messages[: place + 1]
        alone = text if last else self._tried(turns, tools)
        if alone is None:  # the template does not take a conversation that ends here
            found.answers[place] = [self._in_place(messages, tools, text, place)]
            return
        end = self._end(turns, tools, alone, text, None if last else str(messages[place + 1]["content"] or "").strip())
        start, parted = self._start(turns, tools, text[:end], opened, answer)
        found.answers[place] = [(start, end)]
        if opened is not None and parted is not None:
            found.opening = endings(self._header(turns, tools, text, start), opened, parted)

    def _in_place(self, messages: Turns, tools: list[Any] | None, text: str, place: int) -> Span:
        """Find an answer by putting another word in its place."""
        word, answer = stand_in(), str(messages[place]["content"] or "").strip()
        turns = [*messages[:place], {**messages[place], "content": word}, *messages[place + 1 :]]
        before, there, behind = self.fill(turns, tools).partition(word)
        end = len(text) - len(behind)
        if not (answer and there and text.startswith(before) and text.endswith(behind) and text[len(before) : end].strip() == answer):
            raise RewrittenError(f"does not tell where turn {place + 1} begins and ends")
        closing = next((closing for closing in self._closings if text.startswith(closing, end)), "")
        return len(before), end + len(closing)

    def _directly_behind(self, opened: str, text: str, answer: str) -> Span | None:
        """Give the span of an answer that stands right behind the opened prompt, what closes it right behind it."""
        if not answer or not text.startswith(opened):
            return None
        # White space between an opened prompt and its answer is the model's to say: a token may hold both.
        start = len(opened)
        while text[start : start + 1].isspace():
            start += 1
        end = start + len(answer)
        if not text.startswith(answer, start):
            return None
        return next(((len(opened), end + len(closing)) for closing in self._closings if text.startswith(closing, end)), None)

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
            except FAILURES:
                continue
        return tuple(sorted({closing for closing in found if closing.strip()}, key=len, reverse=True))

    def _end(self, turns: Turns, tools: list[Any] | None, alone: str, text: str, behind: str | None) -> int:
        """Give where an answer ends in the text, the marks that close it included.

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
        opens = alone is not None and alone == self._tried([asked, said], None, opened=True)
        return unasked and opens and following is not None and not following.startswith((alone or "").rstrip())

    def _all_said(self, turns: Turns, alone: str, shared: int) -> bool:
        """Say whether all that an answer says stands where its text is the same alone and in the whole; then only the form differs."""
        said = turns[-1]
        pieces = [(said["content"] or "").strip(), *(str(said[key]).strip() for key in _THINKS if said.get(key))]
        if found := TAGGED.match(pieces[0]):
            pieces += [found[3].strip(), found[5].strip()]
            del pieces[0]
        pieces += [word for call in said.get("tool_calls") or () for word in _leaves(call["function"]["arguments"])]
        pieces = list(filter(None, pieces)) or [call["function"]["name"] for call in said.get("tool_calls") or ()]
        # What the template does not write even where the answer is the last one is a loss, and told of as one.
        written = [piece for piece in pieces if piece in alone]
        return bool(written) and all(alone.rfind(piece) + len(piece) <= shared for piece in written)

    def _end_written_later(self, turns: Turns, tools: list[Any] | None, text: str, said: int, behind: str) -> int:
        """Give the end of an answer whose end stands there only because a turn follows."""
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

    def _start(self, turns: Turns, tools: list[Any] | None, text: str, opened: str | None, answer: str) -> tuple[int, int | None]:
        """Give where an answer starts, and where the row parts from the prompt if it does.

        Args:
            turns: The conversation up to the answer.
            tools: Tools that may be called.
            text: The row up to the answer's end.
            opened: The prompt at inference; None where the template refuses it.
            answer: The answer's content, stripped.
        """
        closed = self._tried(turns[:-1], tools)
        if opened is not None and text.startswith(opened) and (closed is None or len(opened) > len(closed)):
            return len(opened), None
        header = self._plain_header(turns, tools)
        known = self._marks.shared(closed or "", text)
        if opened is None or text.startswith(opened):
            start = self._start_unopened(closed, header, text, answer, known)
            headed = opened is not None and text[len(opened) : start].strip()
            return start, len(opened or "") if headed else None
        parted = self._marks.shared(text, opened)
        start = before_thought(text, min(parted, self._marks.shared(text, header)) if header else parted)
        early = start < self._marks.shared(self._marks.bare(closed or ""), text)
        if early or self._before_last_turn(turns, text, start, answer):
            start = self._start_unopened(closed, header, text, answer, known)
        elif not self._train_opening:
            start = max(start, self._said_from(turns, tools, text, header))
        return start, parted

    def _before_last_turn(self, turns: Turns, text: str, start: int, answer: str) -> bool:
        """Say whether the turn before an answer stands behind a place: the template writes that turn otherwise once the answer is there."""
        before = str(turns[-2]["content"] or "").strip() if len(turns) > 1 else ""
        place = text.find(before, start, text.rfind(answer) if answer else None) if before else -1
        return place >= 0 and answer != before

    def _said_from(self, turns: Turns, tools: list[Any] | None, text: str, header: str) -> int:
        """Give the first character that the row itself says in an answer: its thoughts, or its content."""
        if header and text.startswith(header):
            return len(header)
        thought = stand_in()
        said = {**turns[-1], **{key: thought for key in _THINKS if turns[-1].get(key)}}
        if found := TAGGED.match(said["content"] or ""):
            said["content"] = f"{found[1]}{found[2]}{thought}{found[4]}{found[5]}"
        before, there, _ = (self._tried([*turns[:-1], said], tools) or "").partition(thought)
        return len(before) if there and text.startswith(before) else 0

    def _start_unopened(self, closed: str | None, header: str, text: str, answer: str, known: int) -> int:
        """Give the start of an answer that the template does not open by itself, or opens otherwise than it renders one."""
        if header and text.startswith(header) and text[len(header) :].lstrip().startswith(answer):
            bare = closed and header.startswith(closed) and not header[len(closed) :].strip()
            return len(closed or "") if bare else before_thought(text, len(header))
        if header and known and (begun := before_thought(text, self._marks.shared(text, header))) >= known:
            return begun
        if answer and (found := text.rfind(answer, known if closed and known == len(closed) else 0)) >= 0:
            return found
        if known and not answer:
            return known
        raise RewrittenError("writes the turns before an answer otherwise once it is there")

    def _plain_header(self, turns: Turns, tools: list[Any] | None) -> str:
        """Give the text up to the content of the last turn, without thoughts or calls; empty where the template writes none."""
        word = stand_in()
        plain = {"role": turns[-1]["role"], "content": word}
        before, found, _ = (self._tried([*turns[:-1], plain], tools) or "").partition(word)
        return before if found else ""

    def _header(self, turns: Turns, tools: list[Any] | None, text: str, start: int) -> str:
        """Give the text up to the first word of the answer that the row itself says, as far as it can be told."""
        header = self._plain_header(turns, tools)
        return text[: max(start, self._said_from(turns, tools, text, header))]

    def _how_rewritten(self, turns: Turns, alone: str, text: str) -> str:
        turn = f"turn {len(turns)}"
        if any(turns[-1].get(key) for key in _THINKS) or TAGGED.match(turns[-1]["content"] or ""):
            return f"leaves out the thoughts of {turn} once later turns follow"
        place = self._marks.shared(alone, text)
        return (f"writes {turn} otherwise once later turns follow ({alone[place : place + 24]!r} becomes {text[place : place + 24]!r})")

    def _tried(self, messages: Turns, tools: list[Any] | None, *, opened: bool = False) -> str | None:
        try:
            return self.fill(messages, tools, opened=opened)
        except FAILURES:
            return None


def _leaves(value: Any) -> list[str]:
    """Give the texts within an object."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value] if isinstance(value, str) and value.strip() else []


def _join(spans: list[Span], span: Span, text: str) -> None:
    """Add a stretch; one behind which nothing but white space parts it from the next grows by that."""
    if spans and not text[spans[-1][1] : span[0]].strip():
        spans[-1] = (spans[-1][0], span[1])
    else:
        spans.append(span)
