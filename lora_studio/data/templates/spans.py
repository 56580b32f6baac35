"""Which characters of a rendered conversation are answers to learn. Light: runs in the child that renders.

Where a template marks what the model says, the marks tell. Elsewhere an answer goes from where the model would begin, behind the
opened prompt, to the last mark that ends it, which is found by rendering on from it in two ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_studio.data.templates.dropped_fields import TAGGED
from lora_studio.data.templates.jinja_env import REASONING, CompiledTemplate, Span
from lora_studio.data.templates.openings import before_thought, endings
from lora_studio.data.templates.shapes import Shape, Turns, stand_in
from lora_studio.data.templates.turn_ends import RewrittenError, TurnEnds

_MOST_SIGNATURES = 256


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


class AnswerFinder(TurnEnds):
    """One template at work on conversations."""

    def __init__(
        self,
        template: CompiledTemplate,
        end_tokens: Sequence[str],
        *,
        train_opening: bool = True,
        shape: Shape | None = None,
    ) -> None:
        """Take a template.

        Args:
            template: The template.
            end_tokens: The tokens an answer may end with, longest first.
            train_opening: Whether the model learns how a row opens an answer, where the prompt does so otherwise.
            shape: How the template wants turns; found by trying where it is None.
        """
        super().__init__(template, end_tokens, shape)
        self._train_opening = train_opening
        self._seen: set[tuple[Any, ...]] = set()

    def given(self, variables: dict[str, Any]) -> AnswerFinder:
        """Return a finder for the same template with other values of its variables."""
        return AnswerFinder(self.template.given(variables), self._end_tokens, train_opening=self._train_opening, shape=self.shape)

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
        if not self._train_opening:
            for place in wanted:
                self._leave_opening(found, messages, tools, place)
        if wanted and not self._known(messages, tools, wanted[-1]):
            self._compare_opening(found, messages, tools, wanted[-1])
        return found

    def _owners(self, messages: Turns, tools: list[Any] | None, text: str, answers: list[int], marks: list[Span]) -> list[int]:
        """Say to which answer each marked stretch belongs: the last that begins before it."""
        begins = {place: self._marks.shared(text, self._tried(messages[:place], tools) or "") for place in answers}
        return [max((place for place in answers if begins[place] <= start), default=-1) for start, _ in marks]

    def _ended(self, text: str, start: int, end: int) -> int:
        """Return the end of a marked answer: with its end token, which some templates leave outside the marks."""
        if self._marks.ends(text[start:end].rstrip()):
            return end
        return next((end + len(closing) for closing in self._closings if text.startswith(closing, end)), end)

    def _known(self, messages: Turns, tools: list[Any] | None, place: int) -> bool:
        """Return whether a conversation of this make was looked at before and opened its answers as the prompt does."""
        said = messages[place]
        signature = (
            messages[0]["role"],
            messages[place - 1]["role"] if place else "",
            place == len(messages) - 1,
            bool(tools),
            bool(said["content"]),
            bool(TAGGED.match(said["content"] or "")),
            tuple(sorted(said)),
            any("/no_think" in (turn["content"] or "") for turn in messages),
        )
        known = signature in self._seen
        if len(self._seen) < _MOST_SIGNATURES:
            self._seen.add(signature)
        return known

    def _compare_opening(self, found: Found, messages: Turns, tools: list[Any] | None, place: int) -> None:
        """Note where the text before an answer is not the prompt at inference; the next of its make is looked at again then."""
        opened = self._tried(messages[:place], tools, opened=True)
        assert found.answers is not None
        start = found.answers[place][0][0]
        if opened is None or _opens_so(found.text, opened, start):
            return
        self._seen.clear()
        parted = self._marks.shared(found.text, opened)
        header = self._header(messages[: place + 1], tools, found.text, start)
        found.opening = endings(header, opened, min(parted, start), _said_before(messages[:place], opened))

    def _leave_opening(self, found: Found, messages: Turns, tools: list[Any] | None, place: int) -> None:
        """Begin a marked answer with what the row itself says, where the row opens it otherwise than the prompt at inference."""
        assert found.answers is not None
        (start, end), *others = found.answers[place]
        opened = self._tried(messages[:place], tools, opened=True)
        if opened is None or _opens_so(found.text, opened, start):
            return
        turns = messages[: place + 1]
        said = self._said_from(turns, tools, found.text, self._plain_header(turns, tools))
        found.answers[place] = [(min(max(start, said), end), end), *others]

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
            found.opening = endings(self._header(turns, tools, text, start), opened, parted, _said_before(turns[:-1], opened))

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
        """Return the span of an answer that stands right behind the opened prompt, what closes it right behind it."""
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

    def _start(self, turns: Turns, tools: list[Any] | None, text: str, opened: str | None, answer: str) -> tuple[int, int | None]:
        """Return where an answer starts, and where the row parts from the prompt if it does.

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
        """Return whether the turn before an answer stands behind a place: it is written otherwise once the answer is there."""
        before = str(turns[-2]["content"] or "").strip() if len(turns) > 1 else ""
        place = text.find(before, start, text.rfind(answer) if answer else None) if before else -1
        return place >= 0 and answer != before

    def _said_from(self, turns: Turns, tools: list[Any] | None, text: str, header: str) -> int:
        """Return the first character that the row itself says in an answer: its thoughts, or its content."""
        if header and text.startswith(header):
            return len(header)
        thought = stand_in()
        said = {**turns[-1], **{key: thought for key in REASONING if turns[-1].get(key)}}
        if found := TAGGED.match(said["content"] or ""):
            said["content"] = f"{found[1]}{found[2]}{thought}{found[4]}{found[5]}"
        before, there, _ = (self._tried([*turns[:-1], said], tools) or "").partition(thought)
        return len(before) if there and text.startswith(before) else 0

    def _start_unopened(self, closed: str | None, header: str, text: str, answer: str, known: int) -> int:
        """Return the start of an answer that the template does not open by itself, or opens otherwise than it renders one."""
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
        """Return the text up to the content of the last turn, without thoughts or calls; empty where the template writes none."""
        word = stand_in()
        plain = {"role": turns[-1]["role"], "content": word}
        before, found, _ = (self._tried([*turns[:-1], plain], tools) or "").partition(word)
        return before if found else ""

    def _header(self, turns: Turns, tools: list[Any] | None, text: str, start: int) -> str:
        """Return the text up to the first word of the answer that the row itself says, as far as it can be told."""
        header = self._plain_header(turns, tools)
        return text[: max(start, self._said_from(turns, tools, text, header))]


def _opens_so(text: str, opened: str, start: int) -> bool:
    """Return whether nothing but white space stands between the opened prompt and an answer."""
    return text.startswith(opened) and not text[len(opened) : start].strip()


def _said_before(turns: Turns, opened: str) -> int:
    """Return where the last thing that a row says before an answer ends in the opened prompt; 0 where it is not found."""
    said = str(turns[-1]["content"] or "").strip() if turns else ""
    return max(0, opened.rfind(said) + len(said)) if said in opened else 0


def _join(spans: list[Span], span: Span, text: str) -> None:
    """Add a stretch; one behind which nothing but white space parts it from the next grows by that."""
    if spans and not text[spans[-1][1] : span[0]].strip():
        spans[-1] = (spans[-1][0], span[1])
    else:
        spans.append(span)
