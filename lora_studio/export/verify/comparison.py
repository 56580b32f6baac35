"""Comparing an artefact with what it was made from: logits on held-out rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_LIKELIEST = 10  # tokens of a position that are compared one by one in llama.cpp, which tells no more


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
    """Running figures over rows of logits; all on the CPU, in the precision they were computed in.

    Attributes:
        error: ‖found − expected‖² over all logits.
        effect: ‖expected − base‖² over all logits, where the base's were given.
        scale: The largest logit expected.
        by_position: The largest difference at each position.
    """

    error: float = 0.0
    effect: float = 0.0
    scale: float = 0.0
    by_position: list[float] = field(default_factory=list[float])

    def add(self, expected: Tensor, found: Tensor, base: Tensor | None = None) -> None:
        """Take one row in: its logits, positions × vocabulary, of base + adapter, of the artefact and, where known, of the base alone."""
        self.rows += 1
        self.positions += expected.shape[0]
        if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
            self.finite = False
            return
        apart = (expected - found).abs().amax(-1)
        self.by_position.extend(apart.tolist())
        self.largest = max(self.largest, float(apart.max()))
        self.scale = max(self.scale, float(expected.abs().max()))
        self.agreeing += int((expected.argmax(-1) == found.argmax(-1)).sum())
        log_expected, log_found = expected.log_softmax(-1), found.log_softmax(-1)
        self.divergence += max(0.0, float((log_expected.exp() * (log_expected - log_found)).sum(dtype=torch.float64)))
        self.error += float((found - expected).square().sum(dtype=torch.float64))
        if base is not None and base.shape == expected.shape:
            self.effect += float((expected - base).square().sum(dtype=torch.float64))

    @property
    def typical(self) -> float:
        """The largest difference at a position, at half of the positions or more."""
        return statistics.median(self.by_position) if self.by_position else 0.0

    @property
    def effect_lost(self) -> float | None:
        """‖found − expected‖ / ‖expected − base‖: the share of the adapter's effect that is not there; None where it has none."""
        return math.sqrt(self.error / self.effect) if self.effect else None


@dataclass
class LlamaComparison(Comparison):
    """Running figures over positions.

    The largest difference is of llama.cpp's ten likeliest tokens, the divergence over its likeliest and one class of all others.

    Attributes:
        texts: Texts whose tokens were compared.
        split_otherwise: Those among them that llama.cpp splits into other tokens.
    """

    texts: int = 0
    split_otherwise: list[str] = field(default_factory=list[str])

    def add(self, expected: Tensor, top: Sequence[tuple[int, float]]) -> None:
        """Take one position in: all log-probabilities expected, and llama.cpp's likeliest tokens with theirs."""
        self.positions += 1
        ids = torch.tensor([number for number, _ in top])
        found = torch.tensor([value for _, value in top], dtype=torch.float64)
        if not bool(torch.isfinite(found).all()):
            self.finite = False
            return
        own = expected.double()[ids]
        self.largest = max(self.largest, float((own - found)[:_LIKELIEST].abs().max()))
        self.agreeing += int(ids[0]) == int(expected.argmax())
        rest, rest_found = max(1e-12, 1.0 - float(own.exp().sum())), max(1e-12, 1.0 - float(found.exp().sum()))
        self.divergence += max(0.0, float((own.exp() * (own - found)).sum()) + rest * math.log(rest / rest_found))

    def add_text(self, text: str, expected: Sequence[int], tokens: Sequence[int]) -> None:
        """Take one text in: the tokens it should become, and those it became."""
        self.texts += 1
        if list(tokens) != list(expected):
            self.split_otherwise.append(text)
