"""What one row is: sound, with messages or text, or bad, with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

RowFormat = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "unpaired_preference"]


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
        line: Where it starts in the file, counted from 1; its number in a file without lines.
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

    @property
    def content_key(self) -> int:
        """A number that two rows of the same content share, whatever file and format they stand in; good within one process."""
        parts = _message_parts(self.messages)
        if self.text:
            parts.append(self.text)
        if self.rejected:
            parts += ["rejected", *_message_parts(self.rejected)]
        if self.tools:
            parts.append(json.dumps(self.tools, sort_keys=True, default=str))
        if self.label is not None:
            parts.append(str(self.label))
        return hash(tuple(parts))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Row:
        """Read one back from `to_json`."""
        said = {key: tuple(Message(**message) for message in raw[key]) for key in ("messages", "rejected")}
        fields: dict[str, Any] = {**raw, **said, "tools": tuple(raw["tools"])}
        return cls(**fields)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text of the row that a person can look for."""
        said = [message.content for message in (*self.messages, *self.rejected)]
        said += [json.dumps(dict(message.extra), ensure_ascii=False, default=str) for message in self.messages if message.extra]
        return (*said, self.text)


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be used, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def _message_parts(messages: tuple[Message, ...]) -> list[str]:
    parts: list[str] = []
    for message in messages:
        parts += (message.role, message.content)
        if message.extra:
            parts.append(json.dumps(dict(message.extra), sort_keys=True, default=str))
        if not message.trained:
            parts.append("not trained")
    return parts
