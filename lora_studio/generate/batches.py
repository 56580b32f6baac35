"""Rows of tokens as tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lora_studio.data.collate import collate
from lora_studio.data.token_rows import Rows as StoredRows
from lora_studio.data.token_rows import TokenRow, end_to_end

Rows = Sequence[TokenRow] | StoredRows

_PADDING = 0


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass.

    Attributes:
        input_ids: (B, T) tokens, padded on the right. A causal model's real positions never see the padding behind them, so no
            attention mask is needed.
        positions: (N,) places in the flattened B·T whose next token is trained, row by row.
        targets: (N,) those next tokens.
        counts: Trained tokens of each row, also of those laid end to end; they add up to N.
        position_ids: (B, T) place of each token in its document; None where no row is packed.
        document_ids: (B, T) document of each token in its row, 0 on padding; None where no row is packed.
        borders: (documents + 1,) where each document, and each row's padding, begins among the B·T tokens; int32, None as above.
        longest_document: Tokens of the longest of these; 0 where no row is packed.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    counts: tuple[int, ...]
    position_ids: Tensor | None = None
    document_ids: Tensor | None = None
    borders: Tensor | None = None
    longest_document: int = 0

    @property
    def width(self) -> int:
        """Tokens of its longest row."""
        return self.input_ids.shape[1] if len(self.counts) == self.input_ids.shape[0] else self.longest_document

    def to(self, device: torch.device) -> Batch:
        """Give the batch on `device`; to a graphics card it is copied from pinned memory, and nobody waits for it."""

        def moved(tensor: Tensor) -> Tensor:
            held = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
            return held.to(device, non_blocking=True)

        packed = [None if ids is None else moved(ids) for ids in (self.position_ids, self.document_ids, self.borders)]
        return Batch(
            moved(self.input_ids), moved(self.positions), moved(self.targets), self.counts, packed[0], packed[1], packed[2],
            self.longest_document)


def make_batch(rows: Sequence[TokenRow], *, joined: bool = False) -> Batch:
    """Put rows into one batch: beside each other, padded to the longest of them, or `joined` end to end."""
    if joined and len(rows) > 1:
        batch = make_batch([end_to_end(rows)])
        return replace(batch, counts=tuple(trained_count(row) for row in rows))
    padded = collate(rows, _PADDING)
    predicts = np.zeros_like(padded.trained)
    predicts[:, :-1] = padded.trained[:, 1:]
    positions = np.flatnonzero(predicts)
    targets = padded.input_ids.reshape(-1)[positions + 1]
    counts = tuple(int(count) for count in predicts.sum(axis=1))
    tensors = (torch.from_numpy(padded.input_ids), torch.from_numpy(positions), torch.from_numpy(targets), counts)
    if not padded.packed:
        return Batch(*tensors)
    borders = _borders(rows, padded.input_ids.shape[1])
    return Batch(
        *tensors, torch.from_numpy(padded.position_ids), torch.from_numpy(padded.document_ids), torch.from_numpy(borders),
        int(np.diff(borders).max()))


def _borders(rows: Sequence[TokenRow], width: int) -> NDArray[np.int32]:
    """Give where documents and padding begin among rows padded to `width`, and the number of tokens at the end."""
    starts = [start * width + border for start, row in enumerate(rows) for border in (0, *row.borders, row.input_ids.size)]
    return np.unique(np.array([*starts, len(rows) * width], dtype=np.int32))


def trained_count(row: TokenRow) -> int:
    """Count the tokens of a row that a loss is taken of: the marked ones but the first."""
    return int(row.trained[1:].sum())


def by_length(lengths: Sequence[int], most_tokens: int, most_rows: int = 64) -> list[list[int]]:
    """Group row numbers so that rows of like length share a batch of at most `most_tokens` padded tokens.

    Longest first: what does not fit into memory shows at once. A row longer than the bound gets a batch of its own.
    """
    groups: list[list[int]] = []
    width = 0
    for number in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if groups and len(groups[-1]) < most_rows and width * (len(groups[-1]) + 1) <= most_tokens:
            groups[-1].append(number)
        else:
            groups.append([number])
            width = lengths[number]
    return groups
