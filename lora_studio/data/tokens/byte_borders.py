"""Where tokens begin, told from their lengths in bytes: a byte-level tokenizer then need not keep offsets, a third of its work.

Every character of a byte-level token stands for one byte, so the tokens of a text lie side by side over its UTF-8. Where their lengths
do not add up to the text's (a token that swallows space beside it, say), the row is told from offsets instead.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from lora_studio.data.templates.jinja_env import Span
from lora_studio.data.token_rows import Mask, Numbers, TokenIds

_SPACE = "Ġ"  # a space in a byte-level vocabulary


class ByteBorders:
    """The byte lengths of one tokenizer's tokens."""

    def __init__(self, lengths: Numbers, spaces: Numbers, *, composes: bool, trims: bool) -> None:
        """Take what a tokenizer does.

        Args:
            lengths: Bytes of each token, shape (vocabulary,).
            spaces: How many of them are leading spaces.
            composes: Whether text is composed (NFC) first.
            trims: Whether its offsets leave out spaces.
        """
        self._lengths = lengths
        self._spaces = spaces
        self._composes = composes
        self._trims = trims

    @classmethod
    def of(cls, tokenizer: Any) -> ByteBorders | None:
        """Look at a fast tokenizer; None where its tokens do not lie side by side over a text's bytes."""
        backend: Any = tokenizer.backend_tokenizer
        splitting = [part for part in _parts(backend.pre_tokenizer) if part["type"] == "ByteLevel"]
        normalizers = {part["type"] for part in _parts(backend.normalizer)}
        if type(backend.model).__name__ != "BPE" or not splitting or normalizers - {"NFC"}:
            return None
        if any(part["add_prefix_space"] for part in splitting):
            return None
        trims = any(part["type"] == "ByteLevel" and part["trim_offsets"] for part in _parts(backend.post_processor))
        vocabulary = cast("dict[str, int]", backend.get_vocab(with_added_tokens=True))
        added = {int(number): len(str(token).encode()) for number, token in tokenizer.added_tokens_decoder.items()}
        lengths = np.zeros(max(vocabulary.values(), default=0) + 1, dtype=np.int64)
        spaces = np.zeros_like(lengths)
        for token, number in vocabulary.items():
            lengths[number] = added.get(number) or len(token)
            if number not in added and token.startswith(_SPACE):
                spaces[number] = len(token) - len(token.lstrip(_SPACE))
        return cls(lengths, spaces, composes=bool(normalizers), trims=trims)

    def masks(self, ids: TokenIds, sizes: Numbers, rows: Sequence[tuple[str, Sequence[Span]]]) -> tuple[Mask, list[int]]:
        """Say of each token of a block of rows whether it starts within a span of characters of its row.

        Args:
            ids: Tokens of all rows, one row after the other, shape (tokens,).
            sizes: How many each row has, shape (rows,).
            rows: Text and spans of each row.

        Returns:
            The mask, shape (tokens,), and the numbers of the rows of which bytes do not tell.
        """
        lengths = self._lengths[ids]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        if self._trims:  # offsets begin past leading spaces; a token of nothing but spaces keeps its place
            starts += np.where(self._spaces[ids] < lengths, self._spaces[ids], 0)
        row_ends = np.concatenate([[0], ends])[np.cumsum(sizes)].tolist()
        borders: list[int] = []
        untold: list[int] = []
        for number, ((text, spans), begin, end) in enumerate(zip(rows, [0, *row_ends], row_ends)):
            if end - begin == _bytes_before(text, len(text)) and not (self._composes and not unicodedata.is_normalized("NFC", text)):
                borders += [begin + _bytes_before(text, place) for span in spans for place in span]
            else:
                untold.append(number)
        trained = np.zeros(ids.size, dtype=np.bool_)
        places = np.searchsorted(starts, borders).tolist()
        for first, last in zip(places[::2], places[1::2]):
            trained[first:last] = True
        return trained, untold


def _bytes_before(text: str, place: int) -> int:
    """Return the place in a text's UTF-8 of one of its characters."""
    return place if text.isascii() else len(text[:place].encode())


def _parts(component: Any) -> Iterator[dict[str, Any]]:
    """Return the settings of a tokenizer's component; by itself, since the whole tokenizer as JSON has its vocabulary too."""
    yield from _flat(None if component is None else json.loads(component.__getstate__()))


def _flat(part: Any) -> Iterator[dict[str, Any]]:
    """Return a tokenizer's part, or the parts of a sequence of them."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for key in ("pretokenizers", "normalizers", "processors"):
        for inner in part.get(key, ()):
            yield from _flat(inner)
