"""Rows of tokens as tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lora_studio.data.batching.collate import collate
from lora_studio.data.token_rows import Rows as StoredRows
from lora_studio.data.token_rows import TokenRow, end_to_end

Rows = Sequence[TokenRow] | StoredRows

_PADDING = 0
_ALIGNED = 8
"""Tokens laid end to end are filled up to a multiple: measured, products of 511 or 1,023 in bfloat16 take up to half as long again."""


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass.

    Attributes:
        input_ids: (B, T) tokens, padded on the right. A causal model's real positions never see the padding behind them, so no
            attention mask is needed.
        positions: (N,) places in the flattened B·T whose next token is trained, row by row.
        targets: (N,) those next tokens.
        counts: Trained tokens of each row, also of those laid end to end; they add up to N.
        width: Tokens of the longest of these rows.
        position_ids: (B, T) place of each token in its document; None where no row is packed.
        document_ids: (B, T) document of each token in its row, 0 on padding; None where no row is packed.
        borders: (documents + 1,) where each document, and each row's padding, begins among the B·T tokens; int32, None as above.
        longest_document: Tokens of the longest of these; 0 where no row is packed.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    counts: tuple[int, ...]
    width: int
    position_ids: Tensor | None = None
    document_ids: Tensor | None = None
    borders: Tensor | None = None
    longest_document: int = 0

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; to a graphics card it is copied from pinned memory, and nobody waits for it."""

        def moved(tensor: Tensor) -> Tensor:
            held = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
            return held.to(device, non_blocking=True)

        names = ("input_ids", "positions", "targets", "position_ids", "document_ids", "borders")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{name: moved(tensor) for name, tensor in tensors.items() if tensor is not None})


def make_batch(rows: Sequence[TokenRow], *, padding_free: bool = False) -> Batch:
    """Put rows into one batch: beside each other, padded to the longest, or `padding_free` end to end, padded to a multiple of 8."""
    if padding_free:
        batch = _padded([end_to_end(rows) if len(rows) > 1 else rows[0]], _ALIGNED)
        return replace(batch, counts=tuple(trained_count(row) for row in rows), width=_longest(rows))
    return _padded(rows)


def _longest(rows: Sequence[TokenRow]) -> int:
    return max(row.input_ids.size for row in rows)


def _padded(rows: Sequence[TokenRow], multiple: int = 1) -> Batch:
    padded = collate(rows, _PADDING, multiple)
    predicts = np.zeros_like(padded.trained)
    predicts[:, :-1] = padded.trained[:, 1:]
    positions = np.flatnonzero(predicts)
    targets = padded.input_ids.reshape(-1)[positions + 1]
    batch = Batch(
        torch.from_numpy(padded.input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(targets),
        tuple(int(count) for count in predicts.sum(axis=1)),
        _longest(rows),
    )
    length = padded.input_ids.shape[1]
    if not padded.packed and length == batch.width:  # a model may have no position for what is filled up beyond the longest row
        return batch
    borders = _borders(rows, length, multiple)
    return replace(
        batch,
        position_ids=torch.from_numpy(padded.position_ids),
        document_ids=torch.from_numpy(padded.document_ids),
        borders=torch.from_numpy(borders),
        longest_document=int(np.diff(borders).max()),
    )


def _borders(rows: Sequence[TokenRow], width: int, multiple: int) -> NDArray[np.int32]:
    """Return where documents begin among rows padded to `width`, and the number of tokens at the end.

    Padding is a document too; what only fills up a `multiple` goes with the document before it, whose tokens do not see it.
    """
    ends = ((len(row.input_ids),) if width - len(row.input_ids) >= multiple else () for row in rows)
    starts = [start * width + border for start, (row, end) in enumerate(zip(rows, ends)) for border in (0, *row.borders, *end)]
    return np.unique(np.array([*starts, len(rows) * width], dtype=np.int32))


def trained_count(row: TokenRow) -> int:
    """Count the tokens of a row that a loss is taken of: the marked ones but the first."""
    return int(row.trained[1:].sum())


def by_length(lengths: Sequence[int], most_tokens: int, most_rows: int = 64, *, alike: bool = False) -> list[list[int]]:
    """Group row numbers so that rows of like length, or `alike` in it, share a batch of at most `most_tokens` padded tokens.

    Longest first: what does not fit into memory shows at once. A row longer than the bound gets a batch of its own.
    """
    groups: list[list[int]] = []
    width = 0
    for number in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        fits = groups and len(groups[-1]) < most_rows and width * (len(groups[-1]) + 1) <= most_tokens
        if fits and not (alike and lengths[number] != width):
            groups[-1].append(number)
        else:
            groups.append([number])
            width = lengths[number]
    return groups
