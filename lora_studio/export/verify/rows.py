"""The rows an artefact is compared on: the run's own held-out rows, or general text where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import StudioError
from lora_studio.core.paths import resources_folder
from lora_studio.data.prepare import prepare_data

_MOST_ROWS = 8
_MOST_TOKENS = 256


@dataclass(frozen=True)
class ComparisonRows:
    """Token ids to compare logits on.

    Attributes:
        rows: At most 8 rows of at most 256 token ids each, fewer where the vocabulary is large.
        origin: Where they came from, for the certificate.
        missed: Why they are not the held-out rows of the run, where it has some; None where they are, or there are none.
    """

    rows: tuple[tuple[int, ...], ...]
    origin: str
    missed: StudioError | None = None

    def cut(self, tokens: int) -> ComparisonRows:
        """Return the same rows with at most so many tokens each."""
        return replace(self, rows=tuple(row[:tokens] for row in self.rows))

    def within(self, vocabulary: int) -> ComparisonRows:
        """Return the same rows without tokens that a vocabulary of this size has no rows for."""
        kept = (tuple(token for token in row if token < vocabulary) for row in self.rows)
        return replace(self, rows=tuple(row for row in kept if row))

    def with_tokens(self, tokens: Sequence[int]) -> ComparisonRows:
        """Return the same rows, of which the first begins with these tokens: no text may have them."""
        first = (*tokens[: _MOST_TOKENS // 4], *(self.rows[0] if self.rows else ()))[:_MOST_TOKENS]
        return replace(self, rows=(first, *self.rows[1:])) if tokens else self


def comparison_rows(config: RunConfig | None, tokenizer: Any) -> ComparisonRows:
    """Choose the rows: held-out rows of the run where its data can still be read, else general text of our own."""
    missed: StudioError | None = None
    try:
        held_out = _held_out(config, tokenizer) if config else ()
    except StudioError as error:  # the data moved or changed since
        held_out, missed = (), error
    if held_out:
        return ComparisonRows(held_out, "held-out rows of the run")
    lines = (resources_folder() / "general_text.txt").read_text(encoding="utf-8").splitlines()
    rows = (tuple(tokenizer(line)["input_ids"][:_MOST_TOKENS]) for line in lines if len(line) > 40)
    origin = "general text" if missed is None else "general text, since the run's own rows cannot be used"
    return ComparisonRows(tuple(row for row in rows if row)[:_MOST_ROWS], origin, missed)


def _held_out(config: RunConfig, tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    evaluation = prepare_data(config.data, tokenizer, config.training.seed).evaluation
    count = min(_MOST_ROWS, len(evaluation))
    return tuple(tuple(int(token) for token in evaluation[number].input_ids[:_MOST_TOKENS]) for number in range(count))
