"""Attention for a processor: documents of like length side by side, a block of queries at a time.

PyTorch's own attention on a processor is slow in half precision: measured on two cores with bfloat16 over 1,000 and 2,000 tokens, plain
products over blocks that stay in the cache take a fifth to three quarters of the time it takes document by document. Documents of one
row are laid beside each other, so that few calls take all of them; keys and values shared by several queries' heads are multiplied once
for all of these; what lies behind a block is left out. Of the scores only the logarithm of each query's sum is kept, from which the
backward pass makes its probabilities again (as flash attention does: Dao et al., arXiv 2205.14135). Powers are of two, which processors
take in a fraction of the time of e's.

Shapes: B rows, H heads, K of keys and values (H = K·G), T tokens, D a key's width, E a value's; n documents of a group padded to L
tokens, N = K·n.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_studio.data.batching.micro_batches import cheapest_cuts
from lora_studio.planning.tiles import QUERIES, attention_tile, cheapest_queries, documents_at_once

_LOG2_E = math.log2(math.e)
_SOFTMAX_BACKWARD: Any = getattr(torch.ops.aten, "_softmax_backward_data")  # noqa: B009 (one pass over memory, where the formula is three)
_SHAPED: Any = getattr(torch.ops.aten, "_unsafe_view")  # noqa: B009 (no view of what is ours alone: some models scale it in its place)


def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: AttentionLayout,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attend causally within documents.

    Args:
        query: (B, H, T, D).
        key: (B, K, T, D).
        value: (B, K, T, E).
        layout: Of the documents among the B·T tokens.
        scale: Of the scores, above 0; None for 1/√D.
        window: A token sees itself and the `window` - 1 before it; None for all before it.

    Returns:
        (B, T, H, E), in the dtype of the products: autocast's, or the tensors' own. Scores are rounded to it; their softmax is taken
        in float32, or in float64 where that is the products' dtype.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if query.dtype == torch.float16:  # its largest number is 65,504, which products of keys and queries pass before they are scaled
        power = 2.0 ** math.floor(math.log2(scale))
        query, scale = query * power, scale / power
    window = None if window is None or window >= layout.longest else window
    with torch.autocast("cpu", enabled=False):
        found: Tensor = _BlockAttention.apply(query, key, value, layout, scale, window)  # type: ignore[no-untyped-call]
    return found


@dataclass(frozen=True)
class _Group:
    """Documents side by side.

    Attributes:
        documents: n of them.
        length: L, of the longest.
        queries: Of a block.
        places: (n·L,) the token at each place, any where a document has ended; None for all tokens in their order.
        vacant: Those places at which a document has ended.
    """

    documents: int
    length: int
    queries: int
    places: Tensor | None = None
    vacant: Tensor | None = None

    def of(self, tokens: Tensor, each: int) -> Tensor:
        """Take (K, tokens, each·D) apart into (K·n, L·each, D)."""
        placed = tokens if self.places is None else tokens.index_select(1, self.places)
        return placed.reshape(-1, self.length * each, tokens.shape[2] // each)


@dataclass(frozen=True)
class AttentionLayout:
    """How documents are laid side by side: made once for a batch, by `rows_apart` or `documents_apart`.

    Attributes:
        groups: In the order of their places.
        back: (tokens,) the place of each token; None where these are in order.
    """

    groups: tuple[_Group, ...]
    back: Tensor | None = None
    _scratch: dict[tuple[str, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def places(self) -> int:
        """Places of all groups."""
        return sum(group.documents * group.length for group in self.groups)

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(group.length for group in self.groups)

    def scratch(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Return memory to work in, the same again for the same name: new pages cost as much as what is written to them."""
        held = self._scratch.get((name, dtype))
        if held is None or held.numel() < math.prod(shape):
            held = self._scratch[name, dtype] = torch.empty(math.prod(shape), dtype=dtype)
        return held[: math.prod(shape)].view(shape)


def rows_apart(rows: int, length: int) -> AttentionLayout:
    """Take each row for one document."""
    return AttentionLayout((_Group(rows, length, cheapest_queries(rows, length)[1]),))


