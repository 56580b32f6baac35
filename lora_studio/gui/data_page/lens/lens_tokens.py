"""The tokens of one row as the lens shows them: id, text, and what becomes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lora_studio.gui.platform.text import tr

STATES = ("trained", "context", "cut", "padding")
# White space and what has no shape of its own, as signs that have one.
_SIGNS = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", "\x00": "␀", "\xa0": "⍽", "\u200b": "·", "\u200d": "·", "\ufeff": "·"})


@dataclass(frozen=True)
class LensTokens:
    """Tokens of a row, in order.

    Attributes:
        ids: Their numbers in the vocabulary.
        texts: What each stands for.
        states: `trained`, `context`, `cut` or `padding`, one a token.
    """

    ids: Sequence[int] = ()
    texts: Sequence[str] = ()
    states: Sequence[str] = ()

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    @cached_property
    def counts(self) -> Counter[str]:
        """Tokens by state."""
        return Counter(self.states)

    @property
    def summary(self) -> str:
        """How many tokens there are of each state, as a sentence."""
        parts = [f"{self.counts[state]:,} {state_name(state)}" for state in STATES if self.counts[state]]
        return tr("{count} tokens: {parts}", count=f"{len(self):,}", parts=", ".join(parts))

    def shown(self, place: int) -> str:
        """Return a token's text with signs for what cannot be seen; a token of spaces alone shows how many."""
        text = self.texts[place]
        return ("␣" * len(text) if text and not text.strip(" ") else text.translate(_SIGNS)) or "∅"

    def told(self, place: int) -> str:
        """Say all about a token."""
        return tr(
            "token {place} of {count} · id {id} · {text} · {state}",
            place=f"{place + 1:,}",
            count=f"{len(self):,}",
            id=self.ids[place],
            text=repr(self.texts[place]),
            state=state_name(self.states[place]),
        )


def state_name(state: str) -> str:
    """Name a state as people read it."""
    return {"trained": tr("trained"), "context": tr("context"), "cut": tr("cut off"), "padding": tr("padding")}[state]
