"""Attention masks for packed rows: no document sees another, and sliding windows stay.

A ready mask costs the model no look at the device; but it replaces what the model would make of its own settings, so there is one
for each kind of layer.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from lora_studio.core.errors import InputError

_FULL, _SLIDING = "full_attention", "sliding_attention"
Masks = Tensor | dict[str, Tensor]


def packed_masks(model: Any, document_ids: Tensor, dtype: torch.dtype) -> Masks:
    """Return what a model takes as `attention_mask` for rows that hold several documents.

    Args:
        model: A causal language model of transformers, or an adapter on one.
        document_ids: (B, T) document of each token; 0 on padding.
        dtype: Of the attention's scores, for models whose attention adds its mask.

    Returns:
        A (B, 1, T, T) mask, true or 0 where a token may look, or one for each kind of layer, as the model's config names them.

    Raises:
        InputError: The model has layers that carry something from token to token otherwise than by attention.
    """
    config: Any = model.config.get_text_config()
    refuse_unpackable(model)
    kinds = cast("list[str] | None", getattr(config, "layer_types", None))
    window = cast("int | None", getattr(config, "sliding_window", None))
    additive = getattr(config, "_attn_implementation", "sdpa") != "sdpa"
    if kinds is None:
        return _finished(visible(document_ids, window), dtype, additive=additive)
    return {kind: _finished(visible(document_ids, window if kind == _SLIDING else None), dtype, additive=additive) for kind in set(kinds)}


def refuse_unpackable(model: Any) -> None:
    """Raise `InputError` when packed rows would leak into each other in this model."""
    if not is_plain_attention(model):
        others = _other_kinds(model)
        what = f"layers of the kind {others[0]}" if others else "layers that are not plain attention"
        raise InputError(f"This model has {what}: rows packed together would not stay apart.", "Switch packing off.", "data.packing")


def is_plain_attention(model: Any) -> bool:
    """Return whether all layers attend to what came before, or to a window of it, and carry nothing else from token to token."""
    config: Any = model.config.get_text_config()
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    flags = ("attention_chunk_size", "use_bidirectional_attention")
    return not (_other_kinds(model) or getattr(base, "_is_stateful", False) or any(getattr(config, flag, None) for flag in flags))


def _other_kinds(model: Any) -> list[str]:
    kinds = set(cast("list[str] | None", getattr(model.config.get_text_config(), "layer_types", None)) or ())
    return sorted(kinds - {_FULL, _SLIDING})


def visible(document_ids: Tensor, window: int | None) -> Tensor:
    """Return (B, 1, T, T): whether the token of a row may look at the one of a column.

    Args:
        document_ids: (B, T) document of each token.
        window: A token sees itself and the `window` - 1 before it; None for all before it.
    """
    places = torch.arange(document_ids.shape[1], device=document_ids.device)
    distance = places[:, None] - places
    seen = distance >= 0
    if window is not None:
        seen = seen & (distance < window)
    return ((document_ids[:, :, None] == document_ids[:, None, :]) & seen)[:, None]


def _finished(visible: Tensor, dtype: torch.dtype, *, additive: bool) -> Tensor:
    if not additive:
        return visible
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)