def documents_apart(borders: Sequence[int]) -> AttentionLayout:
    """Lay out documents, given where each begins and, last, where they end.

    Those of like length come side by side where the pairs that padding adds take less time than calls of their own.
    """
    documents = sorted(((end - start, start) for start, end in itertools.pairwise(borders)), reverse=True)
    back, groups, first = np.empty(borders[-1], dtype=np.int64), [], 0
    ends = cheapest_cuts([length for length, _ in documents], lambda number, longest: cheapest_queries(number, longest)[0])
    for start, end in itertools.pairwise([0, *ends]):
        members = documents[start:end]
        longest = members[0][0]
        within = np.arange(longest)
        places = np.concatenate([begin + within.clip(max=length - 1) for length, begin in members])
        filled = np.concatenate([within < length for length, _ in members])
        vacant = None if filled.all() else torch.from_numpy(np.flatnonzero(~filled))
        groups.append(_Group(len(members), longest, cheapest_queries(len(members), longest)[1], torch.from_numpy(places), vacant))
        back[places[filled]] = first + np.flatnonzero(filled)
        first += len(places)
    return AttentionLayout(tuple(groups), torch.from_numpy(back))


@dataclass(frozen=True)
class _Block:
    """Queries `start` to `end` of some of the N, and the keys from `first` on that any of them sees."""

    some: slice
    first: int
    start: int
    end: int
    each: int

    def queries(self, tensor: Tensor) -> Tensor:
        """Take its own out of (N, L·G, ...)."""
        return tensor[self.some, self.start * self.each : self.end * self.each]

    def keys(self, tensor: Tensor) -> Tensor:
        """Take those seen out of (N, L, ...)."""
        return tensor[self.some, self.first : self.end]


def _blocks(queries: int, own: Tensor, keys: Tensor, window: int | None) -> Iterator[_Block]:
    """Go through queries (N, L·G, D) and keys (N, L, D), so many as make no more scores at a time than are wanted."""
    number, length = keys.shape[:2]
    each = own.shape[1] // length
    queries = attention_tile(queries, each, length)
    for start in range(0, length, queries):
        end = min(start + queries, length)
        first = 0 if window is None else max(0, start - window + 1)
        step = documents_at_once(each * (end - start) * (end - first))
        for item in range(0, number, step):
            yield _Block(slice(item, item + step), first, start, end, each)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scale: float, window: int | None) -> Tensor:
        rows, heads, length = query.shape[:3]
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        whole = value.new_empty(layout.places, heads * value.shape[3])
        at, logs = 0, []
        tensors = [_by_key_head(tensor, key.shape[1]) for tensor in (query, key, value)]
        each = heads // key.shape[1]
        for group in layout.groups:
            own, keys, values = (group.of(tensor, times) for tensor, times in zip(tensors, (each, 1, 1)))
            found = values.new_empty(*own.shape[:2], values.shape[2])
            taken = _shifts(own)
            for block in _blocks(group.queries, own, keys, window):
                scores, full = _scores(layout, block, block.queries(own), block.keys(keys), window)
                shift = full.amax(-1, keepdim=True).mul_(-scale * _LOG2_E)
                powers = torch.add(shift, full, alpha=scale * _LOG2_E, out=full).exp2_()
                total = powers.sum(-1, keepdim=True)
                part = torch.bmm(_rounded(powers, scores), block.keys(values))
                block.queries(found).copy_(part.to(total.dtype).div_(total))
                torch.sub(shift, total.log2_(), out=block.queries(taken))
            if group.vacant is not None:
                taken.view(key.shape[1], -1, each).index_fill_(1, group.vacant, -math.inf)  # what stands for no token takes of nothing
            logs.append(taken)
            _put(whole, at, found, key.shape[1])
            at += group.documents * group.length
        ctx.save_for_backward(query, key, value, *logs)
        return _SHAPED(_in_order(whole, layout), [rows, length, heads, value.shape[3]])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *logs = ctx.saved_tensors
        layout, scale, key_heads = ctx.layout, ctx.scale, key.shape[1]
        each = query.shape[1] // key_heads
        inputs = (query, key, value)
        gradients = [tensor.new_empty(layout.places, tensor.shape[1] * tensor.shape[3]) for tensor in inputs]
        tensors = [_by_key_head(tensor, key_heads) for tensor in (*inputs, upstream[0].transpose(1, 2))]
        at = 0
        for group, taken in zip(layout.groups, logs):
            own, keys, values, above = (group.of(tensor, times) for tensor, times in zip(tensors, (each, 1, 1, each)))
            of_own = torch.empty_like(own)
            of_keys, of_values = (tensor.new_zeros(tensor.shape, dtype=taken.dtype) for tensor in (keys, values))
            for block in _blocks(group.queries, own, keys, ctx.window):
                # In a piece once, instead of by each product that wants them so.
                queries, seen, gradient = (part.contiguous() for part in (block.queries(own), block.keys(keys), block.queries(above)))
                scores, full = _scores(layout, block, queries, seen, ctx.window)
                torch.add(block.queries(taken), full, alpha=scale * _LOG2_E, out=full).exp2_()
                shares = _rounded(full, scores)
                block.keys(of_values).add_(torch.bmm(shares.transpose(1, 2), gradient))
                of_shares = torch.bmm(gradient, block.keys(values).transpose(1, 2), out=layout.scratch("shares", own.dtype, *shares.shape))
                of_scores = _SOFTMAX_BACKWARD(of_shares, shares, -1, shares.dtype)
                block.queries(of_own).copy_(torch.bmm(of_scores, seen))
                block.keys(of_keys).add_(torch.bmm(of_scores.transpose(1, 2), queries))
            for whole, gradient in zip(gradients, (of_own.mul_(scale), of_keys.mul_(scale), of_values)):
                _put(whole, at, gradient, key_heads)
            at += group.documents * group.length
        shaped = (
            _in_order(whole, layout).view(tensor.shape[0], tensor.shape[2], *tensor.shape[1::2]).transpose(1, 2)
            for whole, tensor in zip(gradients, inputs)
        )
        return *shaped, None, None, None


