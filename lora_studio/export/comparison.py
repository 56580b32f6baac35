"""Comparing an artefact with what it was made from: logits on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EXACT_WITHIN = 1e-4
"""Largest logit difference at which two models count as the same function."""


@dataclass
class Comparison:
    """Running figures over positions of rows.

    Attributes:
        rows: Rows taken in.
        positions: Their positions.
        largest: Largest difference of a logit, or of a log-probability.
        agreeing: Positions whose likeliest token is the same.
        divergence: Sum over positions of KL(expected ‖ found), in nats.
        finite: Whether all were finite and of the same shape.
    """

    rows: int = 0
    positions: int = 0
    largest: float = 0.0
    agreeing: int = 0
    divergence: float = 0.0
    finite: bool = True

    @property
    def agreement(self) -> float:
        """Share of positions with the same likeliest token."""
        return self.agreeing / self.positions if self.positions else 0.0

    @property
    def kl_divergence(self) -> float:
        """Mean KL(expected ‖ found) of a position, in nats."""
        return self.divergence / self.positions if self.positions else 0.0


@dataclass
class LogitComparison(Comparison):
    """Running figures over rows of logits; all in float32 on the CPU.

    Attributes:
        error: ‖found − expected‖² over all logits.
        effect: ‖expected − base‖² over all logits, where the base's were given.
    """

    error: float = 0.0
    effect: float = 0.0

    def add(self, expected: Tensor, found: Tensor, base: Tensor | None = None) -> None:
        """Take one row in: its logits, positions × vocabulary, of base + adapter, of the artefact and, where known, of the base alone."""
        self.rows += 1
        self.positions += expected.shape[0]
        if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
            self.finite = False
            return
        self.largest = max(self.largest, float((expected - found).abs().max()))
        self.agreeing += int((expected.argmax(-1) == found.argmax(-1)).sum())
        log_expected, log_found = expected.log_softmax(-1), found.log_softmax(-1)
        self.divergence += max(0.0, float((log_expected.exp() * (log_expected - log_found)).sum(dtype=torch.float64)))
        self.error += float((found - expected).square().sum(dtype=torch.float64))
        if base is not None and base.shape == expected.shape:
            self.effect += float((expected - base).square().sum(dtype=torch.float64))

    @property
    def effect_lost(self) -> float | None:
        """‖found − expected‖ / ‖expected − base‖: the share of the adapter's effect that is not there; None where it has none."""
        return math.sqrt(self.error / self.effect) if self.effect else None


def row_logits(model: Any, rows: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Give each row's logits, positions × vocabulary, in fp32 on the CPU; one row at a time, without padding."""
    device = next(model.parameters()).device
    model.eval()
    for row in rows:
        with torch.inference_mode():
            input_ids = torch.tensor([list(row)], device=device)
            yield model(input_ids=input_ids, use_cache=False).logits[0].float().cpu()
