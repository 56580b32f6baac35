"""Columns by other names: read as the settings say, and a suggestion where they say nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.rows.formats import KNOWN_KEYS
from lora_studio.data.rows.row import RowError

_NEEDED = frozenset({"messages", "conversations", "instruction", "output", "prompt", "completion", "text", "chosen", "rejected", "label"})

# What people call our keys, the likeliest first; case, spaces, dots, dashes and underscores do not matter.
_NAMES: dict[str, tuple[str, ...]] = {
    "messages": (
        "messages",
        "conversations",
        "conversation",
        "dialogue",
        "dialog",
        "dialogs",
        "dialogues",
        "chat",
        "chats",
        "turns",
        "chathistory",
        "msgs",
    ),
    "prompt": (
        "prompt",
        "question",
        "query",
        "instruction",
        "instructions",
        "user",
        "human",
        "userprompt",
        "usermessage",
        "request",
        "problem",
        "ask",
        "q",
        "input",
        "inputs",
        "source",
        "title",
        "post",
        "context",
    ),
    "completion": (
        "completion",
        "answer",
        "response",
        "output",
        "assistant",
        "gpt",
        "reply",
        "bestanswer",
        "assistantresponse",
        "assistantmessage",
        "modelanswer",
        "generation",
        "solution",
        "result",
        "a",
        "outputs",
        "target",
        "targets",
        "label",
        "summary",
        "answers",
        "code",
    ),
    "chosen": ("chosen", "preferred", "winner", "accepted", "better", "good", "chosenresponse", "positive"),
    "rejected": ("rejected", "dispreferred", "loser", "worse", "bad", "rejectedresponse", "negative"),
    "text": ("text", "content", "body", "document", "article", "passage", "markdown", "raw", "sentence", "story"),
    "system": ("system", "systemprompt", "systemmessage", "persona"),
    "input": ("input", "context", "passage", "document", "background"),
    "tools": ("tools", "functions"),
}


def check_columns(settings: DataSettings) -> None:
    """Refuse a mapping of a key that no format has.

    Raises:
        InputError: There is one.
    """
    unknown = [key for key in settings.columns if key not in KNOWN_KEYS]
    if unknown:
        raise InputError(
            f"data.columns names {', '.join(map(repr, unknown))}, which no format has.",
            f"Known are {', '.join(sorted(KNOWN_KEYS))}; behind each stands the name of a column.",
            "data.columns",
        )


def renamed(record: object, columns: Mapping[str, str]) -> object:
    """Return a record under our keys: `columns` says which of its own each is. Keys that are in no mapping stay.

    Raises:
        RowError: A column is missing that its format cannot do without.
    """
    if not isinstance(record, Mapping):
        return record
    fields = cast("Mapping[str, Any]", record)
    for ours, theirs in columns.items():
        if theirs not in fields and ours in _NEEDED:
            raise RowError(f"the row has no {theirs!r}, the column that is {ours}; its keys are {', '.join(map(repr, list(fields)[:6]))}")
    taken = set(columns.values())
    kept = {key: value for key, value in fields.items() if key not in taken and key not in columns}
    return {**{ours: fields.get(theirs) for ours, theirs in columns.items()}, **kept}


def suggest_columns(names: Iterable[str]) -> dict[str, str]:
    """Suggest which of these columns are which of our keys, as `data.columns` holds them; empty when nothing fits.

    Example: `suggest_columns(["id", "Question", "Best Answer"])` is `{"prompt": "Question", "completion": "Best Answer"}`.
    """
    columns = {_bare(name): name for name in reversed(list(names))}
    found = _chosen_of(columns, "messages", "tools")
    if "messages" in found:
        return found
    if {"chosen", "rejected"} <= (pair := _chosen_of(columns, "chosen", "rejected")).keys():
        return {**_chosen_of(columns, "prompt"), **pair}
    asked = _chosen_of(columns, "prompt", "completion")
    if len(asked) == 2:
        rest = {bare: name for bare, name in columns.items() if name not in asked.values()}
        extra = _chosen_of(rest, "input")
        if extra:
            return {"instruction": asked["prompt"], **extra, "output": asked["completion"], **_chosen_of(rest, "system")}
        return {**asked, **_chosen_of(rest, "system")}
    return _chosen_of(columns, "text") or _lone_column(columns)


def _chosen_of(columns: Mapping[str, str], *keys: str) -> dict[str, str]:
    """Return the likeliest column for each key; none is taken twice."""
    found: dict[str, str] = {}
    for key in keys:
        name = next((columns[name] for name in _NAMES[key] if name in columns and columns[name] not in found.values()), None)
        if name is not None:
            found[key] = name
    return found


def _lone_column(columns: Mapping[str, str]) -> dict[str, str]:
    return {"text": next(iter(columns.values()))} if len(columns) == 1 else {}


def _bare(name: str) -> str:
    return re.sub(r"[\s_.\-]+", "", name).lower()
