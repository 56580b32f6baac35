"""How large the pieces are in which a step computes what must not exist as a whole: logits, scores of attention, an MLP's activation.

Both what computes in them (`generate.head_loss`, `generate.block_attention`, `lora.lean_mlp`) and the memory estimate ask here. Light.
"""

from __future__ import annotations

_LOGITS_AT_ONCE = 1 << 24  # 64 MB of them in float32
_FEWEST_POSITIONS = 64  # products of fewer rows are slow
_CPU_TILE = (512, 2048)  # measured: logits that stay in the cache; half or twice of either is within 10%
GATED_AT_ONCE = 1 << 18
"""Numbers of a gated MLP's activation."""
QUERIES = (64, 128)
"""Queries of a block of attention, whichever take less time: more make fewer calls, and more pairs that nobody wants."""
_FEWEST_QUERIES = 16
_SCORES_AT_ONCE = 1 << 22
"""Scores that exist at a time, where a block of the fewest queries has no more: 8 bytes each in half precision."""
_CALL_PAIRS = 8192
"""How many pairs of a query and a key take as long as a block's calls do whatever they are given."""


def head_tile(kind: str, vocabulary: int) -> tuple[int, int]:
    """Return the logits that exist at a time where the loss is taken block by block.

    Args:
        kind: Of the device.
        vocabulary: Words of the output layer.

    Returns:
        Positions, and words of the vocabulary.
    """
    return _CPU_TILE if kind == "cpu" else (max(_FEWEST_POSITIONS, _LOGITS_AT_ONCE // vocabulary), vocabulary)


def cheapest_queries(documents: int, longest: int) -> tuple[int, int]:
    """Count the pairs that attention takes in documents of so many tokens, its calls as pairs.

    Returns:
        The least count, and the queries of a block with which it is that.
    """
    return min((documents * longest * (longest + queries) // 2 + -(-longest // queries) * _CALL_PAIRS, queries) for queries in QUERIES)


def attention_tile(queries: int, each: int, keys: int) -> int:
    """Return how many queries of a block are taken at a time: fewer where their scores would be too many.

    Args:
        queries: Of a block.
        each: Query heads that share a key head.
        keys: That a query sees at most.
    """
    while queries > _FEWEST_QUERIES and each * queries * keys > _SCORES_AT_ONCE:
        queries //= 2
    return queries


def documents_at_once(scores: int) -> int:
    """Return of how many documents and key heads a block's scores are taken at a time, given those of one."""
    return max(1, _SCORES_AT_ONCE // scores)


def scores_at_once(documents: int, longest: int, heads: int, key_heads: int) -> int:
    """Count the scores of attention that exist at a time.

    Args:
        documents: Beside each other.
        longest: Tokens of the longest.
        heads: Of queries; a model without attention has none, and no scores.
        key_heads: Of keys and values.
    """
    if heads < 1 or key_heads < 1 or longest < 1:
        return 0
    each = max(1, heads // key_heads)
    one = each * min(longest, attention_tile(cheapest_queries(documents, longest)[1], each, longest)) * longest
    return one * min(documents * key_heads, documents_at_once(one))
