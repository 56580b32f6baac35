"""Conversations as people write them down: OpenAI's messages, ShareGPT's from and value, calls of tools in either.

Nothing is repaired in silence: what does not fit is a `RowError` that names the turn and the fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from lora_studio.data.rows.row import Message, RowError
from lora_studio.data.rows.values import json_cell, kind, sound, sound_tree

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
# What may follow what: an answer may call a tool in its text alone, so a tool's word may follow any answer.
# Two turns of one role in a row, and an answer that comes first, are the chat template's to take or to refuse.
_NEXT = {
    "system": ("user", "assistant"),
    "user": ("assistant", "user"),
    "assistant": ("user", "tool", "assistant"),
    "tool": ("assistant", "tool"),
}


def read_turns(turns: object, key: str) -> tuple[Message, ...]:
    """Read the turns of a conversation or of a part of one, in whatever order they are.

    Args:
        turns: What stands in the row: a list, or a list as JSON, since a cell of a table holds nothing else.
        key: Its key, which faults name.

    Raises:
        RowError: There are none, or one cannot be read.
    """
    if isinstance(turns, str):
        turns = json_cell(turns, key)
    if not isinstance(turns, list):
        raise RowError(f"{key} is {kind(turns)}, not a list")
    if not turns:
        raise RowError("the conversation is empty")
    return tuple(_message(turn, f"{key}[{place}]") for place, turn in enumerate(cast("list[object]", turns)))


def check_order(messages: Sequence[Message], key: str) -> None:
    """Refuse a system turn that is not the first, a tool's words that follow no answer, and anything but an answer last.

    Users and assistants need not take turns: whether a chat template takes that is its own to say.

    Raises:
        RowError: They are.
    """
    if not any(message.role == "assistant" for message in messages):
        raise RowError("the conversation has no assistant turn")
    due: tuple[str, ...] = ("system", "user", "assistant")
    for place, message in enumerate(messages):
        if message.role not in due:
            wanted = "user" if place == 0 else due[0]  # what usually stands there
            raise RowError(f"roles are out of order: {key}[{place}] is the {message.role}'s where the {wanted}'s is due")
        due = _NEXT[message.role]
    if messages[-1].role != "assistant":
        raise RowError(f"the conversation ends with the {messages[-1].role}'s turn: no answer follows it")
    _check_call_ids(messages, key)


def _check_call_ids(messages: Sequence[Message], key: str) -> None:
    called: set[str] = set()
    for place, message in enumerate(messages):
        called |= {str(call["id"]) for call in message.extra.get("tool_calls", ()) if "id" in call}
        answered = message.extra.get("tool_call_id")
        if answered is not None and called and answered not in called:
            raise RowError(f"{key}[{place}] answers the tool call {answered!r}, which no turn before it makes")


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"{where} is {kind(turn)}, not an object with role and content")
    fields = cast("Mapping[str, Any]", turn)
    said_role, said = ("from", "value") if "from" in fields and fields.get("role") is None else ("role", "content")
    name = fields.get(said_role)
    if not isinstance(name, str):
        raise RowError(f"{where} has no {said_role}" if name is None else f"{where}.{said_role} is {kind(name)}, not text")
    role = ROLES.get(name) or ROLES.get(name.lower())
    if role is None:
        raise RowError(f"{where} has the role {name!r}; known are {', '.join(_NEXT)}")
    if name == "function_call":
        return Message(role, "", _trained(fields, where), {"tool_calls": _written_calls(fields.get(said), f"{where}.{said}")})
    extra = _extra(fields, role, where)
    content = _content(fields.get(said), where, said, optional="tool_calls" in extra or role == "tool")
    if not content.strip() and role not in ("system", "tool") and "tool_calls" not in extra:
        raise RowError(f"{where}: the {role}'s {said} is empty")
    return Message(role, content, _trained(fields, where), extra) if extra else Message(role, content, _trained(fields, where))


def _trained(fields: Mapping[str, Any], where: str) -> bool:
    weight = fields.get("weight")
    if weight is not None and weight not in (0, 1):
        raise RowError(f"{where}.weight is {weight!r}; it can be 0 or 1")
    return weight is None or bool(weight)


def _content(content: object, where: str, key: str, *, optional: bool) -> str:
    """Return a message's text; OpenAI's list of text parts is joined."""
    if content is None:
        if optional:
            return ""
        raise RowError(f"{where} has no {key}")
    if isinstance(content, str):
        return sound(content, where)
    if not isinstance(content, list):
        raise RowError(f"{where}.{key} is {kind(content)}, not text")
    parts: list[str] = []
    for part in cast("list[object]", content):
        text = cast("Mapping[str, Any]", part).get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise RowError(f"{where}.{key} has a part that is not text")
        parts.append(text)
    return sound("".join(parts), where)


def _extra(fields: Mapping[str, Any], role: str, where: str) -> dict[str, Any]:
    """Return what a chat template is told beside role and content."""
    extra: dict[str, Any] = {}
    for key in ("name", "tool_call_id", "reasoning_content", "thinking", "reasoning"):
        value = fields.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise RowError(f"{where}.{key} is {kind(value)}, not text")
        extra[key] = sound(value, f"{where}.{key}")
    if calls := _calls(fields, where):
        if role != "assistant":
            raise RowError(f"{where} is the {role}'s and calls a tool; only the assistant can")
        extra["tool_calls"] = calls
    return extra


def _calls(fields: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the tools a turn calls; OpenAI's older `function_call` is one of them."""
    calls, old = fields.get("tool_calls"), fields.get("function_call")
    if isinstance(calls, str) and calls:
        calls = json_cell(calls, f"{where}.tool_calls")
    if not calls:
        return [_call(old, f"{where}.function_call")] if old else []
    if not isinstance(calls, list):
        raise RowError(f"{where}.tool_calls is {kind(calls)}, not a list")
    return [_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(cast("list[object]", calls))]


