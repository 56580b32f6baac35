"""Conversations to text, and which characters of it are answers to learn.

A chat template is rendered by a child (`renderer`), a block of rows at a time, exactly as transformers renders it at inference.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, cast

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.settings import DataSettings
from lora_studio.data.rows.row import Message, Row, RowError
from lora_studio.data.templates.jinja_env import Span
from lora_studio.data.templates.renderer import Limits, Renderer, RendererDiedError
from lora_studio.data.templates.template_source import FIELD, TemplateSource, choose_template, refuse_foreign_marks, shipped_templates

COMPILE_SECONDS = 20.0
BLOCK_SECONDS = 20.0
ROW_SECONDS = 5.0
_RULES = 5  # raised whenever the same template makes another text, other spans or other faults of a row
_WRITTEN_BY_HAND = re.compile("tool|think", re.IGNORECASE)  # an answer may call a tool or think in its text alone


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text.

    Attributes:
        text: What is tokenized.
        spans: Start and end of each stretch of characters to learn, in order.
        closed: Whether the row already has its special tokens; if not, the tokenizer's own first token and
            its end token are put around it.
        lost: Kinds of what the row says and the text does not.
        opening: How the row and the prompt at inference open its answer, where those differ.
        cure: Values of the template's variables with which they would not; None where none are known.
        open_inside: Whether an answer before the last one has no end token.
        end_cure: Values of the template's variables with which an answer that has no end token would have one.
        opens_behind: Whether all is learned, and another answer is opened behind the last one, which has its end token.
        ends_last: Whether answers that have none would have one as the last of a row.
    """

    text: str
    spans: tuple[Span, ...]
    closed: bool
    lost: tuple[str, ...] = ()
    opening: tuple[str, str] | None = None
    cure: Mapping[str, Any] | None = None
    open_inside: bool = False
    end_cure: Mapping[str, Any] | None = None
    ends_last: bool = False
    opens_behind: bool = False


