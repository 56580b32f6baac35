"""How two adapters get on, module by module: whether their updates point the same way, contradict each other, use the same directions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lora_studio.adapters.deltas import Delta

_MOST_ENTRIES = 4_000_000


@dataclass(frozen=True)
class Interference:
    """Two updates of one module.

    Attributes:
        module: Its name.
        cosine: ⟨ΔW₁, ΔW₂⟩ / ‖ΔW₁‖‖ΔW₂‖, from −1 to 1.
        sign_conflict: Share of entries in which both are not zero and of opposite sign; of very large modules, of some rows drawn evenly.
        column_overlap: Mean squared cosine of the angles between what the two write to, from 0 to 1.
        row_overlap: The same of what they read from.
        norms: ‖ΔW₁‖ and ‖ΔW₂‖.
    """

    module: str
    cosine: float
    sign_conflict: float
    column_overlap: float
    row_overlap: float
    norms: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def interference(module: str, first: Delta, second: Delta) -> Interference:
    """Compare two updates of one module."""
    norms = first.norm(), second.norm()
    size = norms[0] * norms[1]
    return Interference(
        module,
        first.inner(second) / size if size else 0.0,
        _sign_conflict(first, second),
        _overlap(first.b, second.b),
        _overlap(first.a.T, second.a.T),
        norms,
    )


def verdict(found: list[Interference]) -> str:
    """Say in a sentence how two adapters get on, each module counting by its size."""
    if not found:
        return "They adapt no module in common: combining them adds one beside the other."
    sizes = [one.norms[0] * one.norms[1] for one in found]
    whole = sum(sizes) or 1.0
    cosine = sum(one.cosine * size for one, size in zip(found, sizes, strict=True)) / whole
    against = sorted((one for one in found if one.cosine < -0.1), key=lambda one: one.cosine)
    if cosine > 0.3:
        told = "They mostly point the same way: their sum is stronger than either, so give them weights below 1."
    elif cosine < -0.1:
        told = "They pull against each other: a sum undoes part of both."
    else:
        told = "They are nearly independent: a sum keeps most of both."
    return told if not against else f"{told} They disagree most in {', '.join(one.module for one in against[:3])}."


def _sign_conflict(first: Delta, second: Delta) -> float:
    rows, columns = first.shape
    step = max(1, rows * columns // _MOST_ENTRIES)
    one, other = first.b[::step] @ first.a, second.b[::step] @ second.a
    both = (one != 0) & (other != 0)
    return float(((one.sign() != other.sign()) & both).sum()) / max(1, int(both.sum()))


def _overlap(first: Tensor, second: Tensor) -> float:
    """Compare the spaces that two matrices' columns span."""
    one, other = _basis(first), _basis(second)
    smaller = min(one.shape[1], other.shape[1])
    return float((one.T @ other).square().sum()) / smaller if smaller else 0.0


def _basis(matrix: Tensor) -> Tensor:
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, values > 1e-10 * values[:1].sum()]
