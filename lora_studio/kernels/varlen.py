"""Attention over documents of any length laid one behind the other, by `torch.nn.attention.varlen`, on cards that have it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

_NEEDED = (8, 0)  # flash attention's kernels begin with this compute capability
_TOLERANCE = 2e-2


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """Attend causally within documents.

    Args:
        query: (B, heads, T, D) in half precision; B·T tokens that `borders` part into documents.
        key: (B, key heads, T, D).
        value: (B, key heads, T, D).
        borders: (documents + 1,) int32, where each begins among the B·T tokens, and their number at the end.
        longest: Tokens of the longest document.
        scale: Of the scores; None for 1/√D.
        window: A token sees itself and the `window` - 1 before it; None for all before it.

    Returns:
        (B, T, heads, D).
    """
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, width = query.shape

    def flat(tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).reshape(rows * length, tensor.shape[1], width)

    seen = (-1, 0) if window is None else (window - 1, 0)
    attended: Any = varlen_attn(
        flat(query),
        flat(key),
        flat(value),
        borders,
        borders,
        longest,
        longest,
        scale=scale,
        window_size=seen,
        enable_gqa=key.shape[1] != heads,
    )
    return attended.reshape(rows, length, heads, width)


@cache
def has_varlen(device: torch.device) -> bool:
    """Return whether a device attends so, and rightly: tried out once against attention with a mask."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _NEEDED:
        return False
    try:
        return largest_error(device) <= _TOLERANCE
    except (ImportError, RuntimeError, TypeError, ValueError):
        return False


def largest_error(device: torch.device) -> float:
    """Return the largest difference from attention with a mask, over two documents and four heads that share two keys."""
    numbers = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 24, 64, generator=numbers).to(device, torch.bfloat16) for heads in (4, 2, 2))
    borders = torch.tensor([0, 10, 24], dtype=torch.int32, device=device)
    places = torch.arange(24, device=device)
    document = (places >= 10).long()
    largest = 0.0
    for window in (None, 5):
        distance = places[:, None] - places
        mask = (document[:, None] == document) & (distance >= 0) & (distance < (window or 24))
        wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)
        found = attend_varlen(query, key, value, borders, 14, None, window)
        largest = max(largest, float((found - wanted).abs().max()))
    return largest
