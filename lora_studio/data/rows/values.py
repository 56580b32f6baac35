"""Values of a row: whether they are text, and text that every tokenizer can take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lora_studio.data.json_text import parse_json
from lora_studio.data.rows.row import RowError

_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
}


def kind(value: object) -> str:
    """Say in words what a value is."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def present(fields: Mapping[str, Any], key: str) -> Any:
    """Return what stands under a key.

    Raises:
        RowError: Nothing does.
    """
    value = fields.get(key)
    if value is None:
        raise RowError(f"{key} is null" if key in fields else f"the row has no {key!r}{_other_keys(fields)}")
    return value


def filled(fields: Mapping[str, Any], key: str) -> str:
    """Return the text under a key.

    Raises:
        RowError: There is none, or it is empty, or no text.
    """
    value = present(fields, key)
    if not isinstance(value, str):
        raise RowError(f"{key} is {kind(value)}, not text")
    if not value or value.isspace():
        raise RowError(f"{key} is empty")
    return sound(value, key)


def optional_text(fields: Mapping[str, Any], key: str) -> str:
    """Return the text under a key, empty where nothing stands there.

    Raises:
        RowError: It is no text.
    """
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise RowError(f"{key} is {kind(value)}, not text")
    return sound(value, key) if value else ""


def sound(text: str, where: str) -> str:
    """Refuse what JSON's escapes can spell and no tokenizer should be given: half a surrogate pair, a NUL.

    Raises:
        RowError: The text holds one.
    """
    if "\0" in text:
        raise RowError(f"{where} holds a NUL character at character {text.index(chr(0))}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(f"{where} holds half a surrogate pair at character {error.start}") from error
    return text


def sound_tree(value: object, where: str) -> None:
    """Refuse the same in any text of a tree of values, and numbers that JSON cannot write.

    Raises:
        RowError: The tree holds one.
    """
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise RowError(f"{where} cannot be written as JSON: {error}") from error
    sound(written.replace("\\u0000", "\0"), where)


def json_cell(text: str, where: str) -> object:
    """Read a value that is JSON within a text, as cells of tables hold lists.

    Raises:
        RowError: It is not JSON, or names a key twice.
    """
    value, fault = parse_json(text)
    if fault:
        raise RowError(f"{where} is not JSON: {fault.removeprefix('not JSON: ')}")
    return value


def _other_keys(fields: Mapping[str, Any]) -> str:
    keys = ", ".join(map(repr, list(fields)[:6]))
    return f"; its keys are {keys}" if keys else ""
