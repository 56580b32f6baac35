"""Attention for a processor: a block of queries at a time, over documents of any length laid one behind the other.

PyTorch's own attention on a processor is slow in half precision: measured on two cores with bfloat16 products, its forward and backward
pass take 1.2 to 3.1 times as long as plain products over blocks small enough to stay in the cache. Keys and values shared by several
queries' heads are multiplied once for all of them, what lies behind a block is left out, and the probabilities of a block are made again
in the backward pass, so that nothing of T x T is kept.

Shapes: B rows, H heads, K of keys and values (H = K·G), T tokens, D a key's width, E a value's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

_QUERIES = 64
"""Queries of a block: measured, 32 are slower in bfloat16, 128 in float32."""
_SOFTMAX_BACKWARD: Any = getattr(torch.ops.aten, "_softmax_backward_data")  # noqa: B009 (one pass over memory, where the formula is three)


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, borders: Sequence[int] | None = None, scale: float | None = None, window: int | None = None,
) -> Tensor:
    """Attend causally within documents.

    Args:
        query: (B, H, T, D).
        key: (B, K, T, D).
        value: (B, K, T, E).
        borders: Where each document begins among the B·T tokens, and their number at the end; None takes each row for one.
        scale: Of the scores; None for 1/√D.
        window: A token sees itself and the `window` - 1 before it; None for all before it.

    Returns:
        (B, T, H, E), in the dtype of the products: autocast's, or the tensors' own. Scores are rounded to it; their softmax is taken
        in float32.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    rows, length = query.shape[0], query.shape[2]
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if borders is not None and rows > 1:  # one long row, so that a document is a stretch of it
        query, key, value = (_end_to_end(tensor) for tensor in (query, key, value))
    stretches = ((0, length),) if borders is None else tuple(itertools.pairwise(borders))
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _BlockAttention.apply(query, key, value, stretches, scale, window)  # type: ignore[no-untyped-call]
    return found.reshape(rows, length, *found.shape[2:])


def _end_to_end(tensor: Tensor) -> Tensor:
    """Give (B, H, T, D) as (1, H, B·T, D)."""
    return tensor.transpose(0, 1).flatten(1, 2)[None]


@dataclass(frozen=True)
class _Block:
    """Queries `start` to `end`, and the keys from `first` on that any of them sees."""

    first: int
    start: int
    end: int
    window: int | None

    @property
    def hidden(self) -> int:
        """How many of the last keys some of the queries do not see: all of them where a window ends among them."""
        return self.end - (self.first if self.window is not None else self.start)


def _blocks(stretches: Sequence[tuple[int, int]], window: int | None) -> Iterator[_Block]:
    for begin, end in stretches:
        for start in range(begin, end, _QUERIES):
            first = begin if window is None else max(begin, start - window + 1)
            yield _Block(first, start, min(start + _QUERIES, end), window)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, stretches: tuple[tuple[int, int], ...], scale: float, window: int | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.stretches, ctx.scale, ctx.window = stretches, scale, window
        grouped, keys, values = _grouped(query, key), _flat(key), _flat(value)
        out = value.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
        places = _places(out, key.shape[1])
        for block in _blocks(stretches, window):
            probabilities = _probabilities(block, _of(block, grouped), keys, scale)
            found = torch.bmm(probabilities, values[:, block.first : block.end])
            places[:, block.start : block.end] = _back(found, places, block)
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        grouped, keys, values = _grouped(query, key), _flat(key), _flat(value)
        of_out = _places(upstream[0], key.shape[1]).permute(0, 2, 3, 1, 4).flatten(0, 1)
        of_query = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
        places = _places(of_query, key.shape[1])
        of_keys, of_values = (torch.zeros(tensor.shape, dtype=torch.float32, device=tensor.device) for tensor in (keys, values))
        for block in _blocks(ctx.stretches, ctx.window):
            seen = slice(block.first, block.end)
            own, gradient = _of(block, grouped), _of(block, of_out)
            probabilities = _probabilities(block, own, keys, ctx.scale)
            of_values[:, seen] += torch.bmm(probabilities.transpose(1, 2), gradient)
            of_probabilities = torch.bmm(gradient, values[:, seen].transpose(1, 2))
            of_scores = _SOFTMAX_BACKWARD(of_probabilities, probabilities, -1, probabilities.dtype)
            places[:, block.start : block.end] = _back(torch.bmm(of_scores, keys[:, seen]).mul_(ctx.scale), places, block)
            of_keys[:, seen].add_(torch.bmm(of_scores.transpose(1, 2), own), alpha=ctx.scale)
        of_key, of_value = of_keys.to(key.dtype).view(key.shape), of_values.to(value.dtype).view(value.shape)
        return of_query.transpose(1, 2), of_key, of_value, None, None, None


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """Give (B·K, G, T, D): queries by the keys they share."""
    rows, heads, length, width = query.shape
    return query.reshape(rows * key.shape[1], heads // key.shape[1], length, width)


def _flat(tensor: Tensor) -> Tensor:
    """Give (B·K, T, D)."""
    return tensor.flatten(0, 1).contiguous()


def _places(out: Tensor, key_heads: int) -> Tensor:
    """Give (B, T, H, E) seen as (B, T, K, G, E)."""
    return out.unflatten(2, (key_heads, -1))


def _of(block: _Block, grouped: Tensor) -> Tensor:
    """Give a block's (B·K, G·n, D)."""
    return grouped[:, :, block.start : block.end].flatten(1, 2)


def _back(found: Tensor, places: Tensor, block: _Block) -> Tensor:
    """Give (B·K, G·n, E) as (B, n, K, G, E)."""
    return found.view(places.shape[0], *places.shape[2:4], block.end - block.start, -1).permute(0, 3, 1, 2, 4)


def _probabilities(block: _Block, own: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Give (B·K, G·n, seen keys): what each query takes of each key."""
    queries = block.end - block.start
    scores = torch.bmm(own * scale, keys[:, block.first : block.end].transpose(1, 2))
    hiding = _hiding(queries, block.hidden, block.window, scores.dtype)
    scores.unflatten(1, (-1, queries))[..., -block.hidden :].add_(hiding)
    return torch.softmax(scores, dim=-1)


def _hiding(queries: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Give (queries, keys) of 0 and -inf; the last key is the last query's own."""
    if window is None:
        return _later(dtype)[:queries, :keys]
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_((distance < 0) | (distance >= window), -math.inf)


@cache
def _later(dtype: torch.dtype) -> Tensor:
    return torch.full((_QUERIES, _QUERIES), -math.inf, dtype=dtype).triu_(1)
