"""Updates of modules in factored form: ΔW = B·A with the scale in B. What can be said of them without ever making ΔW is said here.

Sums, norms, angles and singular values of low-rank matrices come from QR and Gram matrices of their factors, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_studio.adapters.saved_adapter import FIELD, AdapterTensors, SavedAdapter
from lora_studio.core.errors import InputError


@dataclass(frozen=True)
class Delta:
    """The update of one module.

    Attributes:
        b: out × r, float64, with what scales the update in it.
        a: r × in, float64.
        embedding: Whether it is an embedding's, whose weight is the transpose of B·A.
    """

    b: Tensor
    a: Tensor
    embedding: bool = False

    @property
    def rank(self) -> int:
        """Number of columns of B."""
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of B·A: out × in."""
        return int(self.b.shape[0]), int(self.a.shape[1])

    def dense(self) -> Tensor:
        """Make B·A, out × in."""
        return self.b @ self.a

    def times(self, factor: float) -> Delta:
        """Return the update times a number."""
        return Delta(self.b * factor, self.a, self.embedding)

    def inner(self, other: Delta) -> float:
        """Return ⟨ΔW, ΔW'⟩, the sum of the products of their entries."""
        return float(((self.b.T @ other.b) * (self.a @ other.a.T)).sum())

    def norm(self) -> float:
        """Return ‖ΔW‖."""
        return math.sqrt(max(0.0, self.inner(self)))

    def singular_values(self) -> Tensor:
        """Return the singular values, the largest first: as many as the rank, or as the smaller side."""
        return self._factors()[1]

    def cut(self, rank: int) -> Delta:
        """Return the nearest update of a rank; every update of that rank is at least as far away (Eckart and Young)."""
        left, values, right = self._factors()
        kept = values[:rank].sqrt()
        return Delta(left[:, :rank] * kept, kept[:, None] * right[:rank], self.embedding)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        q_b, r_b = torch.linalg.qr(self.b)
        q_a, r_a = torch.linalg.qr(self.a.T)
        left, values, right = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
        return q_b @ left, values, right @ q_a.T


def total(deltas: Sequence[Delta]) -> Delta:
    """Return the exact sum: factors beside each other, so that the ranks add up."""
    return Delta(torch.cat([delta.b for delta in deltas], dim=1), torch.cat([delta.a for delta in deltas]), deltas[0].embedding)


def rank_for_energy(values: Tensor, energy: float) -> int:
    """Return the smallest rank whose singular values hold a share of the sum of all their squares; at least 1."""
    squares = values.double().square()
    if not float(squares.sum()):
        return 1
    share = squares.cumsum(0) / squares.sum()
    return min(int((share < energy - 1e-12).sum()) + 1, len(values))


def effective_rank(values: Tensor) -> float:
    """Return the exponential of the entropy of the squared singular values' shares: how many directions carry the update.

    Source: Roy and Vetterli, "The effective rank" (2007), on squares.
    """
    squares = values.double().square()
    if not float(squares.sum()):
        return 0.0
    shares = squares / squares.sum()
    return float((-(shares * shares.clamp_min(1e-300).log()).sum()).exp())


def read_deltas(adapter: SavedAdapter) -> Iterator[tuple[str, Delta]]:
    """Return every module's update, one after the other.

    Raises:
        InputError: See `refuse_beyond_deltas`.
    """
    refuse_beyond_deltas(adapter)
    with adapter.reading() as tensors:
        for name in adapter.pairs:
            yield name, delta_of(adapter, tensors, name)


def delta_of(adapter: SavedAdapter, tensors: AdapterTensors, name: str) -> Delta:
    """Return one module's update."""
    pair = adapter.pairs[name]
    a, b = tensors.factors(name)
    return Delta(b.double() * pair.scale, a.double(), pair.embedding)


def refuse_beyond_deltas(adapter: SavedAdapter) -> None:
    """See that an adapter's A and B add up to a fixed update; what it has beside them is `adapters.carried`'s to look at.

    Raises:
        InputError: They do not.
    """
    name = str(adapter.folder)
    merge = "Merge it into its base instead."
    if adapter.changed_base:
        message = f"{name} began by changing its base (init_lora_weights {adapter.changed_base})."
        raise InputError(message, "Convert it to a plain LoRA first.", FIELD)
    if adapter.config.get("use_dora"):
        raise InputError(f"{name} is a DoRA: what it does to a weight depends on the weight, so it adds to no other.", merge, FIELD)
    if any(pair.bias_key for pair in adapter.pairs.values()):
        raise InputError(f"{name} trained biases of B (lora_bias), which are no low-rank update.", merge, FIELD)
    if adapter.config.get("target_parameters"):
        raise InputError(f"{name} has updates of fused experts, which are not taken apart here.", merge, FIELD)
