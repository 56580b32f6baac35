"""A step's rows as the micro-batches that its device is quickest with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lora_studio.core.config import RunConfig
from lora_studio.data.batching.micro_batches import cut_by_length, cut_end_to_end
from lora_studio.data.batching.packing import PackedRows
from lora_studio.data.batching.plan import StepBatch
from lora_studio.data.token_rows import Rows, TokenRow

_PASS_TOKENS = 64  # measured: 16 tokens of a small model take 0.09 s, 64 take 0.14 s, 256 take 0.36 s
_PADDING_FREE_TOKENS = 2048
"""Measured, of a matrix product's speed: 0.52 with 510 tokens, 0.56 with 1,020, 0.62 with 2,040; a stop waits for as many."""


class MicroBatcher:
    """Cuts steps into micro-batches; whichever way, a step learns from the same tokens.

    A graphics card is quick with many tokens at once, so it takes rows, or packed blocks, as many at a time as the settings say. On a
    processor packed blocks are taken apart into their rows, and a step's rows are laid end to end, as many as fit into the tokens that the
    largest micro-batch of the settings would hold, or into about two thousand: no padding, few passes. A model
    that cannot take them so gets them padded, cut where the padding spared outweighs another pass; one whose logits padding would
    change, rows of one length at a time.

    Attributes:
        max_rows: Rows of a micro-batch at most (blocks, where these are not taken apart); halved for want of memory.
        padding_free: Whether the rows of a micro-batch are to be laid end to end.
    """

    def __init__(self, rows: Rows, config: RunConfig, device: torch.device, *, padding_free: bool, pads: bool = True) -> None:
        """Cut steps over `rows`; `padding_free` and `pads` say whether the model takes rows laid end to end, and padded."""
        self._on_cpu = device.type == "cpu"
        self._pads = pads
        self.padding_free = padding_free and self._on_cpu
        self._blocks = rows if self._on_cpu and isinstance(rows, PackedRows) else None
        self._rows = rows if self._blocks is None else self._blocks.rows
        size = config.training.per_device_train_batch_size
        self._most_tokens = size * (int(rows.lengths.max(initial=1)) if self._blocks is None else config.data.max_length)
        self.max_rows = size if self._blocks is None and not self.padding_free else self._most_tokens

    def of(self, step: StepBatch, rank: int = 0, ranks: int = 1) -> list[list[TokenRow]]:
        """Return the micro-batches of a step that one rank takes; empty ones at the end where another rank has more."""
        cuts = [self._cut(step.rows[other::ranks]) for other in range(ranks)]
        mine = [[self._rows[row] for row in piece] for piece in cuts[rank]]
        return mine + [[] for _ in range(max(map(len, cuts)) - len(mine))]

    def halve(self, rows: int) -> None:
        """Take half as many as the `rows` that were too many."""
        self.max_rows = rows // 2

    def _cut(self, chosen: Sequence[int]) -> list[tuple[int, ...]]:
        if not self._on_cpu:
            groups = [chosen] if self._pads else self._alike(chosen)
            return [tuple(group[start : start + self.max_rows]) for group in groups for start in range(0, len(group), self.max_rows)]
        blocks = self._blocks
        rows = np.array(chosen, dtype=np.int64) if blocks is None or not chosen else np.concatenate([blocks.members(b) for b in chosen])
        lengths = self._rows.lengths[rows]
        order = np.argsort(-lengths, kind="stable")
        numbers, sizes = rows[order].tolist(), lengths[order].tolist()
        if self.padding_free:
            return cut_end_to_end(numbers, sizes, self.max_rows, min(self._most_tokens, _PADDING_FREE_TOKENS))
        if not self._pads:
            return [piece for group in self._alike(numbers) for piece in self._padded(group, self._rows.lengths[group].tolist())]
        return self._padded(numbers, sizes)

    def _alike(self, rows: Sequence[int]) -> list[list[int]]:
        """Group rows by their length, from the longest down."""
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(int(self._rows.lengths[row]), []).append(row)
        return [groups[length] for length in sorted(groups, reverse=True)]

    def _padded(self, numbers: list[int], sizes: list[int]) -> list[tuple[int, ...]]:
        return cut_by_length(numbers, sizes, self.max_rows, _PASS_TOKENS, None if self._blocks is None else self._most_tokens)
