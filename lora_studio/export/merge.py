"""Merging an adapter into its base: W' = W + (alpha / r) · B · A, in fp32, one module at a time, then rounded once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer

from lora_studio.core.errors import StudioError


@dataclass
class RoundingLoss:
    """How much of the update is lost when merged tensors are stored in a smaller dtype."""

    dtype: torch.dtype
    update: float = 0.0
    lost: float = 0.0
    _seen: set[int] = field(default_factory=set)

    def add(self, base: torch.Tensor, merged: torch.Tensor) -> None:
        """Take one changed tensor in: before and after the merge, both fp32."""
        self.update += float((merged - base).double().square().sum())
        self.lost += float((merged.to(self.dtype).float() - merged).double().square().sum())

    @property
    def share(self) -> float:
        """‖rounded − exact‖ / ‖exact − base‖ over all tensors taken in; 0 where nothing changed."""
        return math.sqrt(self.lost / self.update) if self.update else 0.0


def merge_by_module(model: Any, loss: RoundingLoss) -> Iterator[tuple[int, int]]:
    """Merge every LoRA layer of a `PeftModel` in place, in fp32; gives (done, total) after each.

    `finish_merge` takes the wrappers off afterwards.

    Raises:
        StudioError: A layer merges to NaN or infinity, or cannot be merged.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for done, (name, layer) in enumerate(layers, start=1):
        weights = _wrapped_weights(layer)
        before = [weight.detach().clone() for weight in weights]
        try:
            layer.merge(safe_merge=True)  # type: ignore[operator]
        except ValueError as error:
            raise StudioError(f"{name} cannot be merged: {error}.", "Export the adapter instead of merging it.") from error
        for base, weight in zip(before, weights, strict=True):
            loss.add(base, weight.detach())
        yield done, len(layers)


def finish_merge(model: Any) -> Any:
    """Take PEFT's wrappers off a merged model and give the plain transformers model.

    Trained copies (`modules_to_save`) take their originals' places; a head trained apart from a tied embedding is untied.
    """
    import warnings

    with warnings.catch_warnings():
        # Each layer is merged already, which PEFT mentions once per layer.
        warnings.filterwarnings("ignore", message="Already following adapters were merged")
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        return model.merge_and_unload(safe_merge=True)


def _wrapped_weights(layer: Any) -> list[torch.Tensor]:
    """Give the base tensors a LoRA layer changes: its weight and bias, or the one parameter it was put on."""
    if hasattr(layer, "get_param"):
        return [layer.get_param()]
    base = layer.get_base_layer()
    return [tensor for tensor in (base.weight, getattr(base, "bias", None)) if tensor is not None]
