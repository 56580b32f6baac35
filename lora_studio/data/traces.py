"""What a row says and its text does not: a template leaves out in silence what it does not know. Light: runs in the child that renders."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from lora_studio.data.jinja_env import Span

_STEERING = re.compile(r"/\w+")
_WORDS = re.compile(r"\w+")


class UnwrittenError(ValueError):
    """The template leaves out something that the row says; the text names it."""


def refuse_unwritten(
    messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None, text: str, wanted: Sequence[int] | None, spans: Sequence[Span],
) -> None:
    """Look for what a row says in its text.

    Args:
        messages: Turns as the template took them.
        tools: Tools that may be called; None for none.
        text: What the template made of them.
        wanted: Places of the answers to learn among the turns; None to learn everything.
        spans: The stretches of the text where those answers stand.

    Raises:
        UnwrittenError: A wanted answer's words or calls, the tools, a system turn or a tool's words left no trace.
    """
    if wanted is None:
        wanted = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        said, context = [text] * len(wanted), text
    else:
        said, context = [text[start:end] for start, end in spans], _outside(text, spans)
    for place, part in zip(wanted, said):
        _look_for_answer(messages[place], part, f"turn {place + 1}")
    _look_for_names(messages, tools, text)
    for place, message in enumerate(messages):
        if message["role"] == "system" and not _system_stands(message["content"], context):
            raise UnwrittenError(f"system turns (turn {place + 1})")
        if message["role"] == "tool" and not _result_stands(message["content"], context):
            raise UnwrittenError(f"what tools answer (turn {place + 1})")


def _look_for_answer(message: dict[str, Any], said: str, where: str) -> None:
    for call in message.get("tool_calls") or ():
        if not _stands(name := call["function"]["name"], said):
            raise UnwrittenError(f"tool calls ({name} in {where})")
    # Templates take thoughts out of an answer, or lay them out anew.
    if not _stands(message["content"].rpartition("</think>")[2].strip(), said):
        raise UnwrittenError(f"what the assistant says in {where}")


def _look_for_names(messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None, text: str) -> None:
    functions = [tool.get("function", tool) for tool in tools or ()]
    offered = [function["name"] for function in functions if isinstance(function, dict) and isinstance(function.get("name"), str)]
    called = [call["function"]["name"] for message in messages for call in message.get("tool_calls") or ()]
    for names, what in ((offered, "tools"), (called, "tool calls")):
        if names and not any(_stands(name, text) for name in names):
            raise UnwrittenError(f"{what} ({names[0]})")


def _system_stands(content: str, text: str) -> bool:
    """Look for the longest line: some templates take out what only steers them, such as `/no_think`."""
    return _stands(content.strip(), text) or _stands(max(_STEERING.sub("", content).splitlines(), key=len, default="").strip(), text)


def _result_stands(content: str, text: str) -> bool:
    """Look for the longest word: a result may be JSON that the template lays out anew."""
    return _stands(max(_WORDS.findall(content), key=len, default=""), text)


def _stands(piece: str, text: str) -> bool:
    """Look for a piece as it is, as JSON escapes it, and with its white space laid out anew."""
    if piece in text:
        return True
    escaped = (json.dumps(piece, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return any(form in text for form in escaped) or "".join(piece.split()) in "".join(text.split())


def _outside(text: str, spans: Sequence[Span]) -> str:
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    return "\n".join(text[end:start] for end, start in zip([0, *ends], [*starts, len(text)]))
