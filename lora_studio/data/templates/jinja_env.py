"""Jinja as chat templates know it: transformers' names, filters and generation marks, in the sandbox. Light: jinja2 alone.

The rules are transformers' own (`apply_chat_template`), kept here because a child that renders must not import transformers.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn, Self

from jinja2 import TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from lora_studio.data.templates.prefix_stable import goes_forward

Span = tuple[int, int]
REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names under which a turn's thoughts are given."""
GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""What a template is given by whoever renders it: no variables of its own."""
_MOST_VALUES = 6  # of a variable that are worth a try
# What cannot be guessed cannot be written into a row to look like a mark.
_KEY = secrets.token_hex(8)
_OPEN, _CLOSE = f"\x00{_KEY}[", f"\x00{_KEY}]"
_MARK = re.compile(f"\x00{_KEY}([\\[\\]])")
_HAS_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class GenerationMarks(Extension):
    """`{% generation %}…{% endgeneration %}` around what the model says; the marks leave signs in the text while `marking`."""

    tags = {"generation"}
    marking = False

    def parse(self, parser: Parser) -> Node:
        """Read the block up to its end; what it holds is rendered by `_said`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}" if self.marking else caller()


class CompiledTemplate:
    """One chat template, ready to render."""

    def __init__(self, text: str, special_tokens: Mapping[str, Any], variables: Mapping[str, Any] | None = None) -> None:
        """Compile a template.

        Args:
            text: The Jinja source.
            special_tokens: The tokenizer's, by name, such as `bos_token`.
            variables: Values of the template's own variables, such as `enable_thinking`.

        Raises:
            jinja2.TemplateSyntaxError: It cannot be read.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationMarks, loopcontrols])
        environment.filters["tojson"] = _to_json
        known: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now, "dict": _Dictionary(), "namespace": _namespace}
        for name, value in known.items():
            environment.globals[name] = value
        marks = environment.extensions[GenerationMarks.identifier]
        assert isinstance(marks, GenerationMarks)
        self._marks = marks
        self._template = environment.from_string(text)
        self._names = {**special_tokens, **(variables or {})}
        tree = environment.parse(text)
        self.forward = goes_forward(tree)
        self.marked = bool(_HAS_MARKS.search(text))
        own = meta.find_undeclared_variables(tree) - GIVEN - set(special_tokens) - set(environment.globals)
        self.variables = {name: _values_tried(tree, name) for name in sorted(own)}
        self.text = text

    def given(self, variables: Mapping[str, Any]) -> Self:
        """Return the same template with other values of some of its variables."""
        other = copy.copy(self)
        other._names = {**self._names, **variables}
        return other

    def fill(self, messages: list[dict[str, Any]], tools: list[Any] | None, *, opened: bool = False) -> str:
        """Render a conversation; `opened` adds the opening of the answer that is due."""
        turns = [_with_reasoning(message) for message in messages]
        return self._template.render(messages=turns, tools=tools, documents=None, add_generation_prompt=opened, **self._names)

    def fill_marked(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> tuple[str, list[Span]]:
        """Render a conversation, with the start and end of each stretch that stands between generation marks."""
        self._marks.marking = True
        try:
            text = self.fill(messages, tools)
        finally:
            self._marks.marking = False
        return _part_marks(text)


def _part_marks(marked: str) -> tuple[str, list[Span]]:
    """Take the signs out of a text and say where they stood."""
    pieces = _MARK.split(marked)
    spans: list[Span] = []
    place = start = 0
    for piece, sign in zip(pieces[::2], [*pieces[1::2], ""]):
        place += len(piece)
        if sign == "[":
            start = place
        elif sign:
            spans.append((start, place))
    return "".join(pieces[::2]), spans


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return a turn's reasoning under the names that templates ask for."""
    said = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if said is None else {"thinking": said, **message, "reasoning_content": said}


def _values_tried(tree: nodes.Template, name: str) -> list[Any]:
    """Return what a variable may be set to: the values a template compares it with, and yes and no."""
    values: list[Any] = []
    for test in tree.find_all(nodes.Compare):
        if isinstance(test.expr, nodes.Name) and test.expr.name == name:
            found = [value for operand in test.ops for value in operand.expr.find_all(nodes.Const)]
            found += [operand.expr for operand in test.ops if isinstance(operand.expr, nodes.Const)]
            values += [const.value for const in found if isinstance(const.value, str | int | bool)]
    return list(dict.fromkeys([*values, False, True]))[:_MOST_VALUES] if values != [] else [False, True]


class TemplateRefusalError(TemplateError):
    """What a template says by `raise_exception`, in its author's words."""


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusalError(message)


def _now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as it is: jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dictionary:
    """`dict` for templates, without the class itself and what hangs on it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """A namespace no name of which begins with an underscore: those reach into Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    values = dict(*args, **kwargs)
    for name in values:
        _check_name(name)
    return _Namespace(values)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: the name begins with an underscore")
