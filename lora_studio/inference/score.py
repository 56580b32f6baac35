"""Logits on held-out rows: what an export is checked by, and what evaluation adds up."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_studio.kernels.batches import Rows, by_length, make_batch, trained_count
from lora_studio.kernels.head import SelectedHead

MOST_TOKENS = 2048


@dataclass(frozen=True)
class RowLogits:
    """What a model says about one row.

    Attributes:
        row: Number of the row, from 0.
        logits: (N, V) in float32 on the CPU, one row for each trained token, predicting it.
        targets: (N,) the trained tokens.
    """

    row: int
    logits: Tensor
    targets: Tensor


def held_out_logits(model: nn.Module, rows: Rows, check: Callable[[], None] = lambda: None) -> Iterator[RowLogits]:
    """Return the logits at every trained token of every row, in batches of like length but row by row in the rows' own order within each.

    The batches depend on the rows alone, so two models asked about the same rows are asked in the same way.

    Args:
        model: A causal language model, plain or with an adapter.
        rows: Rows as `data.prepare` gives them; one without trained tokens is passed over.
        check: Called before each batch; may raise to end.
    """
    selected = SelectedHead(model)
    for numbers in _groups(rows, pads=selected.conduct.pads):
        check()
        batch = make_batch([rows[number] for number in numbers])
        with scoring(model), selected as head:
            logits = head.logits(batch.to(next(model.parameters()).device)).float().cpu()
        start = 0
        for number, count in zip(numbers, batch.counts):
            yield RowLogits(number, logits[start : start + count], batch.targets[start : start + count])
            start += count


def loss_sums(
    model: nn.Module,
    rows: Rows,
    precision: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[tuple[float, int, int]]:
    """Return (sum of token losses, trained tokens, rows) batch by batch, so that the caller may look up in between.

    Of several ranks each takes its share of the batches. All take the same number of passes, since each may hold a part of the model
    only: one that has no batch left takes the last once more and counts nothing.
    """
    selected = SelectedHead(model)
    groups = _groups(rows, pads=selected.conduct.pads)
    for place in range(rank, math.ceil(len(groups) / ranks) * ranks, ranks):
        numbers = groups[min(place, len(groups) - 1)]
        batch = make_batch([rows[number] for number in numbers]).to(next(model.parameters()).device)
        with scoring(model), precision(), selected as head:
            total = head.loss_sum(batch)
        yield (float(total), len(batch.targets), len(numbers)) if place < len(groups) else (0.0, 0, 0)


@contextlib.contextmanager
def scoring(model: nn.Module) -> Generator[None]:
    """Put a model into eval mode without gradients; put its mode back after."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _groups(rows: Rows, *, pads: bool) -> list[list[int]]:
    useful = [number for number, row in enumerate(rows) if trained_count(row)]
    groups = by_length([rows[number].input_ids.size for number in useful], MOST_TOKENS, alike=not pads)
    return [sorted(useful[place] for place in group) for group in groups]
