"""Several adapters of one base made into one, from their updates themselves, so that rsLoRA, ranks and alphas of their own come out right.

Methods: `cat` is the exact weighted sum; `svd` the nearest to it of a rank; `ties` (Yadav et al., arXiv 2306.01708) trims, elects signs and
averages what agrees; `dare_linear` and `dare_ties` (Yu et al., arXiv 2311.03099) drop entries at random and enlarge the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_studio.adapters.deltas import Delta, total
from lora_studio.core.errors import InputError

METHODS = ("cat", "svd", "ties", "dare_linear", "dare_ties")
DENSE_METHODS = ("ties", "dare_linear", "dare_ties")


@dataclass(frozen=True)
class Recipe:
    """How adapters are combined.

    Attributes:
        method: One of `METHODS`.
        weights: One number an adapter; may be negative.
        r: Rank of the result; None for the sum of the ranks with `cat`, and for the largest with the others.
        density: Share of entries that TIES and DARE keep.
        seed: Of DARE's choice.
    """

    method: str
    weights: tuple[float, ...]
    r: int | None = None
    density: float = 0.5
    seed: int = 0

    def check(self) -> None:
        """See that it can be followed.

        Raises:
            InputError: It cannot.
        """
        if self.method not in METHODS:
            message = f"There is no way to combine adapters called {self.method!r}."
            raise InputError(message, f"Choose one of: {', '.join(METHODS)}.", "method")
        if not 0 < self.density <= 1:
            message = f"A density of {self.density:g} keeps nothing, or more than all."
            raise InputError(message, "Give a number above 0, at most 1.", "density")
        if self.r is not None and self.r < 1:
            raise InputError(f"A rank of {self.r} holds nothing.", "Give a whole number of 1 or more.", "r")


def combined(deltas: Sequence[Delta | None], recipe: Recipe, place: int) -> Delta:
    """Combine the updates of one module.

    Args:
        deltas: One an adapter; None where an adapter leaves the module alone. At least one is there.
        recipe: How.
        place: Number of the module, from which DARE draws.
    """
    there = [(delta, weight) for delta, weight in zip(deltas, recipe.weights, strict=True) if delta is not None]
    if recipe.method in DENSE_METHODS:
        whole = dense_combination(deltas, recipe, place)
        rank = recipe.r or max(delta.rank for delta, _ in there)
        return from_dense(whole, min(rank, *whole.shape), embedding=there[0][0].embedding)
    exact = total([delta.times(weight) for delta, weight in there])
    if recipe.method == "cat" and (recipe.r is None or recipe.r >= exact.rank):
        return exact
    rank = recipe.r or max(delta.rank for delta, _ in there)
    return exact.cut(min(rank, exact.rank, *exact.shape))


def dense_combination(deltas: Sequence[Delta | None], recipe: Recipe, place: int) -> Tensor:
    """Return what the method makes of one module, out × in, before it is brought to a rank; float64."""
    shape = next(delta.shape for delta in deltas if delta is not None)
    dense = [torch.zeros(shape, dtype=torch.float64) if delta is None else delta.dense() for delta in deltas]
    if recipe.method not in DENSE_METHODS:
        return sum_of(dense, recipe.weights)
    if recipe.method == "ties":
        kept = [_largest(matrix, recipe.density) for matrix in dense]
    else:
        draws = torch.Generator().manual_seed(recipe.seed * 1_000_003 + place)
        kept = [_dropped(matrix, recipe.density, draws) for matrix in dense]
    weighted = [matrix * weight for matrix, weight in zip(kept, recipe.weights, strict=True)]
    return sum_of(weighted, [1.0] * len(weighted)) if recipe.method == "dare_linear" else _agreeing_mean(weighted)


def sum_of(matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return a weighted sum."""
    result = torch.zeros_like(matrices[0])
    for matrix, weight in zip(matrices, weights, strict=True):
        result.add_(matrix, alpha=weight)
    return result


def from_dense(matrix: Tensor, rank: int, *, embedding: bool = False) -> Delta:
    """Return the nearest update of a rank to a matrix, out × in."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = values[:rank].sqrt()
    return Delta(left[:, :rank] * kept, kept[:, None] * right[:rank], embedding)


def _largest(matrix: Tensor, density: float) -> Tensor:
    """Keep the largest entries: a share of those there are."""
    count = max(1, round(density * matrix.numel()))
    if count >= matrix.numel():
        return matrix
    kept = matrix.abs().view(-1).topk(count).indices
    result = torch.zeros_like(matrix).view(-1)
    result[kept] = matrix.reshape(-1)[kept]
    return result.view_as(matrix)


def _dropped(matrix: Tensor, density: float, draws: torch.Generator) -> Tensor:
    """Keep each entry with a chance, enlarged so that the sum is expected to stay."""
    return torch.where(torch.rand(matrix.shape, generator=draws, dtype=torch.float64) < density, matrix / density, 0.0)


def _agreeing_mean(matrices: Sequence[Tensor]) -> Tensor:
    """For each entry take the sign of the sum, and the mean of those that have it."""
    sign = sum_of(matrices, [1.0] * len(matrices)).sign()
    result, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for matrix in matrices:
        agrees = (matrix.sign() == sign) & (matrix != 0)
        result += torch.where(agrees, matrix, 0.0)
        count += agrees
    return result / count.clamp_min(1.0)
