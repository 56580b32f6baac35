"""What llama.cpp has to split texts into: a GGUF file whose weights are right may still carry another way to make tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ORDINARY = (
    "They'll come at 12:30; she's paid 12.345,67 € on 2025-04-03.",
    "Grüße aus Köln: ÄÖÜ, naïve café, señor, Привет мир, 你好，世界。",
    "def f(x):\n    return [y**2 for y in x]  # squares\n\n\tEND",
)


@dataclass(frozen=True)
class TokenProbe:
    """One text, and what it should become.

    Attributes:
        text: The text; special tokens are written out in it.
        with_special: Whether the tokens that a tokenizer puts before or after every text are wanted too.
        expected: Token ids.
    """

    text: str
    with_special: bool
    expected: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what llama.cpp is asked."""
        return {"text": self.text, "with_special": self.with_special}


def token_probes(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[TokenProbe]:
    """Choose texts: those of rows, and ordinary ones whose letters, digits, spaces and marks tokenizers split differently.

    Args:
        tokenizer: The model's.
        rows: Token ids.
    """
    texts = [str(tokenizer.decode(list(row), clean_up_tokenization_spaces=False)) for row in rows]
    wanted = [(text, False) for text in (*texts, *_ORDINARY)] + [(_ORDINARY[0], True)]
    return [TokenProbe(text, special, tuple(tokenizer(text, add_special_tokens=special)["input_ids"])) for text, special in wanted]