def _by_key_head(tensor: Tensor, key_heads: int) -> Tensor:
    """Return (B, H, T, D) as (K, B·T, G·D)."""
    rows, _, length, _ = tensor.shape
    return tensor.transpose(1, 2).reshape(rows * length, key_heads, -1).transpose(0, 1)


def _put(whole: Tensor, at: int, part: Tensor, key_heads: int) -> None:
    """Put a group's (K·n, L·G, E) into (places, H·E) from place `at` on."""
    by_head = part.view(key_heads, -1, whole.shape[1] // key_heads)
    whole[at : at + by_head.shape[1]].view(-1, key_heads, by_head.shape[2]).copy_(by_head.transpose(0, 1))


def _in_order(whole: Tensor, layout: AttentionLayout) -> Tensor:
    """Return (tokens, ...) of (places, ...)."""
    return whole if layout.back is None else whole.index_select(0, layout.back)


def _shifts(own: Tensor) -> Tensor:
    """Return room for what is added to each query's scores before they are taken as powers of 2."""
    return own.new_empty(*own.shape[:2], 1, dtype=own.dtype if own.dtype == torch.float64 else torch.float32)


def _scores(layout: AttentionLayout, block: _Block, queries: Tensor, seen: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """Return (some, queries·G, seen keys) in the products' dtype, and in float32 with -inf where nothing is seen."""
    shape = (*queries.shape[:2], seen.shape[1])
    scores = torch.bmm(queries, seen.transpose(1, 2), out=layout.scratch("scores", queries.dtype, *shape))
    whole = queries.dtype in (torch.float32, torch.float64)
    full = scores if whole else layout.scratch("full", torch.float32, *shape).copy_(scores)
    hidden = block.end - (block.start if window is None else block.first)  # of the last keys: all of them where a window ends among them
    hiding = _hiding(window, full.dtype)[block.start - block.end :, -hidden:]
    full.view(shape[0], -1, block.each, shape[2])[..., -hidden:].add_(hiding[:, None])
    return scores, full


def _rounded(full: Tensor, scores: Tensor) -> Tensor:
    """Return `full` in the dtype of the products, in the place of `scores`."""
    return scores if full is scores else scores.copy_(full)


@lru_cache(maxsize=8)
def _hiding(window: int | None, dtype: torch.dtype) -> Tensor:
    """Return 0 and -inf by query and key, the last key the last query's own; fewer of both are its lower right corner."""
    queries = max(QUERIES)
    keys = queries if window is None else queries + window - 1
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    unseen = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(unseen, -math.inf)
