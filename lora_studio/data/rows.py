"""What one row may be: the four formats, and every way a row can be wrong.

A row becomes messages (`messages`, `prompt_completion`, `alpaca`) or bare text (`text`). Nothing is repaired in
silence: what does not fit is a `RowError` whose text names the fault.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

RowFormat = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "unpaired_preference"]
ROLES = ("system", "user", "assistant")

# In the order in which they are looked for: the first format of which a row has any key is taken.
FORMAT_KEYS: dict[RowFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}


class RowError(ValueError):
    """A row cannot be used; the text says why, as a sentence without its full stop."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, user, assistant or tool.
        content: The text; may be empty for an answer that calls tools.
        trained: False for an answer whose row gives it `weight` 0.
        extra: What a chat template is given beside role and content: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    """

    role: str
    content: str
    trained: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Row:
    """One sound row: either messages, the last of them an answer, or text.

    Attributes:
        file: Path of its file, as given.
        line: Where it starts in the file, counted from 1.
        format: How it was read.
        messages: The conversation; empty for plain text. Of a preference row: the prompt and the chosen answer.
        text: The text; empty for a conversation.
        tools: The tools the row says may be called, as a chat template takes them.
        prompt_turns: How many of the messages are the prompt; 0 where the row does not part prompt and completion.
        rejected: Of a preference row: the answer that was not chosen.
        label: Of an unpaired preference row: whether the answer is a good one.
    """

    file: str
    line: int
    format: RowFormat
    messages: tuple[Message, ...] = ()
    text: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt_turns: int = 0
    rejected: tuple[Message, ...] = ()
    label: bool | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be used, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def detect_format(record: object) -> tuple[RowFormat, str] | None:
    """Give a record's format by its keys, and the key that told; None when no key is known."""
    if isinstance(record, Mapping):
        for name, keys in FORMAT_KEYS.items():
            for key in keys:
                if key in record:
                    return name, key
    return None


def parse_row(record: object, row_format: RowFormat, file: str, line: int) -> Row:
    """Read one record in a format.

    Raises:
        RowError: A key is missing, a value has the wrong type or is empty, or roles are out of order.
    """
    if not isinstance(record, Mapping):
        raise RowError(f"a row is an object with keys, this is {_kind(record)}")
    fields = cast("Mapping[str, Any]", record)
    if row_format == "text":
        return Row(file, line, "text", text=_filled(fields, "text"))
    readers = {"messages": _from_messages, "prompt_completion": _from_prompt, "alpaca": _from_alpaca}
    return Row(file, line, row_format, messages=readers[row_format](fields))


def _from_messages(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    turns = _present(fields, "messages")
    if isinstance(turns, str):  # a CSV cell can hold a conversation as JSON only
        turns = _json_cell(turns)
    return _conversation(turns)


def _from_prompt(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    prompt, completion = _present(fields, "prompt"), _present(fields, "completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _conversation([*prompt, *completion])
    return Message("user", _filled(fields, "prompt")), Message("assistant", _filled(fields, "completion"))


def _from_alpaca(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    instruction, answer = _filled(fields, "instruction"), _filled(fields, "output")
    extra = fields.get("input")
    if extra is not None and not isinstance(extra, str):
        raise RowError(f"input is {_kind(extra)}, not text")
    question = f"{instruction}\n\n{extra}" if extra else instruction
    system = fields.get("system")
    lead = (Message("system", _filled(fields, "system")),) if system else ()
    return (*lead, Message("user", _sound(question, "input")), Message("assistant", answer))


def _conversation(turns: object) -> tuple[Message, ...]:
    if not isinstance(turns, list):
        raise RowError(f"messages is {_kind(turns)}, not a list")
    messages = tuple(_message(turn, place) for place, turn in enumerate(cast("list[object]", turns)))
    if not messages:
        raise RowError("the conversation is empty")
    _check_order(messages)
    return messages


def _message(turn: object, place: int) -> Message:
    where = f"messages[{place}]"
    if not isinstance(turn, Mapping):
        raise RowError(f"{where} is {_kind(turn)}, not an object with role and content")
    fields = cast("Mapping[str, Any]", turn)
    role = fields.get("role")
    if not isinstance(role, str):
        raise RowError(f"{where} has no role" if role is None else f"{where}.role is {_kind(role)}, not text")
    if role not in ROLES:
        raise RowError(f"{where} has the role {role!r}; known are {', '.join(ROLES)}")
    if fields.get("tool_calls") or fields.get("function_call"):
        raise RowError(f"{where} calls a tool, which this release cannot train on")
    content = _content(fields.get("content"), where)
    if not content.strip() and role != "system":
        raise RowError(f"{where}: the {role}'s content is empty")
    weight = fields.get("weight", 1)
    if weight not in (0, 1):
        raise RowError(f"{where}.weight is {weight!r}; it can be 0 or 1")
    return Message(role, content, trained=bool(weight))


def _content(content: object, where: str) -> str:
    """Give a message's text; OpenAI's list of text parts is joined."""
    if content is None:
        raise RowError(f"{where} has no content")
    if isinstance(content, str):
        return _sound(content, where)
    if not isinstance(content, list):
        raise RowError(f"{where}.content is {_kind(content)}, not text")
    parts: list[str] = []
    for part in cast("list[object]", content):
        text = cast("Mapping[str, Any]", part).get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise RowError(f"{where}.content has a part that is not text")
        parts.append(text)
    return _sound("".join(parts), where)


def _check_order(messages: Sequence[Message]) -> None:
    """Refuse anything but an optional system message, then user and assistant in turn, an answer last."""
    first = 1 if messages[0].role == "system" else 0
    if not any(message.role == "assistant" for message in messages):
        raise RowError("the conversation has no assistant turn")
    for place, message in enumerate(messages[first:], first):
        expected = "assistant" if (place - first) % 2 else "user"
        if message.role != expected:
            raise RowError(f"roles are out of order: messages[{place}] is the {message.role}'s where the {expected}'s is due")
    if messages[-1].role != "assistant":
        raise RowError("the conversation ends with the user's turn: no answer follows it")


def _present(fields: Mapping[str, Any], key: str) -> Any:
    if key not in fields:
        known = detect_format(fields)
        other = f"; its keys are {', '.join(map(repr, list(fields)[:6]))}" if known is None or key not in FORMAT_KEYS[known[0]] else ""
        raise RowError(f"the row has no {key!r}{other}")
    if fields[key] is None:
        raise RowError(f"{key} is null")
    return fields[key]


def _filled(fields: Mapping[str, Any], key: str) -> str:
    value = _present(fields, key)
    if not isinstance(value, str):
        raise RowError(f"{key} is {_kind(value)}, not text")
    if not value.strip():
        raise RowError(f"{key} is empty")
    return _sound(value, key)


def _sound(text: str, where: str) -> str:
    """Refuse half a surrogate pair, which JSON's escapes can spell and UTF-8 cannot hold."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(f"{where} holds half a surrogate pair at character {error.start}") from error
    return text


def _json_cell(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError("messages is not JSON") from error


def _kind(value: object) -> str:
    names: dict[type, str] = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