class ChatTemplate:
    """The chat template of a data set, at work while open as a context manager.

    `send` and `receive` render a block while the caller does something else; `render_rows` is both at once.
    """

    def __init__(
        self,
        tokenizer: Any,
        setting: str | None = None,
        *,
        variables: Mapping[str, Any] | None = None,
        on_unwritten: str = "refuse",
        answer_opening: str = "trained",
        train_on: str = "assistant",
        limits: Limits | None = None,
    ) -> None:
        """Take the template that the setting means; without any, only prompts with completions and text can be rendered.

        Args:
            tokenizer: A fast transformers tokenizer.
            setting: `data.chat_template`.
            variables: `data.chat_template_kwargs`.
            on_unwritten: `data.on_unwritten`.
            answer_opening: `data.answer_opening`.
            train_on: `data.train_on`: what a prompt keeps of the answers before it is what training keeps of them.
            limits: What the child that renders may take, where that is not the usual.

        Raises:
            InputError: The setting names none, or the tokenizer has several templates and none is the default.
        """
        self._variables = dict(variables or {})
        self._options = {"on_unwritten": on_unwritten, "train_opening": answer_opening == "trained"}
        self.source: TemplateSource = choose_template(setting, tokenizer)
        self._added_tokens = frozenset(map(str, tokenizer.added_tokens_decoder.values()))
        end_tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted(end_tokens | set(tokenizer.all_special_tokens), key=lambda token: (-len(token), token))
        self._end_tokens: tuple[str, ...] = tuple(special)
        self._special_tokens = {name: _plain(token) for name, token in tokenizer.special_tokens_map.items()}
        self._marks = self._own_marks(tokenizer)
        self._limits = limits
        self._renderer: Renderer | None = None
        self._sent: tuple[Sequence[Row], list[dict[str, Any]]] | None = None
        self._train_on = train_on

    @classmethod
    def of(cls, tokenizer: Any, settings: DataSettings) -> Self:
        """Take the template of a data set, with everything that its settings say about it.

        Raises:
            InputError: As the constructor.
        """
        return cls(
            tokenizer,
            settings.chat_template,
            variables=settings.chat_template_kwargs,
            on_unwritten=settings.on_unwritten,
            answer_opening=settings.answer_opening,
            train_on=settings.train_on,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if one was started."""
        if self._renderer is not None:
            self._renderer.close()

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides what it renders, as plain JSON values."""
        return {
            "rules": _RULES,
            "text": self.source.text,
            "special_tokens": self._special_tokens,
            "end_tokens": self._end_tokens,
            "variables": self._variables,
            **self._options,
        }

    @property
    def present(self) -> bool:
        """Whether there is a chat template."""
        return self.source.text is not None

    def render_rows(self, rows: Sequence[Row], train_on: str) -> list[Rendered | RowError]:
        """Render rows, each to its text or to why the template refuses it.

        Raises:
            InputError: The template is missing, does not end, or has no variable of a name that is set.
        """
        self.send(rows, train_on)
        return self.receive()

    def prompts(self, rows: Sequence[Row]) -> list[Rendered | RowError]:
        """Render what stands before each row's last answer, with the opening of the answer, as at inference.

        Raises:
            InputError: The template is missing or does not end.
        """
        if not self.present:
            return [Rendered(_seam(row.messages[0].content, row.messages[1].content)[0], (), closed=False) for row in rows]
        self._send(rows, [_request(row, row.messages, wanted_answers(row, self._train_on), prompt=True) for row in rows])
        return self.receive()

    def send(self, rows: Sequence[Row], train_on: str) -> None:
        """Begin to render rows.

        Raises:
            InputError: The template is missing, cannot be read, or is a shipped one whose marks the tokenizer does not know.
        """
        self._train_on = train_on
        self._send(rows, [_request(row, row.messages, wanted_answers(row, train_on)) for row in rows])

    def receive(self) -> list[Rendered | RowError]:
        """Return what became of the rows sent last, in their order."""
        assert self._sent is not None
        rows, requests = self._sent
        self._sent = None
        replies = iter(self._replies(rows, requests) if requests else [])
        return [self._rendered(row, next(replies)) if self._by_template(row) else self._without_template(row) for row in rows]

    def _own_marks(self, tokenizer: Any) -> re.Pattern[str] | None:
        """Match the special tokens that the template writes around turns, which no turn should hold."""
        text = self.source.text or ""
        named = {tokenizer.eos_token, tokenizer.bos_token if "bos_token" in text else None}
        marks = [token for token in self._end_tokens if token in named or (token in text and not _WRITTEN_BY_HAND.search(token))]
        return re.compile("|".join(map(re.escape, marks))) if marks else None

    def _by_template(self, row: Row) -> bool:
        return bool(row.messages) and self.present

    def _send(self, rows: Sequence[Row], requests: list[dict[str, Any]]) -> None:
        asked = [request for row, request in zip(rows, requests) if self._by_template(row)]
        self._sent = (rows, asked)
        if asked:
            # A child that died meanwhile says so when its answer is asked for: then the rows go one by one.
            renderer = self._running()
            with contextlib.suppress(RendererDiedError):
                renderer.send(asked, BLOCK_SECONDS)

    def _replies(self, rows: Sequence[Row], requests: list[dict[str, Any]]) -> list[list[Any]]:
        if self._renderer is not None and self._renderer.running:
            with contextlib.suppress(RendererDiedError):
                return self._renderer.receive()
        asked = [row for row in rows if self._by_template(row)]
        return [self._reply_alone(row, request) for row, request in zip(asked, requests)]

    def _reply_alone(self, row: Row, request: dict[str, Any]) -> list[Any]:
        """Render one row of a block that did not come to its end: a slow machine gets through, a loop is named."""
        renderer = self._running()
        try:
            renderer.send([request], ROW_SECONDS)
            return renderer.receive()[0]
        except RendererDiedError as error:
            raise self._why_lost(error, f"{row.file}:{row.line}: ") from error

    def _running(self) -> Renderer:
        if self._renderer is None:
            self._renderer = Renderer(
                self.source.text or "",
                self._special_tokens,
                self._end_tokens,
                limits=self._limits,
                variables=self._variables,
                **self._options,
            )
        if not self._renderer.running:
            self._start(self._renderer)
        return self._renderer

    def _start(self, renderer: Renderer) -> None:
        refuse_foreign_marks(self.source, self._added_tokens)
        what = _capital(self.source.described)
        try:
            fault = renderer.start(COMPILE_SECONDS)
        except RendererDiedError as error:
            raise self._why_lost(error, "") from error
        if fault:
            renderer.close()
            raise InputError(f"{what} cannot be read: {fault}.", self.source.way_out, self.source.field)
        if unknown := sorted(set(self._variables) - set(renderer.variables)):
            known = f"It has {', '.join(renderer.variables)}." if renderer.variables else "It has none."
            renderer.close()
            raise InputError(f"{what} has no variable {unknown[0]}.", known, "data.chat_template_kwargs")

    def _why_lost(self, error: RendererDiedError, place: str) -> StudioError:
        """Tell a template that does not end from a child that something else ended, or that does not answer."""
        if error.overran:
            what = self.source.described if place else _capital(self.source.described)
            return InputError(f"{place}{what} does not come to an end.", self.source.way_out, self.source.field)
        return StudioError(
            f"{place}{'t' if place else 'T'}he process that renders the chat template {error}.",
            "Try again. A machine short of memory ends or stops such processes: close other programs first.",
        )

    def _rendered(self, row: Row, reply: list[Any]) -> Rendered | RowError:
        for turn, message in enumerate(row.messages, 1):
            if self._marks and (mark := self._marks.search(message.content)):
                return RowError(
                    f"turn {turn} holds {mark[0]}, which the chat template writes itself; "
                    "take such marks out, or give the whole conversation as a row of text"
                )
        text, detail, more = reply[0], reply[1], reply[2]
        if text is not None:
            row_opens, prompt_opens, cure = more.get("opening") or ("", "", None)
            return Rendered(
                text,
                tuple((start, end) for start, end in detail),
                closed=True,
                lost=tuple(more.get("lost", ())),
                opening=(row_opens, prompt_opens) if "opening" in more else None,
                cure=cure,
                open_inside=bool(more.get("open")),
                end_cure=more.get("end_cure"),
                ends_last=bool(more.get("ends_last")),
                opens_behind=bool(more.get("opens_behind")),
            )
        return RowError(self._why_refused(detail, more, reply[3:]))

    def _why_refused(self, kind: str, said: str, more: list[Any]) -> str:
        if kind == "rewritten":
            return (
                f"the chat template {said}; data.train_on: last trains the last answer alone, each trains every answer in a row of its own"
            )
        if kind == "memory":
            return "the chat template takes too much memory for it"
        if kind == "unwritten":
            ways = _suggestions(more[0], more[1], str(self._options["on_unwritten"]))
            return f"the chat template does not write {said}; {ways}"
        return f"the chat template {said}"

    def _without_template(self, row: Row) -> Rendered:
        """Join prompt and completion: a base model can learn to go on from one to the other."""
        if not row.messages:
            return Rendered(row.text, ((0, len(row.text)),), closed=False)
        if row.format in ("messages", "sharegpt") or len(row.messages) != 2:  # a prompt and its completion
            raise InputError(
                f"{row.file}:{row.line}: this is a conversation, and the base model's tokenizer has no chat template.",
                f"Set data.chat_template to one of {', '.join(shipped_templates())}, choose an instruct model, or give rows of prompt "
                "and completion, or of text.",
                FIELD,
            )
        prompt, completion = _seam(row.messages[0].content, row.messages[1].content)
        start = 0 if self._train_on == "all" else len(prompt)
        return Rendered(prompt + completion, ((start, len(prompt) + len(completion)),), closed=False)


def _suggestions(kinds: Sequence[str], cure: Mapping[str, Any] | None, on_unwritten: str) -> str:
    """Say what helps a row of which something is left out."""
    ways = ["take that out of the row"]
    if cure:
        ways.append(f"set data.chat_template_kwargs to {dict(cure)}, which keeps it")
    if set(kinds) <= {"thoughts", "calls"} and on_unwritten != "content":
        ways.append("set data.on_unwritten to content to keep it in the answer's text, or to without to train without it")
    else:
        ways.append("set data.on_unwritten to without to train without it")
    ways.append("or set data.chat_template to one that does, such as instruct")
    return ", ".join(ways)


def per_answer(row: Row) -> Iterator[Row]:
    """Return a conversation as rows that each end with one of its answers; a row without an answer to learn stays as it is."""
    wanted = wanted_answers(row, "assistant") or []
    if not wanted:
        yield row
    for place in wanted:
        yield replace(row, messages=row.messages[: place + 1])


def wanted_answers(row: Row, train_on: str) -> list[int] | None:
    """Return the places of the answers to learn among a row's messages; None for every token.

    `each` is asked of rows that `per_answer` gives. `completion` takes the answers that are no part of the prompt; where a row does
    not part the two, those after the last question.
    """
    if train_on == "all":
        return None
    answers = [place for place, message in enumerate(row.messages) if message.role == "assistant"]
    if train_on in ("last", "each"):
        answers = answers[-1:]
    elif train_on == "completion":
        questions = [place for place, message in enumerate(row.messages) if message.role == "user"]
        first = row.prompt_turns or (questions[-1] if questions else 0)
        answers = [place for place in answers if place >= first]
    return [place for place in answers if row.messages[place].trained]


def trained_parts(row: Row, train_on: str) -> tuple[Row, ...]:
    """Return the rows that training makes of one: itself, or with `each` those of `per_answer`."""
    return tuple(per_answer(row)) if train_on == "each" else (row,)


def _request(row: Row, messages: Sequence[Message], wanted: list[int] | None, *, prompt: bool = False) -> dict[str, Any]:
    turns = [{"role": message.role, "content": message.content, **message.extra} for message in messages]
    return {"messages": turns, "tools": list(row.tools) or None, "wanted": wanted, "prompt": prompt}


def _plain(token: object) -> object:
    return [str(part) for part in cast("list[object]", token)] if isinstance(token, list) else str(token)


def _seam(prompt: str, completion: str) -> tuple[str, str]:
    """Part a prompt from its completion by a line end, unless either brings white space of its own."""
    parted = prompt[-1:].isspace() or completion[:1].isspace()
    return (prompt, completion) if parted else (prompt + "\n", completion)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
