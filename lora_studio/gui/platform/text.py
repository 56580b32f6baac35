"""The one function all text of the window passes through.

Text is its own message id, in English. A translation is a mapping from it; none ships yet, and adding one touches
nothing but `use_translation`.
"""

from __future__ import annotations

from collections.abc import Mapping

_messages: Mapping[str, str] = {}


def use_translation(messages: Mapping[str, str]) -> None:
    """Take a mapping of English text to another language's; text it lacks stays English."""
    global _messages
    _messages = messages


def tr(text: str, /, **fields: object) -> str:
    """Return text in the person's language, its `{fields}` filled in.

    Args:
        text: English text, the message id; written as a literal so that it can be collected.
        fields: Values for the `{names}` in it.
    """
    message = _messages.get(text, text)
    return message.format(**fields) if fields else message
