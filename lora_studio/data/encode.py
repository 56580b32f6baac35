"""Text to token ids and masks, many rows at a time, through the fast tokenizer's own threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lora_studio.core.errors import InputError
from lora_studio.data.template import Rendered, Span
from lora_studio.data.token_rows import Mask, TokenIds, TokenRow


class Encoder:
    """One tokenizer at work on rendered rows."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer.

        Raises:
            InputError: It is one without character offsets, which masks need.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                "The base model's tokenizer has no tokenizer.json, so answers cannot be found among its tokens.",
                "Choose a model with a tokenizer.json.", "model.name_or_path",
            )
        self._tokenizer = tokenizer
        self._backend: Any = tokenizer.backend_tokenizer
        self._lead, self._end = self._own_tokens()

    def encode(self, rows: Sequence[Rendered]) -> list[TokenRow]:
        """Encode rows whole. No special token is added to a closed row; others get the tokenizer's first and an end token."""
        self._backend.no_truncation()
        self._backend.no_padding()
        encodings = self._backend.encode_batch([row.text for row in rows], add_special_tokens=False)
        return [self._row(encoding, row) for encoding, row in zip(encodings, rows)]

    def prompt_ids(self, prompt: Rendered) -> list[int]:
        """Encode a prompt that a model is to go on from: no end token."""
        ids: list[int] = self.encode([Rendered(prompt.text, (), closed=True)])[0].input_ids.tolist()
        return ids if prompt.closed or ids[:1] == self._lead else [*self._lead, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Give the text of ids without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _row(self, encoding: Any, rendered: Rendered) -> TokenRow:
        ids: TokenIds = np.array(encoding.ids, dtype=np.int32)
        trained = _inside(encoding.offsets, rendered.spans)
        if not rendered.closed:
            ids, trained = self._close(ids, trained)
        if trained.size:
            trained[0] = False
        return TokenRow(ids, trained)

    def _close(self, ids: TokenIds, trained: Mask) -> tuple[TokenIds, Mask]:
        lead = [] if ids[:1].tolist() == self._lead else self._lead
        end = [] if ids[-1:].tolist() == self._end else self._end
        whole = np.concatenate([np.array(lead, np.int32), ids, np.array(end, np.int32)])
        return whole, np.concatenate([np.zeros(len(lead), np.bool_), trained, np.ones(len(end), np.bool_)])

    def _own_tokens(self) -> tuple[list[int], list[int]]:
        """Give what the tokenizer puts before any text by itself, and its end token."""
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        alone: list[int] = self._backend.encode("", add_special_tokens=True).ids
        lead = [begin] if begin is not None and alone[:1] == [begin] and self._adds_begin(begin) else []
        return lead, [] if end is None else [end]

    def _adds_begin(self, begin: int) -> bool:
        """Tell a begin token from an end token of the same id, which some tokenizers share."""
        return self._backend.encode("a", add_special_tokens=True).ids[:1] == [begin]


def cut(row: TokenRow, max_length: int) -> TokenRow:
    """Give a row's first `max_length` tokens."""
    return row if row.input_ids.size <= max_length else TokenRow(row.input_ids[:max_length], row.trained[:max_length])


def _inside(offsets: Sequence[Span], spans: Sequence[Span]) -> Mask:
    """Say of each token whether it starts within a span; a token across a span's start belongs to the prompt."""
    borders = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = borders[:, 0].copy(), borders[:, 1]
    # Byte-level tokenizers trim spaces off the offsets, a token of nothing but spaces down to no length at its end.
    bare = np.flatnonzero(starts == ends)
    starts[bare[bare > 0]] = ends[bare[bare > 0] - 1]
    trained = np.zeros(starts.size, dtype=np.bool_)
    for start, end in spans:
        trained |= (starts >= start) & (starts < end)
    return trained
