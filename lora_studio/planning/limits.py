"""What a base model or its dtype does not allow, told before a run and refused by it. Light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts

# Embeddings that learn a vector for each position: beyond the last there is none. Others turn or bias by distance.
_LEARNED_POSITIONS = frozenset({"wpe", "embed_positions", "position_embeddings", "embed_position"})
_HALVES = ("bfloat16", "float16")


def precision_finding(base: str, compute: str) -> Finding | None:
    """Say why weights of one dtype cannot be computed with in another; None where they can.

    Args:
        base: dtype of the base model's weights.
        compute: dtype of the matrix products.
    """
    if base not in _HALVES or compute == base:
        return None
    return Finding(
        "error",
        "precision",
        f"Computing in {compute} needs weights in float32 or {compute}, not {base}.",
        f"Set model.dtype to float32, or compute_dtype to auto or {base}.",
        "training.compute_dtype",
    )


def length_finding(facts: ModelFacts, tree: ModuleTree, longest: int) -> Finding | None:
    """Say that the longest row does not fit the positions a model was made for; None where it does, or nobody knows.

    Args:
        facts: The base model's own length.
        tree: Its modules: learned positions end there, an error; others go on less well, a warning.
        longest: Tokens of the longest row as cut.
    """
    most = facts.max_position_embeddings
    if not most or longest <= most:
        return None
    cure = f"Set max_length to {most} or less."
    if has_learned_positions(tree):
        message = f"The longest row has {longest} tokens, and the base model has positions for {most}."
        return Finding("error", "positions", message, cure, "data.max_length")
    message = f"The longest row has {longest} tokens; the base model was made for {most}."
    return Finding("warning", "positions", message, cure, "data.max_length")


def has_learned_positions(tree: ModuleTree) -> bool:
    """Return whether a model holds a vector for each position."""
    return any(module.kind == "embedding" and module.leaf_name in _LEARNED_POSITIONS for module in tree.modules)


def limit_findings(base: str, compute: str, facts: ModelFacts, tree: ModuleTree, longest: int) -> Iterator[Finding]:
    """Return all of the above that apply; `longest` is 0 where the rows are not known."""
    for found in (precision_finding(base, compute), length_finding(facts, tree, longest)):
        if found is not None:
            yield found
