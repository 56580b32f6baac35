"""`rank_pattern` and `alpha_pattern`: regular expressions on module names, of which the first that matches wins.

Source: `get_pattern_key` in `peft.utils.other`. PEFT saves them sorted, so overlapping ones mean something else once reloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from lora_studio.core.errors import InputError

Number = TypeVar("Number", int, float)

_LITERAL = re.compile(r"(?:[\w-]|\\[^\w\s])+\Z")


class PatternTable(Generic[Number]):
    """Patterns in their order, quick to ask for many names."""

    def __init__(self, patterns: Mapping[str, Number], field: str) -> None:
        """Read the patterns.

        Raises:
            InputError: A key is no regular expression; `field` is the setting named in it.
        """
        self.values = dict(patterns)
        self._literals: dict[str, tuple[int, str]] = {}
        self._expressions: list[tuple[int, str, re.Pattern[str]]] = []
        for order, key in enumerate(self.values):
            if _LITERAL.match(key):
                self._literals.setdefault(re.sub(r"\\(.)", r"\1", key), (order, key))
            else:
                self._expressions.append((order, key, _compiled(key, field)))

    def key_for(self, name: str) -> str | None:
        """Return the first key that matches `name`, or None."""
        best = self._literal_for(name)
        for order, key, expression in self._expressions:
            if best is not None and order > best[0]:
                break
            if expression.match(name):
                return key
        if best is not None:
            return best[1]
        return name if name in self.values else None

    def keys_for(self, name: str) -> list[str]:
        """Return every key that matches `name`."""
        literal = (self._literals[end][1] for end in _endings(name) if end in self._literals)
        return [*literal, *(key for _, key, expression in self._expressions if expression.match(name))]

    def lookup(self, default: Number) -> Callable[[str], Number]:
        """Return the function from a name to its value."""
        if not self.values:
            return lambda _name: default

        def value_of(name: str) -> Number:
            key = self.key_for(name)
            return default if key is None else self.values[key]

        return value_of

    def _literal_for(self, name: str) -> tuple[int, str] | None:
        if not self._literals:
            return None
        return min((self._literals[end] for end in _endings(name) if end in self._literals), default=None)


def changed_by_sorting(patterns: Mapping[str, Number], names: Iterable[str], field: str) -> str | None:
    """Name a module whose value changes when the patterns are sorted, as PEFT does on saving; None when there is none."""
    if len(patterns) < 2:
        return None
    given = PatternTable(patterns, field)
    saved = PatternTable(dict(sorted(patterns.items())), field)
    return next((name for name in names if _value(given, name) != _value(saved, name)), None)


def unused_patterns(patterns: Mapping[str, Number], names: Iterable[str], field: str) -> list[str]:
    """Return the keys that match none of `names`."""
    table = PatternTable(patterns, field)
    used = {key for name in names for key in table.keys_for(name)} if patterns else set()
    return [key for key in patterns if key not in used]


def _value(table: PatternTable[Number], name: str) -> Number | None:
    key = table.key_for(name)
    return None if key is None else table.values[key]


def _compiled(key: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        message = f"{field}: {key!r} is no regular expression: {error}."
        raise InputError(message, "Escape special characters, or name the module plainly.", field) from error


def _endings(name: str) -> Iterable[str]:
    yield name
    start = name.find(".")
    while start >= 0:
        yield name[start + 1 :]
        start = name.find(".", start + 1)
