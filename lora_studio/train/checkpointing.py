"""Gradient checkpointing put on a model's layers and taken off again.

Ours instead of transformers' own, which knows all layers or none. A layer's random numbers are drawn again as they were, so losses and
gradients are those of a run without, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_studio.kernels.forwards import with_forwards
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.train.interrupt import decoder_layers


def checkpointed(model: nn.Module, checkpointing: Checkpointing) -> AbstractContextManager[None]:
    """Let layers of a model keep nothing but their input, and compute the rest again in the backward pass."""
    layers = decoder_layers(model)
    chosen = [layer for number, layer in enumerate(layers) if checkpointing.recomputes(number, len(layers))]
    return with_forwards({layer: _again(layer, layer.forward) for layer in chosen})


def _again(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer's forward that computes itself again where there is a backward pass to come."""

    def run(*inputs: Any, **named: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    return run