def _call(call: object, where: str) -> dict[str, Any]:
    """Return one call as chat templates take it: arguments as an object, not as JSON in a string."""
    if not isinstance(call, Mapping):
        raise RowError(f"{where} is {kind(call)}, not an object")
    fields = cast("Mapping[str, Any]", call)
    function = fields.get("function", fields)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise RowError(f"{where} names no function")
    arguments = cast("Mapping[str, Any]", function).get("arguments")
    if isinstance(arguments, str):
        arguments = json_cell(arguments, f"{where}'s arguments") if arguments.strip() else {}
    if arguments is not None and not isinstance(arguments, Mapping):
        raise RowError(f"{where}'s arguments are {kind(arguments)}, not an object")
    found: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": dict(cast("Mapping[str, Any]", arguments or {}))}}
    if isinstance(fields.get("id"), str):
        found = {"id": fields["id"], **found}
    sound_tree(found, where)
    return found


def _written_calls(value: object, where: str) -> list[dict[str, Any]]:
    """Read ShareGPT's function_call: a call, or a list of them, as JSON."""
    calls = json_cell(value, where) if isinstance(value, str) else value
    if not calls:
        raise RowError(f"{where} is empty")
    return [_call(call, where) for call in (cast("list[object]", calls) if isinstance(calls, list) else [calls])]


def read_tools(value: object) -> tuple[Mapping[str, Any], ...]:
    """Read the tools a row says may be called: a list of objects, or one as JSON; OpenAI's older bare functions are wrapped.

    Raises:
        RowError: It is none.
    """
    if value is None or value == "":
        return ()
    tools = json_cell(value, "tools") if isinstance(value, str) else value
    if not isinstance(tools, list):
        raise RowError(f"tools is {kind(tools)}, not a list")
    found: list[Mapping[str, Any]] = []
    for place, tool in enumerate(cast("list[object]", tools)):
        if not isinstance(tool, Mapping):
            raise RowError(f"tools[{place}] is {kind(tool)}, not an object")
        fields = cast("Mapping[str, Any]", tool)
        found.append(fields if "function" in fields or "name" not in fields else {"type": "function", "function": dict(fields)})
    sound_tree(found, "tools")
    return tuple(found)
