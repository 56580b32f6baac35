"""The formats a row may have: told by its keys, read into messages or text, and every way one can be wrong.

A row's keys decide in the order of `_SIGNS`. Pairs of other names are read as prompt and completion where nothing else in the
row could be part of the question; what is not clear is left to `data.columns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, TypeGuard, cast

from lora_studio.data.rows.conversation import check_order, read_tools, read_turns
from lora_studio.data.rows.row import Message, Row, RowError, RowFormat
from lora_studio.data.rows.values import filled, json_cell, kind, optional_text, present, sound

# Keys that tell a format by themselves.
_SIGNS: tuple[tuple[RowFormat, tuple[str, ...]], ...] = (
    ("preference", ("chosen", "rejected")),
    ("messages", ("messages",)),
    ("sharegpt", ("conversations", "conversation")),
    ("prompt_completion", ("completion",)),
    ("alpaca", ("instruction",)),
)
# Prompt and completion by other names.
_PAIRS = (
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("question", "completion"),
    ("query", "completion"),
    ("input", "completion"),
)
# With one of these beside it a question is not whole, and which way to join them nobody said.
_PARTS = frozenset({"context", "passage", "document", "choices", "options", "input", "system", "history"})
_ANSWERS = ("output", "response", "completion", "answer")
# A quick look takes no row that holds one of these.
_MEDIA_NAMES = (
    "image",
    "images",
    "image_path",
    "image_paths",
    "image_url",
    "image_urls",
    "img",
    "picture",
    "pictures",
    "video",
    "videos",
    "audio",
    "audios",
    "pixel_values",
)
# What shows or sounds; text alone is trained.
_MEDIA = frozenset({*_MEDIA_NAMES, *map(str.capitalize, _MEDIA_NAMES), *map(str.upper, _MEDIA_NAMES)})
_BESIDES = frozenset({"tools", "functions", "system", "history", "label", "kto_tag", *_MEDIA})
_ALPACA_KEYS = frozenset({"context", "response", "completion", "answer"})
_QUICK_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_LABELS: dict[object, bool] = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_LEARNED = frozenset({"messages", "sharegpt", "alpaca", "prompt_completion"})

FORMAT_COLUMNS: dict[RowFormat, tuple[str, ...]] = {
    "messages": ("messages", "tools"),
    "sharegpt": ("conversations", "system", "tools"),
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "prompt_completion": ("prompt", "completion", "tools"),
    "text": ("text",),
    "preference": ("prompt", "chosen", "rejected", "tools"),
    "unpaired_preference": ("prompt", "completion", "label", "tools"),
}
"""The keys of each format, the ones a row must have first."""
KNOWN_KEYS = frozenset(key for keys in FORMAT_COLUMNS.values() for key in keys) | {"conversation"}


def detect_format(record: object) -> tuple[RowFormat, str] | None:
    """Return a record's format by its keys, and the key or keys that told; None when they are not known or not clear."""
    if not isinstance(record, Mapping):
        return None
    fields = cast("Mapping[str, Any]", record)
    if "completion" in fields and "chosen" not in fields and _is_label(fields.get("label", "none")):
        return "unpaired_preference", "label"
    if "instruction" in fields and "completion" in fields and "prompt" not in fields:
        return "alpaca", "instruction"
    for name, keys in _SIGNS:
        for key in keys:
            if key in fields:
                return name, key
    if pair := _pair_of(fields):
        return "prompt_completion", " and ".join(pair)
    if "prompt" in fields:
        return "prompt_completion", "prompt"
    return ("text", "text") if "text" in fields else None


def parse_row(record: object, row_format: RowFormat, file: str, line: int) -> Row:
    """Read one record in a format.

    Raises:
        RowError: A key is missing, a value has the wrong type or is empty, or roles are out of order.
    """
    if not isinstance(record, Mapping):
        raise RowError(f"a row is an object with keys, this is {kind(record)}")
    fields = cast("Mapping[str, Any]", record)
    for key in ("label", "kto_tag") if row_format in _LEARNED else ():
        if str(fields.get(key)).lower() == "false":
            raise RowError(f"{key} is false: its answer is one not to learn")
    return _READERS[row_format](fields, file, line)


