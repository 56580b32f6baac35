"""Whether an adapter can be one of mlx-lm, from its file and its base's tree alone. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_studio.export.mlx.format import MLX_FAMILIES

if TYPE_CHECKING:
    from lora_studio.adapters.saved_adapter import SavedAdapter, SavedPair
    from lora_studio.core.modules import ModuleTree


def beyond_mlx(adapter: SavedAdapter, family: str, tree: ModuleTree | None) -> str:
    """Say, as a sentence, why an adapter is more than mlx-lm reads; empty where it is not.

    Args:
        adapter: The adapter.
        family: `model_type` of its base.
        tree: The base's modules, where they are known.
    """
    if family not in MLX_FAMILIES:
        return f"What mlx-lm calls the layers of the family {family} is not known here."
    trained = adapter.trained_whole or list(adapter.token_rows)
    if trained:
        return f"mlx-lm's adapters are A and B alone; this one trained {trained[0]} itself."
    if adapter.config.get("target_parameters"):
        return "Adapters on fused experts are not written for mlx-lm."
    told = (_beyond(pair, tree) for pair in adapter.pairs.values())
    return next((reason for reason in told if reason), "")


def _beyond(pair: SavedPair, tree: ModuleTree | None) -> str:
    module = tree.by_name.get(pair.name) if tree else None
    if pair.bias_key:
        return "mlx-lm has no biases in adapters (lora_bias)."
    if pair.magnitude_key and pair.embedding:
        return "mlx-lm's DoRA of an embedding is another function than PEFT's."
    if tree is not None and module is None:
        return f"{pair.name} is no module of this base model."
    if module is not None and module.kind == "conv1d":
        return f"mlx-lm has no adapters on layers such as {pair.name}."
    if module is not None and module.reason:
        return f"{pair.name} is {module.reason.partition(':')[0]}; in mlx-lm an adapter there acts in both places."
    return ""
