"""In which shape a template wants what a row says: content as text or as parts, arguments as an object or as JSON text, and so on.

A row is read into one shape (`conversation`). What another template wants is found by trying, once for each template, with words
that can stand in no template. Light: runs in the child that renders.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError

from lora_studio.data.templates.jinja_env import REASONING, CompiledTemplate

Turns = list[dict[str, Any]]
FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What rendering may raise."""
OF_A_TRIAL = (*FAILURES, MemoryError)
"""What a template may raise where it is only tried out on other turns than a row's: the row is not refused for it."""


def stand_in() -> str:
    """Return a word that stands nowhere else: letters and digits alone, so that nothing escapes it."""
    return f"q{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Shape:
    """What a template is handed.

    Attributes:
        parts: Content as a list of parts, each with `type` and `text`.
        written: Arguments of calls as JSON text.
        null: Content of turns that say nothing as null.
        thought: Thoughts as a part of the content before the answer.
    """

    parts: bool = False
    written: bool = False
    null: bool = False
    thought: bool = False

    def of(self, messages: Turns) -> Turns:
        """Return turns in this shape; those in the shape they are read in are not copied."""
        return messages if self == Shape() else [self._turn(message) for message in messages]

    def _turn(self, message: dict[str, Any]) -> dict[str, Any]:
        turn = dict(message)
        content = turn.get("content")
        if self.null and not content and turn.get("tool_calls"):
            turn["content"] = None
        elif isinstance(content, str):
            thought = next((turn[key] for key in REASONING if turn.get(key)), "") if self.thought else ""
            if thought:
                turn["content"] = [{"type": "thinking", "thinking": thought}, *([{"type": "text", "text": content}] if content else [])]
            elif self.parts:
                turn["content"] = [{"type": "text", "text": content}]
        if self.written and turn.get("tool_calls"):
            turn["tool_calls"] = [_written(call) for call in turn["tool_calls"]]
        return turn


def _written(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def shape_of(template: CompiledTemplate) -> Shape:
    """Find the shape a template wants; the one rows are read in where it writes that, or writes no shape."""
    shape = next((tried for tried in (Shape(), Shape(parts=True)) if _takes_text(template, tried)), Shape())
    shape = next((tried for tried in _for_calls(shape) if _takes_calls(template, tried)), shape)
    if _takes_thought(template, shape):
        return shape
    return next((tried for tried in (replace(shape, thought=True),) if _takes_thought(template, tried)), shape)


def _for_calls(shape: Shape) -> Iterator[Shape]:
    for null in (False, True):
        for written in (False, True):
            yield replace(shape, written=written, null=null)


def _takes_text(template: CompiledTemplate, shape: Shape) -> bool:
    asked, said = stand_in(), stand_in()
    text = _tried(template, shape, [{"role": "user", "content": asked}, {"role": "assistant", "content": said}])
    # A template that turns a list into text writes Python's brackets around it.
    return asked in text and said in text and "'text'" not in text


def _takes_calls(template: CompiledTemplate, shape: Shape) -> bool:
    value, other, tool = (
        stand_in(),
        stand_in(),
        {
            "type": "function",
            "function": {
                "name": "look",
                "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": "What."}}, "required": ["at"]},
                "description": "Looks.",
            },
        },
    )
    call = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": {"at": value, "or": {"in": [other]}}}}
    turns: Turns = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text = _tried(template, shape, turns, [tool])
    # An object that was turned into text as it is stands in Python's quotation marks, one that was written twice in escaped ones.
    return value in text and f"'{value}'" not in text and f'\\"{value}' not in text


def _takes_thought(template: CompiledTemplate, shape: Shape) -> bool:
    thought, said = stand_in(), stand_in()
    turns: Turns = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": said, "reasoning_content": thought}]
    text = _tried(template, shape, turns)
    # A template that does not know the part writes it down as an object.
    return thought in text and said in text and f"'{thought}'" not in text and '"thinking"' not in text


def _tried(template: CompiledTemplate, shape: Shape, turns: Turns, tools: list[Any] | None = None) -> str:
    try:
        return template.fill(shape.of(turns), tools)
    except OF_A_TRIAL:
        return ""