def refuse_unread(record: object, row_format: RowFormat) -> None:
    """Raise `RowError` where a part of the question stands in a key that the format does not read: images beside any of them.

    Not to be asked where the settings say which columns are read.
    """
    if not isinstance(record, Mapping):
        return
    fields = cast("Mapping[str, Any]", record)
    seen = next((key for key in fields if key in _MEDIA and fields[key] not in (None, "", [], {})), None)
    if seen is not None:
        raise RowError(
            f"{seen!r} stands beside the text and would be left out: text alone is trained here; to train without it, name the "
            "columns to read in data.columns"
        )
    if row_format != "prompt_completion":
        return
    unread = next((key for key in sorted(_PARTS - {"system", *_pair_keys(fields)}) if fields.get(key)), None)
    if unread:
        raise RowError(
            f"{unread!r} stands beside prompt and completion and would be left out; data.columns can say what it is, or name "
            "those two alone"
        )


def quick_key(record: object, row_format: RowFormat) -> int | None:
    """Return the `content_key` of a sound row in one of the usual shapes, without building the row; None for any other.

    The record's text must be known to be `plain`. It says a number only where `parse_row` gives a row.
    """
    parts = _quick_parts(record, row_format)
    return None if parts is None else hash(tuple(parts))


def quick_row(record: object, row_format: RowFormat, file: str, line: int) -> Row | None:
    """Return what `parse_row` gives of a sound row in one of the usual shapes, in a third of the time; None for any other.

    The record's text must be known to be `plain`.
    """
    parts = _quick_parts(record, row_format)
    if parts is None:
        return None
    if row_format == "text":
        return Row(file, line, row_format, text=parts[0])
    messages = tuple(map(Message, parts[::2], parts[1::2]))
    return Row(file, line, row_format, messages, prompt_turns=1 if row_format in ("prompt_completion", "alpaca") else 0)


def _quick_parts(record: object, row_format: RowFormat) -> list[str] | None:
    """Return the roles and texts of a sound row in one of the usual shapes, one after the other; of plain text the text alone."""
    if not isinstance(record, dict):
        return None
    fields = cast("dict[str, Any]", record)
    if row_format == "text":
        return [fields["text"]] if _is_filled(fields.get("text")) and _MEDIA.isdisjoint(fields) else None
    if not _BESIDES.isdisjoint(fields):
        return None
    if row_format == "messages":
        return _quick_turns(fields.get("messages"), "role", "content")
    if row_format == "sharegpt":
        return _quick_turns(fields.get("conversations"), "from", "value")
    if row_format == "prompt_completion" and _PARTS.isdisjoint(fields):
        return _quick_pair(fields.get("prompt"), fields.get("completion"))
    if row_format == "alpaca" and fields.get("input") in ("", None) and _ALPACA_KEYS.isdisjoint(fields):
        return _quick_pair(fields.get("instruction"), fields.get("output"))
    return None


def _quick_turns(turns: object, said_role: str, said: str) -> list[str] | None:
    if type(turns) is not list or not turns:
        return None
    parts: list[str] = []
    due = "user"
    for turn in cast("list[Any]", turns):
        if type(turn) is not dict or len(turn) != 2:
            return None
        name, content = turn.get(said_role), turn.get(said)
        if type(name) is not str or not _is_filled(content):
            return None
        role = _QUICK_ROLES.get(name)
        if role is None:
            return None
        if role == due:
            due = "assistant" if due == "user" else "user"
        elif role != "system" or parts:
            return None
        parts += (role, content)
    return parts if due == "user" and len(parts) > 2 else None


def _quick_pair(question: Any, answer: Any) -> list[str] | None:
    return ["user", question, "assistant", answer] if _is_filled(question) and _is_filled(answer) else None


def _is_filled(text: object) -> TypeGuard[str]:
    return type(text) is str and bool(text) and not text.isspace()


def _messages(fields: Mapping[str, Any], file: str, line: int) -> Row:
    return _chat(fields, "messages", "messages", file, line)


def _sharegpt(fields: Mapping[str, Any], file: str, line: int) -> Row:
    key = "conversations" if "conversations" in fields or "conversation" not in fields else "conversation"
    return _chat(fields, key, "sharegpt", file, line)


def _chat(fields: Mapping[str, Any], key: str, row_format: RowFormat, file: str, line: int) -> Row:
    turns = read_turns(present(fields, key), key)
    check_order(turns, key)
    return Row(file, line, row_format, _with_system(fields, turns), tools=_tools(fields))


