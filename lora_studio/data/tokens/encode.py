"""Text to token ids and masks, many rows at a time, through the fast tokenizer's own threads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from lora_studio.core.errors import InputError
from lora_studio.data.templates.template import Rendered, Span
from lora_studio.data.token_rows import Mask, TokenBlock, TokenIds, TokenRow
from lora_studio.data.tokens.byte_borders import ByteBorders

_MOST_SPACE = 8  # tokens that are looked through for an end token
_FURTHEST_SPACE = 8  # characters; beyond them tokens are walked through


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
                "Choose a model with a tokenizer.json.",
                "model.name_or_path",
            )
        self._tokenizer = tokenizer
        self._backend: Any = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._lead, self._end = self._own_tokens()

    @staticmethod
    def identity(tokenizer: Any) -> str:
        """Return a SHA-256 of everything that decides what a tokenizer makes of a text."""
        text = f"{tokenizer.backend_tokenizer.to_str()} {tokenizer.bos_token_id} {tokenizer.eos_token_id}"
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, rows: Sequence[Rendered]) -> TokenBlock:
        """Encode rows whole. No special token is added to a closed row; others get the tokenizer's first and an end token."""
        texts = [row.text for row in rows]
        if self._borders is None:
            encodings = self._backend.encode_batch(texts, add_special_tokens=False)
            return TokenBlock.of([self._row(encoding, row) for encoding, row in zip(encodings, rows)])
        lists: list[list[int]] = [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        sizes = np.array(list(map(len, lists)), dtype=np.int64)
        flat: TokenIds = np.fromiter(chain.from_iterable(lists), np.int32, int(sizes.sum()))
        return self._told_by_bytes(rows, TokenBlock(flat, np.zeros(flat.size, np.bool_), sizes), self._borders)

    def _told_by_bytes(self, rows: Sequence[Rendered], block: TokenBlock, borders: ByteBorders) -> TokenBlock:
        """RowOffset the answers of rows encoded without offsets; rows that bytes do not tell are encoded again."""
        trained, untold = borders.masks(block.input_ids, block.sizes, [(row.text, row.spans) for row in rows])
        block = replace(block, trained=trained)
        if not untold and all(row.closed for row in rows):
            starts = np.cumsum(block.sizes) - block.sizes
            trained[starts[block.sizes > 0]] = False
            return block
        found = [self._finished(row.input_ids, row.trained, rendered) for row, rendered in zip(block.rows(), rows)]
        for number in untold:
            found[number] = self._row(self._backend.encode(rows[number].text, add_special_tokens=False), rows[number])
        return TokenBlock.of(found)

    def unended(self, block: TokenBlock) -> int:
        """Count the rows that train something and whose last trained token but for white space is no special one.

        A model learns from them not to stop.
        """
        trained = np.flatnonzero(block.trained)
        ends = np.cumsum(block.sizes)
        before = np.searchsorted(trained, np.stack([ends - block.sizes, ends]))
        last = before[1][before[1] > before[0]] - 1
        first = before[0][before[1] > before[0]]
        open_ends = np.flatnonzero(~np.isin(block.input_ids[trained[last]], self._special_ids))
        return sum(not self._ends_behind_space(block.input_ids[trained[first[row] : last[row] + 1]]) for row in open_ends.tolist())

    def _ends_behind_space(self, ids: TokenIds) -> bool:
        """Return whether white space alone stands between the last special token and the end: some marks hold the line end behind it."""
        tail = ids[-_MOST_SPACE:]
        special = np.flatnonzero(np.isin(tail, self._special_ids))
        return special.size > 0 and not self._tokenizer.decode(tail[special[-1] + 1 :].tolist()).strip()

    def encode_row(self, row: Rendered) -> TokenRow:
        """Encode one row, as `encode` does."""
        return self.encode([row]).rows()[0]

    @cached_property
    def _special_ids(self) -> list[int]:
        return [number for number, token in self._tokenizer.added_tokens_decoder.items() if token.special]

    @cached_property
    def _borders(self) -> ByteBorders | None:
        return ByteBorders.of(self._tokenizer)

    def prompt_ids(self, prompt: Rendered) -> list[int]:
        """Encode a prompt that a model is to go on from: no end token."""
        ids: list[int] = self.encode_row(Rendered(prompt.text, (), closed=True)).input_ids.tolist()
        return ids if prompt.closed or ids[:1] == self._lead else [*self._lead, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _row(self, encoding: Any, rendered: Rendered) -> TokenRow:
        return self._finished(np.array(encoding.ids, dtype=np.int32), _mask(encoding, rendered.spans), rendered)

    def _finished(self, ids: TokenIds, trained: Mask, rendered: Rendered) -> TokenRow:
        if not rendered.closed:
            ids, trained = self._close(ids, trained)
        if trained.size:
            trained[0] = False
        return TokenRow(ids, trained)

    def _close(self, ids: TokenIds, trained: Mask) -> tuple[TokenIds, Mask]:
        lead = [] if ids[:1].tolist() == self._lead else self._lead
        end = [] if self._ended(ids) else self._end
        whole = np.concatenate([np.array(lead, np.int32), ids, np.array(end, np.int32)])
        return whole, np.concatenate([np.zeros(len(lead), np.bool_), trained, np.ones(len(end), np.bool_)])

    def _ended(self, ids: TokenIds) -> bool:
        """Return whether the last token but for white space is the end token."""
        last = ids[-_MOST_SPACE:].tolist()
        ended = [place for place, token in enumerate(last) if [token] == self._end]
        return bool(ended) and not self._tokenizer.decode(last[ended[-1] + 1 :]).strip()

    def _own_tokens(self) -> tuple[list[int], list[int]]:
        """Return what the tokenizer puts before any text by itself, and its end token."""
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        alone: list[int] = self._backend.encode("", add_special_tokens=True).ids
        lead = [begin] if begin is not None and alone[:1] == [begin] and self._adds_begin(begin) else []
        return lead, [] if end is None else [end]

    def _adds_begin(self, begin: int) -> bool:
        """Tell a begin token from an end token of the same id, which some tokenizers share."""
        return self._backend.encode("a", add_special_tokens=True).ids[:1] == [begin]


def _mask(encoding: Any, spans: Sequence[Span]) -> Mask:
    """Say of each token whether it starts within a span; a token across a span's start belongs to the prompt."""
    trained = np.zeros(len(encoding), dtype=np.bool_)
    for start, end in spans:
        trained[_first_token(encoding, start) : _first_token(encoding, end)] = True
    return trained


def _first_token(encoding: Any, place: int) -> int:
    """Return the first token that starts at a character or behind it, asking only for the offsets around it."""
    count = len(encoding)
    # No token holds a space that was trimmed off it, so the next few characters are asked too.
    holders = (encoding.char_to_token(place + step) for step in range(_FURTHEST_SPACE))
    token = 0 if place <= 0 else next((holder for holder in holders if holder is not None), count)
    while token > 0 and _start(encoding, token - 1) >= place:
        token -= 1
    while token < count and _start(encoding, token) < place:
        token += 1
    return token


def _start(encoding: Any, token: int) -> int:
    start, end = encoding.token_to_chars(token) or (0, 0)
    # Byte-level tokenizers trim spaces off the offsets, a token of nothing but spaces down to no length at its end.
    if start == end and token:
        return int((encoding.token_to_chars(token - 1) or (0, 0))[1])
    return int(start)
