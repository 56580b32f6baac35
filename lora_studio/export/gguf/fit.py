"""Whether an adapter can be a GGUF adapter, from its file and its base's tree alone. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_studio.export.gguf.llama_families import adapter_beyond_gguf

if TYPE_CHECKING:
    from lora_studio.adapters.saved_adapter import SavedAdapter, SavedPair
    from lora_studio.core.modules import ModuleTree

OTHER_VOCABULARY = "An adapter in this format has no place for another vocabulary than its base's."


def beyond_gguf(adapter: SavedAdapter, family: str, tree: ModuleTree | None) -> str:
    """Say, as a sentence, why an adapter is more than a GGUF adapter can hold; empty where it is not.

    Args:
        adapter: The adapter.
        family: `model_type` of its base.
        tree: The base's modules, where they are known.
    """
    unknown = adapter_beyond_gguf(family)
    if unknown:
        return unknown
    if adapter.config.get("use_dora"):
        return "llama.cpp has no DoRA in adapters."
    trained = adapter.trained_whole or list(adapter.token_rows)
    if trained:
        return f"A GGUF adapter is A and B alone; this one trained {trained[0]} itself."
    if adapter.config.get("target_parameters"):
        return "Adapters on fused experts are not written as GGUF."
    told = (_beyond(pair, tree.tied_partner(pair.name) if tree else "") for pair in adapter.pairs.values())
    return next((reason for reason in told if reason), "")


def _beyond(pair: SavedPair, tied_to: str) -> str:
    if pair.bias_key:
        return "llama.cpp has no biases in adapters (lora_bias)."
    if tied_to:
        return f"{pair.name} is tied to {tied_to}; in llama.cpp they are one tensor."
    return ""