def _alpaca(fields: Mapping[str, Any], file: str, line: int) -> Row:
    answer_key = next((key for key in _ANSWERS if key in fields), "output")
    extra_key = "context" if fields.get("context") and not fields.get("input") else "input"
    instruction, answer = filled(fields, "instruction"), filled(fields, answer_key)
    extra = optional_text(fields, extra_key)
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages = _with_system(fields, (*_history(fields.get("history")), Message("user", question), Message("assistant", answer)))
    return Row(file, line, "alpaca", messages, prompt_turns=len(messages) - 1)


def _history(value: object) -> tuple[Message, ...]:
    """Read earlier turns: a list of question and answer in pairs."""
    pairs = json_cell(value, "history") if isinstance(value, str) and value else value
    if not pairs:
        return ()
    if not isinstance(pairs, list):
        raise RowError(f"history is {kind(pairs)}, not a list")
    turns: list[Message] = []
    for place, pair in enumerate(cast("list[object]", pairs)):
        said = cast("list[object]", pair) if isinstance(pair, list) else []
        if len(said) != 2 or not all(isinstance(text, str) and text.strip() for text in said):
            raise RowError(f"history[{place}] is no pair of question and answer")
        question, answer = cast("list[str]", said)
        turns += (Message("user", sound(question, f"history[{place}]")), Message("assistant", sound(answer, f"history[{place}]")))
    return tuple(turns)


def _prompt_completion(fields: Mapping[str, Any], file: str, line: int) -> Row:
    prompt_key, answer_key = _pair_keys(fields)
    prompt = _prompt(fields, prompt_key)
    messages = (*prompt, *_answer(fields, answer_key))
    check_order(messages, answer_key)
    return Row(file, line, "prompt_completion", messages, tools=_tools(fields), prompt_turns=len(prompt))


def _text(fields: Mapping[str, Any], file: str, line: int) -> Row:
    return Row(file, line, "text", text=filled(fields, "text"))


def _preference(fields: Mapping[str, Any], file: str, line: int) -> Row:
    chosen, rejected = _answer(fields, "chosen"), _answer(fields, "rejected")
    prompt = _prompt(fields, "prompt") if fields.get("prompt") is not None else ()
    if chosen[0].role != "assistant":
        shared = tuple(pair[0] for pair in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected)))
        prompt = _with_system(fields, shared) if shared else ()
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
    if not prompt:
        present(fields, "prompt")
        raise RowError("chosen and rejected share no prompt")
    if not chosen or not rejected:
        raise RowError("chosen and rejected are the same, or one ends where the other goes on")
    check_order((*prompt, *chosen), "chosen")
    check_order((*prompt, *rejected), "rejected")
    return Row(file, line, "preference", (*prompt, *chosen), tools=_tools(fields), prompt_turns=len(prompt), rejected=rejected)


def _unpaired_preference(fields: Mapping[str, Any], file: str, line: int) -> Row:
    prompt = _prompt(fields, "prompt")
    messages = (*prompt, *_answer(fields, "completion"))
    check_order(messages, "completion")
    label = present(fields, "label")
    if not _is_label(label):
        raise RowError(f"label is {label!r}; it can be true or false")
    return Row(
        file, line, "unpaired_preference", messages, tools=_tools(fields), prompt_turns=len(prompt), label=_LABELS[str(label).lower()]
    )


_READERS = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "text": _text,
    "preference": _preference,
    "unpaired_preference": _unpaired_preference,
}


def _pair_keys(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return the keys of prompt and completion, which may have other names."""
    usual = ("prompt", "completion")
    return usual if usual[0] in fields and usual[1] in fields else _pair_of(fields) or usual


def _pair_of(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the two keys that are prompt and completion by other names; None when more than one pair could be, or none."""
    found = [pair for pair in _PAIRS if pair[0] in fields and pair[1] in fields]
    if len(found) != 1 or any(fields.get(key) for key in _PARTS - set(found[0])):
        return None
    return found[0]


def _with_system(fields: Mapping[str, Any], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put a system text that stands beside the turns before them, unless they have their own."""
    system = optional_text(fields, "system")
    return (Message("system", system), *turns) if system.strip() and turns[0].role != "system" else turns


def _prompt(fields: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    turns = read_turns(fields[key], key) if isinstance(present(fields, key), list) else (Message("user", filled(fields, key)),)
    return _with_system(fields, turns)


def _answer(fields: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    return read_turns(fields[key], key) if isinstance(present(fields, key), list) else (Message("assistant", filled(fields, key)),)


def _tools(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools = fields.get("tools")
    return read_tools(fields.get("functions") if tools is None else tools)


def _is_label(value: object) -> bool:
    return value is None or str(value).lower() in _LABELS
